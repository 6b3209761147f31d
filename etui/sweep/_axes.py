"""The axes of a sweep: parsed or chosen, checked against the machine, and made into settings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import cast, get_args

from etui.arm import Speculate
from etui.engine.offload import Placement, fits_on_gpus, gpu_bytes
from etui.engine.session_loader import resolve_flash_attention
from etui.errors import UsageError
from etui.models.spec import (
    LEAST_BATCH_TOKENS,
    MOST_BATCH_TOKENS,
    MOST_DRAFT_TOKENS,
    MOST_THREADS,
    FlashAttention,
    KvType,
    SplitMode,
)
from etui.sweep._machine import DRAFTERS, MachineFacts, PowerRange, SweptModel, round_watts
from etui.sweep.config import AXES, Axis, AxisName, Setting, Value
from etui.text import did_you_mean, suggest
from etui.units import bytes_text, count_text

MOST_SETTINGS = 200  # Most combinations of a sweep: one round of the race measures each of them

MOST_ON_CPU, MOST_ON_GPU = 16, 40
"""Most combinations of the default axes: a GPU computes a visit in seconds."""

POWER_SHARES = (0.5, 0.7, 0.85, 1.0)
"""Power limits to compare, as shares of the default: the knee of most GPUs is between them."""

Values = Mapping[AxisName, Value]

_WORDS: dict[AxisName, tuple[str, ...]] = {
    "kv_type": get_args(KvType),
    "flash_attention": get_args(FlashAttention),
    "split": get_args(SplitMode),
    "speculate": get_args(Speculate),
    "gpu_layers": ("all",),
    "cpu_moe": ("all",),
    "draft_tokens": ("auto",),
}
"""Axis -> the words that it takes."""

_RANGES: dict[AxisName, tuple[int, int]] = {
    "threads": (1, MOST_THREADS),
    "decode_threads": (1, MOST_THREADS),
    "prefill_threads": (1, MOST_THREADS),
    "batch_tokens": (LEAST_BATCH_TOKENS, MOST_BATCH_TOKENS),
    "gpu_layers": (0, 100_000),
    "cpu_moe": (0, 100_000),
    "draft_tokens": (1, MOST_DRAFT_TOKENS),
}
"""Axis -> the least and the most of the whole numbers that it takes."""

_SAVINGS: tuple[tuple[tuple[AxisName, ...], int], ...] = (
    (("batch_tokens",), 0),
    (("flash_attention",), 0),
    (("threads", "decode_threads"), 2),
    (("power_limit",), 3),
    (("kv_type",), 0),
    (("split",), 0),
)
"""What to do, in this order, while the grid is too large: keep so many last values of an axis."""

_EXAMPLE = "write it as in --axis threads=1,2,4"
_SHOWN = 40
_WATTS = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*W?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_MODEL_CHARACTERS = 4096
_GPU_BATCHES = (256, 512, 1024)
_MOST_PRODUCT = 20_000  # Most combinations to look at, the impossible ones included


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Parse axes such as ``threads=1,2,4``, in the order given."""
    axes: list[Axis] = []
    for text in texts:
        axis = _parse_axis(text)
        if any(axis.name == other.name for other in axes):
            raise UsageError(f"--axis {axis.name} is given twice", "give all its values in one")
        axes.append(axis)
    return tuple(axes)


def _parse_axis(text: str) -> Axis:
    name, equals, listed = (part.strip() for part in text.partition("="))
    shown = name[:_SHOWN] if name.isprintable() else repr(name[:_SHOWN])
    if not name:
        raise UsageError(f"--axis {text[:_SHOWN]!r} names no axis", _EXAMPLE)
    axis = cast(AxisName, name.casefold().replace("-", "_"))
    if axis not in AXES:
        near = did_you_mean(name.replace("-", "_"), AXES, listed=0)
        raise UsageError(
            f"--axis {shown}: there is no such axis{near}", f"the axes are {', '.join(AXES)}"
        )
    pieces = [piece.strip() for piece in listed.split(",")]
    if not equals or pieces == [""]:
        raise UsageError(f"--axis {axis} has no values", f"it takes {_describe_values(axis)}")
    if "" in pieces:
        raise UsageError(f"--axis {axis} has an empty value", _EXAMPLE)
    values = tuple(_parse_value(axis, piece) for piece in pieces)
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise UsageError(f"--axis {axis}: {twice} is given twice", "give each value once")
    return Axis(axis, values)


def _describe_values(axis: AxisName) -> str:
    """Describe the values that an axis takes, for an error message."""
    if axis == "model":
        return "names of models, which `etui models list` shows"
    if axis == "power_limit":
        return "watts above 0"
    words = _WORDS.get(axis, ())
    if axis not in _RANGES:
        return " or ".join((", ".join(words[:-1]), words[-1]))
    numbers = f"whole numbers from {_RANGES[axis][0]:,} to {_RANGES[axis][1]:,}"
    return " or ".join((*words, numbers))


def _parse_value(axis: AxisName, text: str) -> Value:
    words = _WORDS.get(axis, ())
    if axis == "model":
        if len(text) <= _MODEL_CHARACTERS and text.isprintable():
            return text
    elif axis == "power_limit":
        match = _WATTS.fullmatch(text)
        if match is not None and math.isfinite(watts := float(match[1])) and watts > 0:
            return round_watts(watts)
    elif text.casefold() in words:
        return text.casefold()
    elif axis in _RANGES and _NUMBER.fullmatch(text):
        least, most = _RANGES[axis]
        if least <= int(text) <= most:
            return int(text)
    near = "" if axis in _RANGES else did_you_mean(text, words, listed=0)
    shown = text if len(text) <= _SHOWN and text.isprintable() else f"{text[:_SHOWN]!r}…"
    raise UsageError(
        f"--axis {axis}: {shown} is not a value of this axis{near}",
        f"it takes {_describe_values(axis)}",
    )


def check_axes(axes: Sequence[Axis], facts: MachineFacts) -> tuple[Axis, ...]:
    """Check that this machine and its models can have every value of the axes.

    A value that only some of the compared models can have is allowed: the grid leaves the others
    out.
    """
    models = _check_models(axes, facts)
    _check_together({axis.name: axis for axis in axes}, facts)
    for axis in axes:
        for value in () if axis.name == "model" else axis.values:
            reasons = [_refuse_value(axis.name, value, model, facts) for model in models]
            if reasons[0] is not None and None not in reasons:
                raise UsageError(f"--axis {axis.name}={value}: {reasons[0][0]}", reasons[0][1])
    grid = build_grid(axes, facts)
    if len(grid.settings) < 2:
        raise _refuse_single(axes, grid)
    return tuple(axes)


def _check_models(axes: Sequence[Axis], facts: MachineFacts) -> tuple[SweptModel, ...]:
    """Return the models that are compared."""
    axis = next((axis for axis in axes if axis.name == "model"), None)
    names: tuple[Value, ...] = (facts.model,) if axis is None else axis.values
    for name in map(str, names):
        if name in facts.models:
            continue
        if name in facts.known_models:
            raise UsageError(
                f"--axis model={name}: its file is not on this machine, or cannot be used",
                f"pull it with `etui models pull {name}`; `etui models info {name}` says more",
            )
        near = suggest(name.lower(), facts.known_models, most=3, cutoff=0.5, quoted=False)
        raise UsageError(
            f"--axis model: no model is called {name!r}",
            f"{near} `etui models list` shows all of them, `etui models pull NAME` downloads "
            "one".lstrip(),
        )
    return tuple(facts.models[str(name)] for name in names)


def _check_together(axes: dict[AxisName, Axis], facts: MachineFacts) -> None:
    """Refuse axes that contradict each other, and those that change nothing."""
    if "threads" in axes and "decode_threads" in axes:
        raise UsageError(
            "--axis threads sets the threads of decode, and so does --axis decode_threads",
            "give decode_threads and prefill_threads, or threads alone",
        )
    decode, prefill = facts.current["decode_threads"], facts.current["prefill_threads"]
    if "threads" in axes and "prefill_threads" not in axes and decode != prefill:
        raise UsageError(
            f"{facts.model} has {decode} threads for decode and {prefill} for prefill now, which "
            "--axis threads would set to the same number",
            "give decode_threads and prefill_threads instead",
        )
    methods: tuple[Value, ...] = (facts.current["speculate"],)
    if "speculate" in axes:
        methods = axes["speculate"].values
    if "draft_tokens" in axes and set(methods) == {"off"}:
        raise UsageError(
            "--axis draft_tokens has no effect with speculate=off",
            "add --axis speculate=off,lookup",
        )
    if facts.shape.reads_letters and {"decode_threads", "draft_tokens"} & axes.keys():
        raise UsageError(
            "a choice readout decodes nothing, so that decode_threads and draft_tokens have no "
            "effect",
            "give prefill_threads or batch_tokens",
        )
    power = facts.power
    if "power_limit" in axes and power is not None and power.watts is None:
        now = [f"{watts:g} W" for watts in power.current if watts is not None]
        if len(now) < 2:
            raise UsageError(
                "the power limit of now cannot be read, so it could not be restored",
                "leave out this axis",
            )
        raise UsageError(
            f"the power limits of {', '.join(power.labels)} differ now: {', '.join(now)}",
            "set them to one value first: the baseline has one limit for all devices",
        )


def _refuse_single(axes: Sequence[Axis], grid: SettingGrid) -> UsageError:
    what = "there is only one combination"
    if grid.settings and grid.settings[0].values:
        what += f", {grid.settings[0].key}, which is in use now"
    if grid.notes:
        what += f" ({'; '.join(grid.notes)})"
    if not axes:
        return UsageError(what, "give an axis with other values, such as --axis threads=1,2")
    first = axes[0].name
    return UsageError(what, f"give another value of {first}: it takes {_describe_values(first)}")


def _refuse_value(
    axis: AxisName, value: Value, model: SweptModel, facts: MachineFacts
) -> tuple[str, str] | None:
    """Return why a model cannot have a value here (but of ``model``), and what to do; else None."""
    if axis in ("threads", "decode_threads", "prefill_threads") and int(value) > facts.cpus:
        cpus = "1 CPU" if facts.cpus == 1 else f"{facts.cpus} CPUs"
        return f"etui may run on {cpus}", f"give at most {facts.cpus}"
    if axis == "gpu_layers" and value != "all" and int(value) > model.layers:
        return f"{model.name} has {model.layers} layers", "give at most that number, or all"
    if axis == "gpu_layers" and value != 0 and not facts.gpus:
        return "llama.cpp sees no GPU", "`etui doctor` says which GPUs it sees; leave out this axis"
    if axis == "cpu_moe" and value != 0 and model.mixture is None:
        return f"{model.name} is no mixture of experts", "leave out this axis"
    if axis == "cpu_moe" and value != "all" and int(value) >= model.layers:
        return f"{model.name} has {model.layers - 1} blocks", "give at most that number, or all"
    if axis == "cpu_moe" and value != 0 and not facts.gpus:
        return "llama.cpp sees no GPU, so that the experts are in RAM", "leave out this axis"
    if axis == "split" and len(facts.gpus) < 2:
        return "a split needs several GPUs", "leave out this axis"
    if axis == "speculate" and value != "off":
        return _refuse_method(str(value), model, facts)
    if axis == "power_limit":
        return _refuse_watts(float(value), facts.power)
    return None


def _refuse_method(method: str, model: SweptModel, facts: MachineFacts) -> tuple[str, str] | None:
    if facts.shape.sequences > 1:
        return "votes are never speculated", "leave out this axis"
    if facts.shape.reads_letters:
        return "a choice readout decodes nothing", "leave out this axis"
    obstacles = model.obstacles
    if method not in obstacles:
        return None
    usable = [each for each in DRAFTERS if each not in obstacles]
    return obstacles[method], f"use off or {' or '.join(usable)}" if usable else "use off"


def _refuse_watts(watts: float, power: PowerRange | None) -> tuple[str, str] | None:
    if power is None:
        return (
            "no swept device has a power limit that can be read",
            "`etui doctor` says which limits there are; leave out this axis",
        )
    low, high = power.min_watts, power.max_watts
    if (low is None or watts >= low) and (high is None or watts <= high):
        return None
    names = ", ".join(power.labels)
    if low is not None and high is not None:
        return f"{names} takes {low:g} to {high:g} W", "give watts within that range"
    if low is not None:
        return f"{names} takes at least {low:g} W", f"give at least {low:g}"
    return f"{names} takes at most {high:g} W", f"give at most {high:g}"


@dataclass(frozen=True, slots=True)
class SettingGrid:
    """The combinations of a sweep."""

    settings: tuple[Setting, ...]  # Those to compare, the baseline first
    notes: tuple[str, ...] = ()
    """Which combinations were left out, and why: one line for each reason."""


def build_grid(axes: Sequence[Axis], facts: MachineFacts) -> SettingGrid:
    """Build every combination of the axes that is possible, each once.

    Combinations that compute the same are one: with ``speculate=off`` every depth of drafts is the
    same. The baseline, which has the values in use now, comes first, in any case.
    """
    size = math.prod(len(axis.values) for axis in axes)
    if size <= _MOST_PRODUCT:
        grid = _combine(axes, facts)
        size = len(grid.settings)
    if size > MOST_SETTINGS:
        raise UsageError(
            f"the axes have {size:,} combinations, more than {MOST_SETTINGS}",
            "give fewer axes, or fewer values of each",
        )
    return grid


def _combine(axes: Sequence[Axis], facts: MachineFacts) -> SettingGrid:
    ordered = sorted(axes, key=lambda axis: AXES.index(axis.name))
    names = [axis.name for axis in ordered]
    baseline = {name: facts.current[name] for name in names}

    def freeze(values: Values) -> frozenset[tuple[AxisName, Value]]:
        return frozenset(resolve_values(values, facts).items())

    kept: dict[frozenset[tuple[AxisName, Value]], Values] = {freeze(baseline): baseline}
    impossible: Counter[str] = Counter()
    same = 0
    for values in product(*(axis.values for axis in ordered)):
        chosen = dict(zip(names, values, strict=True))
        if obstacle := _find_obstacle(chosen, facts):
            impossible[obstacle] += 1
        else:
            same += kept.setdefault(freeze(chosen), chosen) != chosen
    notes = [
        f"left out {count_text(count, 'combination')}: {why}" for why, count in impossible.items()
    ]
    if same:
        notes.append(f"left out {count_text(same, 'combination')}: the same as another one")
    notes += _note_flash({axis.name: axis.values for axis in axes}, facts)
    return SettingGrid(tuple(Setting(tuple(one.items())) for one in kept.values()), tuple(notes))


def _note_flash(values: Mapping[AxisName, tuple[Value, ...]], facts: MachineFacts) -> Iterator[str]:
    """Note that a quantised cache changes the attention too, where that is no axis."""
    if "flash_attention" in values or facts.current["flash_attention"] == "on":
        return
    quantised = [str(kv) for kv in values.get("kv_type", ()) if kv != "f16"]
    if quantised:
        yield (
            f"flash attention is on with kv_type={','.join(quantised)}, which needs it, and not in "
            "the baseline; --axis flash_attention=off,on separates the two effects"
        )


def _find_obstacle(values: Values, facts: MachineFacts) -> str:
    """Return why a combination is impossible; empty if it is possible."""
    model = facts.models[str(values.get("model", facts.model))]
    for axis, value in values.items():
        if axis != "model" and (refused := _refuse_value(axis, value, model, facts)) is not None:
            return f"{axis}={value}: {refused[0]}"
    kv_type = values.get("kv_type", model.values["kv_type"])
    if kv_type != "f16" and values.get("flash_attention") == "off":
        return f"kv_type={kv_type} needs flash attention"
    placement = _resolve_placement(values, model)
    if "cpu_moe" in values and model.mixture is not None and placement.gpu_layers:
        mixture = model.mixture
        if not fits_on_gpus(mixture.need, placement, mixture.usable_bytes):
            needed = bytes_text(gpu_bytes(mixture.need, placement))
            return f"they need {needed} of {bytes_text(mixture.usable_bytes)} free on the GPUs"
    return ""


def _resolve_placement(values: Values, model: SweptModel) -> Placement:
    """Resolve where layers and experts are: as numbers, and without experts of blocks in RAM."""
    layers = values.get("gpu_layers", model.values["gpu_layers"])
    on_gpu = model.layers if layers == "all" else min(int(layers), model.layers)
    experts = values.get("cpu_moe", model.values["cpu_moe"])
    in_ram = model.layers - 1 if experts == "all" else min(int(experts), model.layers - 1)
    return Placement(on_gpu, in_ram if on_gpu and in_ram > model.layers - on_gpu else 0)


def resolve_values(values: Values, facts: MachineFacts) -> dict[AxisName, Value]:
    """Resolve a combination to what it computes: equal results compute the same.

    ``threads`` becomes the threads of both phases, ``flash_attention=auto`` what it chooses, layers
    on a GPU a number; the depth of drafts is left out without speculation, and the split without
    layers on a GPU.
    """
    model = facts.models[str(values.get("model", facts.model))]
    found: dict[AxisName, Value] = {}
    placement = _resolve_placement(values, model)
    if "gpu_layers" in values:
        found["gpu_layers"] = placement.gpu_layers
    if "cpu_moe" in values:
        found["cpu_moe"] = placement.cpu_moe
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


def choose_default_axes(facts: MachineFacts) -> tuple[Axis, ...]:
    """Choose axes for the machine found: those that usually change joules, in a grid that is small.

    Every axis has at least two values that this model can have, the value in use now included.
    """
    is_gpu = facts.swept_device == "gpu"
    axes = _add_current(_list_gpu_axes(facts) if is_gpu else _list_cpu_axes(facts), facts)
    most = MOST_ON_GPU if is_gpu else MOST_ON_CPU
    for names, kept in _SAVINGS:
        if len(_combine(axes, facts).settings) <= most:
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
        yield Axis("power_limit", _choose_power_limits(facts.power))
    yield Axis("batch_tokens", _GPU_BATCHES)
    yield Axis("flash_attention", ("auto", "off"))
    fitting, layers = facts.baseline.fitting_layers, facts.baseline.layers
    mixture = facts.baseline.mixture
    if mixture is not None and fitting < layers:
        # All layers with what fits of the experts, against whole layers, and against none.
        yield Axis("gpu_layers", (*sorted({0, fitting}), "all"))
        yield Axis("cpu_moe", (0, mixture.least_cpu_moe))
    else:
        # Of a model that does not fit: as many layers as fit, and three quarters of them.
        partial = tuple(sorted({fitting * 3 // 4, fitting}))
        yield Axis("gpu_layers", ("all",) if fitting >= layers else partial)
    if len(facts.gpus) > 1:
        yield Axis("split", ("layer", "row"))
    yield from _list_speculation(facts)


def _choose_power_limits(power: PowerRange) -> tuple[Value, ...]:
    """Choose power limits: shares of the default within the range, rounded to whole watts."""
    full = power.default_watts or power.max_watts or power.watts
    if full is None:
        return ()
    low, high = power.min_watts or 1.0, power.max_watts or full
    watts = [min(max(round(full * share), low), high) for share in POWER_SHARES]
    return tuple(sorted({round_watts(each) for each in watts}))


def _list_speculation(facts: MachineFacts) -> Iterator[Axis]:
    if facts.shape.sequences > 1 or facts.shape.reads_letters:
        return
    methods = [method for method in DRAFTERS if method not in facts.baseline.obstacles]
    if methods:
        yield Axis("speculate", ("off", *methods))
