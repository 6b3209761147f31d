"""Whose joules: a GPU that several processes use at once, by their share of its SM time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_IDLE_PERCENT = 1.0
"""Other processes that use less of the GPU than this do not make it shared."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Who used one GPU around a moment.

    Attributes:
        t_ns: Monotonic clock.
        scope: Scope of the GPU.
        own_percent, other_percent: SM utilisation of etui's processes and of all others; None when
            the driver does not tell processes apart.
        others: Other processes with a compute context.
        unknown: Processes whose owner cannot be told (of another PID namespace, as in a container).
    """

    t_ns: int
    scope: str
    own_percent: float | None
    other_percent: float | None
    others: int
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class GpuShare:
    """Whether a GPU was shared in an interval, and etui's part of it.

    Attributes:
        shared: Another process used it.
        own: etui's share of the SM time, 0..1; None when it cannot be told.
    """

    shared: bool
    own: float | None


def share_of(
    uses: Iterable[GpuUse], scope: str, start_ns: int, end_ns: int, reach_ns: int
) -> GpuShare:
    """The share of an interval, from the looks in it and at most ``reach_ns`` beside it."""
    near = [
        u for u in uses if u.scope == scope and start_ns - reach_ns <= u.t_ns <= end_ns + reach_ns
    ]
    if not near:
        return GpuShare(False, None)
    if any(use.unknown for use in near):
        # One stranger alone is most likely etui itself, seen under its number outside.
        return GpuShare(any(use.others or use.unknown > 1 for use in near), None)
    told = [u for u in near if u.own_percent is not None and u.other_percent is not None]
    if not told:
        return GpuShare(any(use.others for use in near), None)
    own = sum(use.own_percent or 0.0 for use in told)
    other = sum(use.other_percent or 0.0 for use in told)
    if other / len(told) < _IDLE_PERCENT:
        return GpuShare(False, 1.0)
    return GpuShare(True, own / (own + other))
