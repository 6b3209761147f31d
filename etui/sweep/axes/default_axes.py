"""The axes that are worth a look on this machine, if the user names none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from etui.sweep.axes.grid import count_settings
from etui.sweep.axes.machine_facts import DRAFTERS, MachineFacts, PowerRange, round_watts
from etui.sweep.setting import AXES, Axis, AxisName, Value

if TYPE_CHECKING:
    from etui.sweep.axes.machine_facts import SweptModel

MOST_ON_CPU, MOST_ON_GPU = 16, 40
"""Most combinations of the default axes: a GPU computes a visit in seconds."""

POWER_SHARES = (0.5, 0.7, 0.85, 1.0)
"""Power limits to compare, as shares of the default: the knee of most GPUs is between them."""

_GPU_BATCHES = (256, 512, 1024)

_SAVINGS: tuple[tuple[tuple[AxisName, ...], int], ...] = (
    (("batch_tokens",), 0),
    (("flash_attention",), 0),
    (("threads", "decode_threads"), 2),
    (("power_limit",), 3),
    (("kv_type",), 0),
    (("split",), 0),
)
"""What to do, in this order, while the grid is too large: keep so many last values of an axis."""


def choose_default_axes(facts: MachineFacts) -> tuple[Axis, ...]:
    """Choose axes for the machine found: those that usually change joules, in a grid that is small.

    Every axis has at least two values that this model can have, the value in use now included.
    """
    chosen = _list_gpu_axes(facts) if facts.uses_gpu else _list_cpu_axes(facts)
    axes = _add_current(chosen, facts)
    most = MOST_ON_GPU if facts.uses_gpu else MOST_ON_CPU
    for names, kept in _SAVINGS:
        if count_settings(axes, facts) <= most:
            break
        shorter = [
            replace(axis, values=axis.values[len(axis.values) - kept :])
            if axis.name in names and len(axis.values) > kept
            else axis
            for axis in axes
        ]
        axes = _add_current((axis for axis in shorter if axis.values), facts)
    return tuple(sorted(axes, key=lambda axis: AXES.index(axis.name)))


def _add_current(axes: Iterable[Axis], facts: MachineFacts) -> tuple[Axis, ...]:
    """Add the value in use now to each axis, and leave out those with nothing to compare."""
    found = []
    for axis in axes:
        together = tuple(dict.fromkeys((*axis.values, facts.current[axis.name])))
        if all(isinstance(value, int | float) for value in together):
            together = tuple(sorted(together, key=float))
        if len(together) > 1:
            found.append(Axis(axis.name, together))
    return tuple(found)


def _list_cpu_axes(facts: MachineFacts) -> Iterator[Axis]:
    threads = sorted({1, max(1, facts.cores // 2), facts.cores})
    both = facts.current["decode_threads"] == facts.current["prefill_threads"]
    yield Axis("threads" if both else "decode_threads", tuple(threads))
    yield Axis("kv_type", ("f16", "q8_0"))
    yield Axis("flash_attention", ("off", "on"))
    yield from _list_speculation(facts)


def _list_gpu_axes(facts: MachineFacts) -> Iterator[Axis]:
    if facts.power is not None and facts.power.can_set and facts.power.watts is not None:
        yield Axis("power_limit", choose_power_limits(facts.power))
    yield Axis("batch_tokens", _GPU_BATCHES)
    yield Axis("flash_attention", ("auto", "off"))
    yield Axis("gpu_layers", _choose_layers(facts.baseline))
    if len(facts.gpus) > 1:
        yield Axis("split", ("layer", "row"))
    yield from _list_speculation(facts)


def choose_power_limits(power: PowerRange) -> tuple[Value, ...]:
    """Choose power limits: shares of the default within the range, rounded to whole watts."""
    full = power.default_watts or power.max_watts or power.watts
    if full is None:
        return ()
    low, high = power.min_watts or 1.0, power.max_watts or full
    watts = [min(max(round(full * share), low), high) for share in POWER_SHARES]
    return tuple(sorted({round_watts(each) for each in watts}))


def _choose_layers(model: SweptModel) -> tuple[Value, ...]:
    """Choose all layers; if they do not fit, those that fit and three quarters of them."""
    fitting = model.fitting_layers
    if fitting >= model.layers:
        return ("all",)
    return tuple(sorted({fitting * 3 // 4, fitting}))


def _list_speculation(facts: MachineFacts) -> Iterator[Axis]:
    if facts.shape.sequences > 1 or facts.shape.reads_letters:
        return
    methods = [method for method in DRAFTERS if method not in facts.baseline.obstacles]
    if methods:
        yield Axis("speculate", ("off", *methods))
