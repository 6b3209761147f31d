"""The grid of a sweep: every combination that is possible, each once, the baseline first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from etui.engine.load_settings import resolve_flash_attention
from etui.errors import UsageError
from etui.sweep.axes.axis_values import refuse_value
from etui.sweep.setting import AXES, Axis, AxisName, Setting, Value
from etui.units import count_text

if TYPE_CHECKING:
    from etui.sweep.axes.machine_facts import MachineFacts, SweptModel

MOST_SETTINGS = 200
"""Most combinations of a sweep: one round of the race measures each of them."""

_MOST_PRODUCT = 20_000
"""Most combinations to look at, the impossible ones included."""

Values = Mapping[AxisName, Value]


@dataclass(frozen=True, slots=True)
class SettingGrid:
    """The combinations of a sweep."""

    settings: tuple[Setting, ...]  # Those to compare, the baseline first
    notes: tuple[str, ...] = ()
    """Which combinations were left out, and why: one line for each reason."""


@dataclass(frozen=True, slots=True)
class _Sorted:
    """All combinations: those to compare, and how many were left out for which reason."""

    kept: tuple[Values, ...]
    impossible: Counter[str]
    same: int


def build_grid(axes: Sequence[Axis], facts: MachineFacts) -> SettingGrid:
    """Build every combination of the axes that is possible, each once.

    Combinations that compute the same are one: with ``speculate=off`` every depth of drafts is the
    same. The baseline, which has the values in use now, comes first, and is added if the axes do
    not contain it.

    Args:
        axes: Axes that :func:`etui.sweep.axes.axis_options.check_axes` has accepted.

    Raises:
        UsageError: There are more than ``MOST_SETTINGS``.
    """
    size = math.prod(len(axis.values) for axis in axes)
    if size > _MOST_PRODUCT:
        raise _refuse_size(size)
    found = _sort_combinations(axes, facts)
    if len(found.kept) > MOST_SETTINGS:
        raise _refuse_size(len(found.kept))
    notes = [
        f"left out {count_text(count, 'combination')}: {why}"
        for why, count in found.impossible.items()
    ]
    if found.same:
        notes.append(f"left out {count_text(found.same, 'combination')}: the same as another one")
    notes += _note_flash(axes, facts)
    settings = tuple(Setting(tuple(values.items())) for values in found.kept)
    return SettingGrid(settings, tuple(notes))


def count_settings(axes: Sequence[Axis], facts: MachineFacts) -> int:
    """Count the combinations of the grid; it may be too large to be measured."""
    return len(_sort_combinations(axes, facts).kept)


def _sort_combinations(axes: Sequence[Axis], facts: MachineFacts) -> _Sorted:
    ordered = sorted(axes, key=lambda axis: AXES.index(axis.name))
    names = [axis.name for axis in ordered]
    baseline = {name: facts.current[name] for name in names}
    kept: dict[frozenset[tuple[AxisName, Value]], Values] = {_freeze(baseline, facts): baseline}
    impossible: Counter[str] = Counter()
    same = 0
    for values in product(*(axis.values for axis in ordered)):
        chosen = dict(zip(names, values, strict=True))
        if obstacle := find_obstacle(chosen, facts):
            impossible[obstacle] += 1
        else:
            same += kept.setdefault(_freeze(chosen, facts), chosen) != chosen
    return _Sorted(tuple(kept.values()), impossible, same)


def _note_flash(axes: Sequence[Axis], facts: MachineFacts) -> Iterator[str]:
    """Note that a quantised cache changes the attention too, where that is no axis."""
    values = {axis.name: axis.values for axis in axes}
    if "flash_attention" in values or facts.current["flash_attention"] == "on":
        return
    quantised = [str(kv) for kv in values.get("kv_type", ()) if kv != "f16"]
    if quantised:
        yield (
            f"flash attention is on with kv_type={','.join(quantised)}, which needs it, and not in "
            "the baseline; --axis flash_attention=off,on separates the two effects"
        )


def _refuse_size(count: int) -> UsageError:
    return UsageError(
        f"the axes have {count:,} combinations, more than {MOST_SETTINGS}",
        "give fewer axes, or fewer values of each",
    )


def find_obstacle(values: Values, facts: MachineFacts) -> str:
    """Return why a combination is impossible; empty if it is possible."""
    model = facts.models[str(values.get("model", facts.model))]
    for axis, value in values.items():
        if axis != "model" and (refused := refuse_value(axis, value, model, facts)) is not None:
            return f"{axis}={value}: {refused[0]}"
    kv_type = values.get("kv_type", model.values["kv_type"])
    if kv_type != "f16" and values.get("flash_attention") == "off":
        return f"kv_type={kv_type} needs flash attention"
    return ""


def _freeze(values: Values, facts: MachineFacts) -> frozenset[tuple[AxisName, Value]]:
    return frozenset(resolve_values(values, facts).items())


def resolve_values(values: Values, facts: MachineFacts) -> dict[AxisName, Value]:
    """Resolve a combination to what it computes: equal results compute the same.

    ``threads`` becomes the threads of both phases, ``flash_attention=auto`` what it chooses, layers
    on a GPU a number; the depth of drafts is left out without speculation, and the split without
    layers on a GPU.
    """
    model = facts.models[str(values.get("model", facts.model))]
    found = dict(_resolve_layers(values, model))
    for name, value in values.items():
        if name == "threads":
            found.setdefault("prefill_threads", value)
            found["decode_threads"] = value
        elif name in ("prefill_threads", "decode_threads") or name not in found:
            found[name] = value
    on_gpu = bool(facts.gpus) and found.get("gpu_layers", model.values["gpu_layers"]) != 0
    kv_type = values.get("kv_type", model.values["kv_type"])
    flash = values.get("flash_attention", model.values["flash_attention"])
    if "kv_type" in values or "flash_attention" in values:
        found["flash_attention"] = resolve_flash_attention(str(flash), str(kv_type), on_gpu=on_gpu)
    if values.get("speculate", facts.current["speculate"]) == "off":
        found.pop("draft_tokens", None)
    if not on_gpu:
        found.pop("split", None)
    return found


def _resolve_layers(values: Values, model: SweptModel) -> Iterator[tuple[AxisName, Value]]:
    layers = values.get("gpu_layers")
    if layers is not None:
        yield "gpu_layers", model.layers if layers == "all" else min(int(layers), model.layers)
