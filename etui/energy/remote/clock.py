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
class Probe:
    """One question for the clock of another machine."""

    sent_ns: int  # When it was sent, monotonic nanoseconds of this machine
    received_ns: int  # When it was answered
    remote_ns: int  # The answer: monotonic nanoseconds of the other machine

    @property
    def round_trip_ns(self) -> int:
        """Nanoseconds from sending to the answer."""
        return self.received_ns - self.sent_ns


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The offset of the other clock at one time."""

    t_ns: int  # The time, monotonic nanoseconds of this machine
    offset_ns: int  # Other clock minus this one
    error_ns: int
    boot_id: str = ""  # Id of the other machine's boot; its clock is only comparable within one


@dataclass(frozen=True, slots=True)
class Offset:
    """The offset of the other clock (other minus this one), and the bound of its error, in ns."""

    offset_ns: int
    error_ns: int


def choose_reading(probes: Sequence[Probe], boot_id: str = "") -> ClockReading:
    """Return the reading of the probe with the shortest round trip."""
    best = min(probes, key=lambda probe: probe.round_trip_ns)
    middle_ns = (best.sent_ns + best.received_ns) // 2
    # Rounded up, so that the odd nanosecond is inside; the clocks drift within the probe too.
    half_ns = (best.round_trip_ns + 1) // 2
    return ClockReading(middle_ns, best.remote_ns - middle_ns, half_ns + _drift(half_ns), boot_id)


def find_offset(readings: Sequence[ClockReading], t_ns: int) -> Offset | None:
    """Bound the offset at a time of this machine by all readings of one boot.

    Each reading bounds it by its own error plus the drift since, or until, that reading; the offset
    is in all of these intervals. The middle of their intersection is returned. None without
    readings, or if they contradict each other: one of the clocks was stopped (a suspended machine)
    or set.
    """
    if not readings:
        return None
    errors = [one.error_ns + _drift(abs(t_ns - one.t_ns)) for one in readings]
    bounds = list(zip((one.offset_ns for one in readings), errors, strict=True))
    low = max(offset - error for offset, error in bounds)
    high = min(offset + error for offset, error in bounds)
    if low > high:
        return None
    middle = (low + high) // 2
    return Offset(middle, high - middle)


def _drift(span_ns: int) -> int:
    """Return the most that the clocks drift apart in a span, rounded up."""
    return int(span_ns * DRIFT) + 1 if span_ns else 0
