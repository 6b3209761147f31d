"""etui's part of a GPU that several processes use at once, by their share of its SM time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_IDLE_PERCENT = 1.0
"""A GPU counts as shared only if other processes use at least this percentage of it."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """A sample of the processes that use one GPU.

    Attributes:
        own_percent, other_percent: SM utilisation of etui's processes and of all others; None
            when the driver does not report it by process.
    """

    t_ns: int  # Time on the monotonic clock, nanoseconds
    scope: str
    own_percent: float | None
    other_percent: float | None
    others: int  # Number of other processes with a compute context
    unknown: int = 0
    """Number of processes with an unknown owner (another PID namespace, as in a container)."""


@dataclass(frozen=True, slots=True)
class GpuShare:
    """Whether a GPU, or the CPUs of an estimate, were shared in an interval, and etui's part."""

    shared: bool  # Another process used it
    own: float | None  # Etui's share of the SM or CPU time, 0..1; None when it cannot be determined


def compute_share(
    uses: Iterable[GpuUse], scope: str, start_ns: int, end_ns: int, reach_ns: int
) -> GpuShare:
    """Compute etui's share of a GPU over an interval.

    Args:
        reach_ns: How far outside the interval a sample still counts, nanoseconds.
    """
    near = [
        u for u in uses if u.scope == scope and start_ns - reach_ns <= u.t_ns <= end_ns + reach_ns
    ]
    if not near:
        return GpuShare(False, None)
    if any(use.unknown for use in near):
        # A single unknown process is most likely etui itself, under its PID outside the container.
        return GpuShare(any(use.others or use.unknown > 1 for use in near), None)
    known = [u for u in near if u.own_percent is not None and u.other_percent is not None]
    if not known:
        return GpuShare(any(use.others for use in near), None)
    own = sum(use.own_percent or 0.0 for use in known)
    other = sum(use.other_percent or 0.0 for use in known)
    if other / len(known) < _IDLE_PERCENT:
        return GpuShare(False, 1.0)
    return GpuShare(True, own / (own + other))
