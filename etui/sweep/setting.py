"""The combinations of settings that a sweep compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Value = str | int | float

AxisName = Literal[
    "model",
    "threads",
    "decode_threads",
    "prefill_threads",
    "batch_tokens",
    "kv_type",
    "flash_attention",
    "gpu_layers",
    "split",
    "speculate",
    "draft_tokens",
    "power_limit",
]
"""What a sweep can vary; ``power_limit`` in watts, ``draft_tokens`` is the depth of speculation."""

AXES: tuple[AxisName, ...] = get_args(AxisName)
"""All axes, in the order in which a setting lists its values."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a sweep."""

    name: AxisName
    values: tuple[Value, ...]  # The values to compare, at least one, each once, in the order given


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination: a value of every axis of the sweep, in the order of ``AXES``."""

    values: tuple[tuple[AxisName, Value], ...]

    @property
    def key(self) -> str:
        """Name in files and tables: ``threads=2 kv_type=q8_0``."""
        return " ".join(f"{name}={value}" for name, value in self.values)

    def get(self, axis: AxisName) -> Value | None:
        """Return the value of an axis; None if the sweep does not vary it."""
        return dict(self.values).get(axis)
