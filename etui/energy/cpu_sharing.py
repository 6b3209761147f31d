"""etui's part of the CPUs that several processes use at once, by their CPU time.

An estimate of CPU power follows the utilisation by all processes, so its energy above idle is split
by CPU time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from etui.energy.gpu_sharing import GpuShare

_OTHERS_OF_MACHINE = 0.02
_OTHERS_OF_BUSY = 0.1
"""The CPUs count as shared only if other processes use at least this share of all CPU time, and of
the time in which the CPUs are busy: a few services run on every machine."""


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU seconds up to a time; only differences are meaningful."""

    t_ns: int  # Time on the monotonic clock, nanoseconds
    own_seconds: float  # Used by etui's own processes
    busy_seconds: float
    total_seconds: float  # Used and unused, of all CPUs together


def compute_cpu_share(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> GpuShare:
    """Compute etui's share of the busy CPU time in an interval.

    Args:
        uses: Samples in the order of time.
    """
    own, busy, total = _used(uses, start_ns, end_ns)
    if busy <= 0 or total <= 0:
        return GpuShare(False, None)
    others = max(busy - own, 0.0)
    if others < _OTHERS_OF_MACHINE * total or others < _OTHERS_OF_BUSY * busy:
        return GpuShare(False, 1.0)
    return GpuShare(True, min(max(own / busy, 0.0), 1.0))


def busy_share(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> float | None:
    """Compute the utilisation of all CPUs in an interval, 0..1; None if it was not recorded."""
    _, busy, total = _used(uses, start_ns, end_ns)
    return min(max(busy / total, 0.0), 1.0) if total > 0 else None


def own_share(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> float | None:
    """Compute etui's share of the busy CPU time, 0..1; None if it was not recorded."""
    own, busy, _ = _used(uses, start_ns, end_ns)
    return min(max(own / busy, 0.0), 1.0) if busy > 0 else None


def others_use(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> tuple[float, float]:
    """Compute what other processes used in an interval.

    Returns:
        CPU seconds, and their share of the time of all CPUs, 0..1; zeros if it was not recorded.
    """
    own, busy, total = _used(uses, start_ns, end_ns)
    others = max(busy - own, 0.0)
    return others, min(others / total, 1.0) if total > 0 else 0.0


def _used(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> tuple[float, float, float]:
    """Compute own, busy and total seconds of an interval; zeros outside the record."""
    if len(uses) < 2:
        return 0.0, 0.0, 0.0
    own, busy, total = (
        after - before for before, after in zip(_at(uses, start_ns), _at(uses, end_ns), strict=True)
    )
    return own, busy, total


def _at(uses: Sequence[CpuUse], t_ns: int) -> tuple[float, float, float]:
    """Interpolate between two samples; before the first and after the last, take that one."""
    index = bisect_right(uses, t_ns, key=lambda use: use.t_ns)
    before, after = uses[max(index - 1, 0)], uses[min(index, len(uses) - 1)]
    span = after.t_ns - before.t_ns
    part = (t_ns - before.t_ns) / span if span > 0 else 0.0
    return (
        before.own_seconds + part * (after.own_seconds - before.own_seconds),
        before.busy_seconds + part * (after.busy_seconds - before.busy_seconds),
        before.total_seconds + part * (after.total_seconds - before.total_seconds),
    )
