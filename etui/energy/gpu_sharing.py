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
        t_ns: Time on the monotonic clock, nanoseconds.
        scope: Scope of the GPU.
        own_percent, other_percent: SM utilisation of etui's processes and of all others; None when
            the driver does not report it by process.
        others: Number of other processes with a compute context.
        unknown: Number of processes with an unknown owner (another PID namespace, as in a
            container).
    """

    t_ns: int
    scope: str
    own_percent: float | None
    other_percent: float | None
    others: int
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class GpuShare:
    """Whether a GPU, or the CPUs of an estimate, were shared in an interval, and etui's part.

    Attributes:
        shared: Another process used it.
        own: etui's share of the SM or CPU time, 0..1; None when it cannot be determined.
    """

    shared: bool
    own: float | None


def compute_share(
    uses: Iterable[GpuUse], scope: str, start_ns: int, end_ns: int, reach_ns: int
) -> GpuShare:
    """Compute etui's share of a GPU over an interval.

    Args:
        uses: Samples of all GPUs.
        scope: Scope of the GPU.
        start_ns: Start of the interval.
        end_ns: End of the interval.
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
