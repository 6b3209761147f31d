"""Compute the energy of an interval from that of its channels; pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from etui.energy.gpu_sharing import GpuShare
from etui.energy.scopes import weakest
from etui.energy.types import ChannelEnergy, Energy
from etui.energy.uncertainty import combine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PEAK_BINS = 600
_PEAK_SLICE_NS = 250_000_000

FindShare = Callable[[ChannelEnergy], GpuShare | None]
"""Finds etui's part of the use of a channel's device; None if nothing records it."""


class Watch(Protocol):
    """A record of the processes that use the GPUs, or the CPUs."""

    def share(self, scope: str, start_ns: int, end_ns: int) -> GpuShare:
        """Return whether a scope was shared in an interval, and etui's part of it."""


class UseOfCpus(Watch, Protocol):
    """A record of the processes that use the CPUs."""

    def busy_share(self, start_ns: int, end_ns: int) -> float | None:
        """Return the utilisation of all CPUs in an interval, 0..1; None if not recorded."""


def sum_channels(
    start_ns: int,
    end_ns: int,
    summed: tuple[ChannelEnergy, ...],
    checks: tuple[ChannelEnergy, ...],
    *,
    missing: Sequence[str],
    unmeasured: Sequence[str],
    peak_watts: float | None,
    idle_watts: Mapping[str, float],
    find_share: FindShare,
) -> Energy:
    """Sum the channels of an interval.

    Args:
        summed: The channels of the total, as far as they were recorded.
        checks: Channels that measure the same again.
        missing: Scopes of the total without a record.
        unmeasured: Scopes that no source can read.
        peak_watts: Largest watts of the total.
        idle_watts: The baseline by channel id.
        find_share: Finds etui's part of the use of a channel's device.
    """
    unmeasured = (*unmeasured, *(scope for scope in missing if scope not in unmeasured))
    if not summed:
        return Energy(
            start_ns, end_ns, None, None, None, 0.0,
            cross_checks=checks, unmeasured=unmeasured, flags=("unmeasured",),
        )  # fmt: skip
    joules = math.fsum(part.joules for part in summed)
    idle = [idle_watts.get(part.id) for part in summed]
    known_idle = [watts for watts in idle if watts is not None]
    seconds = (end_ns - start_ns) / 1e9
    shared, own_joules = compute_own(summed, idle_watts, seconds, find_share)
    flags = [flag for part in summed for flag in part.flags] + ["shared"] * shared
    return Energy(
        start_ns=start_ns,
        end_ns=end_ns,
        joules=joules,
        uncertainty=combine([part.half_widths for part in summed]),
        kind=weakest(part.kind for part in summed),
        coverage=0.0 if missing else min(part.coverage for part in summed),
        idle_watts=sum(known_idle) if len(known_idle) == len(idle) else None,
        mean_watts=joules / seconds if seconds else None,
        peak_watts=peak_watts,
        channels=summed,
        cross_checks=checks,
        unmeasured=unmeasured,
        flags=tuple(dict.fromkeys(flags)),
        own_joules=own_joules,
    )


def compute_own(
    summed: Sequence[ChannelEnergy],
    idle_watts: Mapping[str, float],
    seconds: float,
    find_share: FindShare,
) -> tuple[bool, float | None]:
    """Return whether a part of the sum was shared, and the joules that are etui's own.

    Of a shared channel these are etui's part of the joules above idle. They are None if nothing
    was shared, or if etui's part of a shared channel is unknown.
    """
    shared, known, own = False, True, 0.0
    for part in summed:
        share = find_share(part)
        if share is None or not share.shared:
            own += part.joules
            continue
        shared = True
        idle = idle_watts.get(part.id, 0.0) * seconds
        known = known and share.own is not None
        own += max(part.joules - idle, 0.0) * (share.own or 0.0)
    return shared, own if shared and known else None


def find_peak(
    summed: Sequence[ChannelEnergy],
    start_ns: int,
    end_ns: int,
    slice_watts: Callable[[ChannelEnergy, int], NDArray[np.float64]],
) -> float | None:
    """Return the largest watts of the sum; of several channels, in slices from 0.25 s.

    Args:
        slice_watts: Returns the mean watts of a channel in slices of so many nanoseconds.
    """
    if len(summed) == 1:
        return summed[0].peak_watts
    if not summed or end_ns <= start_ns:
        return None
    slice_ns = max(_PEAK_SLICE_NS, (end_ns - start_ns) // _PEAK_BINS)
    if end_ns - start_ns <= slice_ns:
        return math.fsum(part.mean_watts for part in summed)
    total = sum(slice_watts(part, slice_ns) for part in summed)
    return float(max(total))  # type: ignore[arg-type]


def slice_power(
    marks: Sequence[int], totals: Sequence[Sequence[tuple[float, float]]]
) -> list[tuple[int, float | None]]:
    """Compute the mean watts between marks; None for a slice without a record.

    Args:
        marks: Times in nanoseconds, in order.
        totals: For each channel the joules and the recorded nanoseconds up to each mark.

    Returns:
        (middle of the slice in nanoseconds, watts) pairs.
    """
    curve: list[tuple[int, float | None]] = []
    for index in range(len(marks) - 1):
        span = marks[index + 1] - marks[index]
        joules = [
            row[index + 1][0] - row[index][0] for row in totals if row[index + 1][1] > row[index][1]
        ]
        watts = math.fsum(joules) / span * 1e9 if joules and span else None
        curve.append(((marks[index] + marks[index + 1]) // 2, watts))
    return curve
