"""Bound the difference between the monotonic clocks of two machines: pure arithmetic over probes.

A probe asks the other machine for its clock. The answer was read at some time between sending and
receiving, however unequal the two ways are, so the difference of the clocks is known up to half of
the round trip, for certain. Between probes the bound grows with the most that two clocks can drift.
A clock is comparable within one boot only, which has an id.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROBES = 8
"""Probes of one reading; the one with the shortest round trip counts."""
DRIFT = 1e-3
"""Most that one monotonic clock can gain on another, in seconds per second: the kernel corrects a
clock by at most 500 ppm (``adjtimex``), on both machines."""


def read_boot_id(file: Path = _BOOT_ID) -> str:
    """Return the id of this boot.

    Where the system has none, the id is a new one of this process: it also changes where the clock
    runs on, so that times are never compared across a reboot.
    """
    try:
        return str(uuid.UUID(file.read_text().strip()))
    except (OSError, ValueError):
        return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The offset of the other clock (other minus this one) at one time, in ns."""

    t_ns: int  # The time, of this machine
    offset_ns: int
    error_ns: int  # Bound of the error of `offset_ns`
    boot_id: str = ""  # Id of the other machine's boot


def read_probe(sent_ns: int, received_ns: int, remote_ns: int, boot_id: str = "") -> ClockReading:
    """Return what a probe shows: the other clock was ``remote_ns`` between two times of this."""
    middle_ns = (sent_ns + received_ns) // 2
    # Rounded up, so that the odd nanosecond is inside; the clocks drift within the probe too.
    half_ns = (received_ns - sent_ns + 1) // 2
    return ClockReading(middle_ns, remote_ns - middle_ns, half_ns + _drift(half_ns), boot_id)


def find_offset(readings: Sequence[ClockReading], t_ns: int) -> ClockReading | None:
    """Bound the offset at a time of this machine by all readings of one boot.

    Each reading bounds it by its own error plus the drift since, or until, that reading; the offset
    is in all of these intervals. The middle of their intersection is returned. None without
    readings, or if they contradict each other: one of the clocks was stopped (a suspended machine)
    or set.
    """
    if not readings:
        return None
    errors = [one.error_ns + _drift(abs(t_ns - one.t_ns)) for one in readings]
    low = max(one.offset_ns - error for one, error in zip(readings, errors, strict=True))
    high = min(one.offset_ns + error for one, error in zip(readings, errors, strict=True))
    if low > high:
        return None
    middle = (low + high) // 2
    return ClockReading(t_ns, middle, high - middle, readings[0].boot_id)


def _drift(span_ns: int) -> int:
    """Return the most that the clocks drift apart in a span, rounded up."""
    return int(span_ns * DRIFT) + 1 if span_ns else 0
