"""Predict tokens per second and joules per token of a model: measured, or from the memory's speed.

A decode reads all weights once for each token, so its speed is bound by how fast they are read:
tokens/s = bytes/s / bytes of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from etui.curves.operating_curve import OperatingCurve
    from etui.log.totals import Total

CONTEXT_TOKENS = 512
"""Context in which a token of a curve is priced: a question with a short answer."""

Source = Literal["curve", "log", "other model", "memory", "power range", ""]
"""Where a number comes from; empty if it is unknown."""


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """The decode of one model, as it was measured on this machine."""

    name: str
    weight_bytes: int
    tokens_per_second: float
    watts: float | None = None  # Mean gross watts of its decode; None if unknown
    on_gpu: bool = False  # Whether its weights are in the memory of a GPU


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of a machine, to predict models that were never loaded."""

    memory_bytes_per_second: float | None = None
    """Measured reading speed of the memory; None if unknown."""
    limit_watts: float | None = None
    """Sum of the power limits of everything but GPUs; None if one is unknown."""
    measured: tuple[MeasuredModel, ...] = ()  # Models whose decode was measured here
    memory_busy: bool = False  # Whether other programs ran while that was measured


@dataclass(frozen=True, slots=True)
class DecodeForecast:
    """Speed and energy of the decode of a model; None where unknown.

    Attributes:
        speed_source, joules_source: Where the two come from.
    """

    tokens_per_second: float | None = None  # Output tokens per second
    joules_per_token: float | None = None  # Gross joules per output token
    speed_source: Source = ""
    joules_source: Source = ""
    like: str = ""  # The measured model from which they were scaled; empty for none

    @property
    def is_measured(self) -> bool:
        """Whether both numbers are the model's own."""
        return {self.speed_source, self.joules_source} <= {"curve", "log"}


def forecast_decode(
    weight_bytes: int | None,
    machine: MachineFacts,
    curve: OperatingCurve | None = None,
    total: Total | None = None,
    *,
    on_gpu: bool = False,
) -> DecodeForecast:
    """Predict the decode of a model.

    Its own curve comes first, then its turns in the log, then the measured model nearest in size
    in the same kind of memory, then the speed of the memory with the power limit. Nothing is
    guessed for a GPU on which nothing was measured.

    Args:
        weight_bytes: Bytes of its weights; None if unknown.
        curve: Its curve, measured on this machine.
        total: Its turns in the log.
        on_gpu: Whether it fits into the memory of a GPU.
    """
    like = _find_nearest(weight_bytes, machine.measured, on_gpu=on_gpu)
    speed, speed_source = _own_speed(curve, total)
    joules, joules_source = _own_joules(curve, total)
    used_like = False
    if speed is None and weight_bytes:
        if like is not None:
            speed = like.tokens_per_second * like.weight_bytes / weight_bytes
            speed_source, used_like = "other model", True
        elif machine.memory_bytes_per_second is not None and not on_gpu:
            speed, speed_source = machine.memory_bytes_per_second / weight_bytes, "memory"
    if joules is None and speed:
        if like is not None and like.watts is not None:
            joules, joules_source, used_like = like.watts / speed, "other model", True
        elif machine.limit_watts is not None and not on_gpu:
            joules, joules_source = machine.limit_watts / speed, "power range"
    name = like.name if used_like and like is not None else ""
    return DecodeForecast(speed, joules, speed_source, joules_source, name)


def _own_speed(curve: OperatingCurve | None, total: Total | None) -> tuple[float | None, Source]:
    if curve is not None and curve.speed.decode_tokens_per_second:
        return curve.speed.decode_tokens_per_second, "curve"
    if total is not None and total.output_tokens and total.seconds > 0:
        return total.output_tokens / total.seconds, "log"  # their prefill counts too
    return None, ""


def _own_joules(curve: OperatingCurve | None, total: Total | None) -> tuple[float | None, Source]:
    if curve is not None:
        return curve.decode.slope + curve.decode.bend * CONTEXT_TOKENS, "curve"
    if total is not None and total.joules_per_token is not None:
        return total.joules_per_token, "log"
    return None, ""


def _find_nearest(
    weight_bytes: int | None, measured: Iterable[MeasuredModel], *, on_gpu: bool
) -> MeasuredModel | None:
    """Return the measured model whose size is nearest, as a ratio; None if there is none."""
    if not weight_bytes:
        return None
    there = [model for model in measured if model.on_gpu == on_gpu and model.weight_bytes > 0]
    return min(
        there,
        key=lambda model: (abs(math.log(model.weight_bytes / weight_bytes)), model.name),
        default=None,
    )
