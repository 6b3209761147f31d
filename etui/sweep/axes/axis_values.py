"""The values that an axis can have: how they are written, and which a model or machine allows."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, get_args

from etui.arm import Speculate
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
from etui.sweep.axes.machine_facts import round_watts
from etui.sweep.setting import AxisName, Value
from etui.text.suggest import did_you_mean

if TYPE_CHECKING:
    from etui.sweep.axes.machine_facts import MachineFacts, PowerRange, SweptModel

_WORDS: dict[AxisName, tuple[str, ...]] = {
    "kv_type": get_args(KvType),
    "flash_attention": get_args(FlashAttention),
    "split": get_args(SplitMode),
    "speculate": get_args(Speculate),
    "gpu_layers": ("all",),
    "draft_tokens": ("auto",),
}
"""Axis -> the words that it takes."""

_RANGES: dict[AxisName, tuple[int, int]] = {
    "threads": (1, MOST_THREADS),
    "decode_threads": (1, MOST_THREADS),
    "prefill_threads": (1, MOST_THREADS),
    "batch_tokens": (LEAST_BATCH_TOKENS, MOST_BATCH_TOKENS),
    "gpu_layers": (0, 100_000),
    "draft_tokens": (1, MOST_DRAFT_TOKENS),
}
"""Axis -> the least and the most of the whole numbers that it takes."""

_WATTS = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*W?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_MODEL_CHARACTERS = 4096


def describe_values(axis: AxisName) -> str:
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


def parse_value(axis: AxisName, text: str) -> Value:
    """Parse one value of an axis.

    Raises:
        UsageError: The axis has no such value; the message says which it has.
    """
    if axis == "model":
        if len(text) <= _MODEL_CHARACTERS and text.isprintable():
            return text
    elif axis == "power_limit":
        match = _WATTS.fullmatch(text)
        if match is not None and math.isfinite(watts := float(match[1])) and watts > 0:
            return round_watts(watts)
    elif text.casefold() in _WORDS.get(axis, ()):
        return text.casefold()
    elif axis in _RANGES and _NUMBER.fullmatch(text):
        least, most = _RANGES[axis]
        if least <= int(text) <= most:
            return int(text)
    words = _WORDS.get(axis, ())
    near = "" if axis in _RANGES else did_you_mean(text, words, listed=0)
    shown = text if len(text) <= 40 and text.isprintable() else f"{text[:40]!r}…"
    raise UsageError(
        f"--axis {axis}: {shown} is not a value of this axis{near}",
        f"it takes {describe_values(axis)}",
    )


def refuse_value(
    axis: AxisName, value: Value, model: SweptModel, facts: MachineFacts
) -> tuple[str, str] | None:
    """Return why a model cannot have a value on this machine, and what to do; None if it can.

    Args:
        axis: The axis, any but ``model``.
    """
    if axis in ("threads", "decode_threads", "prefill_threads") and int(value) > facts.cpus:
        cpus = "1 CPU" if facts.cpus == 1 else f"{facts.cpus} CPUs"
        return f"etui may run on {cpus}", f"give at most {facts.cpus}"
    if axis == "gpu_layers" and value != "all" and int(value) > model.layers:
        return f"{model.name} has {model.layers} layers", "give at most that number, or all"
    if axis == "gpu_layers" and value != 0 and not facts.gpus:
        return "llama.cpp sees no GPU", "`etui doctor` says which GPUs it sees; leave out this axis"
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
    usable = [each for each in ("lookup", "draft", "mtp") if each not in obstacles]
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
