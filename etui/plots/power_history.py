"""Watts of every channel over the last hour, and their mean and highest value per bucket of time.

One history serves every graph of live power: the sparkline of a channel, the graph of the total and
the power screen differ only in the buckets that they ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

ZOOM_SECONDS = (30.0, 120.0, 600.0, 3600.0)
"""Time that a graph can show, shortest first."""

KEEP_SECONDS = ZOOM_SECONDS[-1]
SAMPLES_PER_SECOND = 4
"""Readings to keep per second; the panel takes four at its usual pace."""

HOLD_SECONDS = 2.5
"""Longest silence that still counts as recorded; the quiet pace reads once a second."""

TOTAL = "total"
"""Name of the channel with the sum of all channels."""

PHASES = " LPTA"
"""Phases of an answer: none, load, prefill, thinking, answer."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Watts of one channel in equal slices of time, oldest first; the newest may be incomplete."""

    seconds: float
    means: tuple[float | None, ...]  # Mean watts of each; None where nothing is known
    peaks: tuple[float | None, ...]  # Highest watts of each; None where nothing is known
    phases: str = ""  # One letter of `PHASES` for each: the last that is not a space

    @property
    def highest(self) -> float | None:
        """Highest watts of all buckets; None where nothing is known."""
        return max((watts for watts in self.peaks if watts is not None), default=None)


class PowerHistory:
    """Rings of watts, one per channel, on one clock."""

    def __init__(
        self, keep_seconds: float = KEEP_SECONDS, hold_seconds: float = HOLD_SECONDS
    ) -> None:
        self._keep = max(2, int(keep_seconds * SAMPLES_PER_SECOND))
        self._hold_ns = int(hold_seconds * 1e9)
        self._count = 0
        self._times: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self._phases: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self._watts: dict[str, Floats] = {}
        self._noted = " "

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels with a reading, in the order of their first one."""
        return tuple(self._watts)

    @property
    def newest_ns(self) -> int | None:
        """Time of the newest reading; None before the first."""
        if self._times is None or not self._count:
            return None
        return int(self._times[self._count - 1])

    @property
    def oldest_ns(self) -> int | None:
        """Time of the oldest reading that is kept; None before the first."""
        return int(self._times[0]) if self._times is not None and self._count else None

    def note(self, phase: str) -> None:
        """Note a phase that may end before the next reading, which then carries it."""
        if phase.strip():
            self._noted = phase

    def add(self, t_ns: int, watts: Mapping[str, float | None], phase: str = " ") -> None:
        """Add one reading of every channel; None and a missing channel are a gap.

        Args:
            t_ns: Time on the monotonic clock; an earlier one than the last is ignored.
            phase: Letter of the phase at that time.
        """
        import numpy as np  # slow to import, and loaded with the meter anyway

        if self._times is None or self._phases is None:
            self._times = np.zeros(2 * self._keep, dtype=np.int64)
            self._phases = np.zeros(2 * self._keep, dtype=np.uint8)
        if self._count and t_ns < self._times[self._count - 1]:
            return
        if self._count == 2 * self._keep:
            self._forget(self._times, self._phases, *self._watts.values())
        for channel in watts:
            if channel not in self._watts:
                self._watts[channel] = np.full(2 * self._keep, np.nan)
        at = self._count
        self._times[at] = t_ns
        self._phases[at] = max(0, PHASES.find(phase if phase.strip() else self._noted))
        for channel, ring in self._watts.items():
            value = watts.get(channel)
            ring[at] = np.nan if value is None else value
        self._count += 1
        self._noted = " "

    def buckets(self, channel: str, end_ns: int, seconds: float, count: int) -> Buckets:
        """Return the watts of a channel in the ``count`` buckets up to the one of ``end_ns``.

        The borders of the buckets are multiples of their length, so a bucket keeps its value while
        it moves to the left.
        """
        nothing: tuple[float | None, ...] = (None,) * count
        ring = self._watts.get(channel)
        if ring is None or self._times is None or self._phases is None or count < 1:
            return Buckets(seconds, nothing, nothing, " " * count)
        import numpy as np

        length_ns = max(1, int(seconds * 1e9))
        first = end_ns // length_ns - count + 1
        times = self._times[: self._count]
        begin = int(np.searchsorted(times, first * length_ns))
        end = int(np.searchsorted(times, end_ns, side="right"))
        number = times[begin:end] // length_ns - first
        values, codes = ring[begin:end], self._phases[begin:end]
        known = ~np.isnan(values)
        sums = np.bincount(number[known], values[known], count)
        known_counts = np.bincount(number[known], minlength=count)
        peaks = np.full(count, -np.inf)
        np.maximum.at(peaks, number[known], values[known])
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(known_counts > 0, sums / known_counts, np.nan)
        peaks = np.where(known_counts > 0, np.maximum(peaks, means), np.nan)
        letters = np.zeros(count, dtype=np.uint8)
        marked = codes > 0
        letters[number[marked]] = codes[marked]  # of several, the last stays
        empty = np.flatnonzero(np.bincount(number, minlength=count) == 0)
        if len(empty) and end:
            borders = (first + empty + 1) * length_ns
            before = np.searchsorted(times[:end], borders) - 1
            after_ns = np.append(times[:end], end_ns)[before + 1]
            held = (before >= 0) & (after_ns - times[before] <= self._hold_ns)
            means[empty[held]] = peaks[empty[held]] = ring[before[held]]
            letters[empty[held]] = self._phases[before[held]]
        return Buckets(
            length_ns / 1e9,
            _with_none(means),
            _with_none(peaks),
            "".join(PHASES[code] for code in letters.tolist()),
        )

    def _forget(self, *rings: np.ndarray[Any, Any]) -> None:
        """Keep the newer half of every ring: a view of the newest is then always in one piece."""
        for ring in rings:
            ring[: self._keep] = ring[self._keep :]
        self._count = self._keep


def _with_none(values: Floats) -> tuple[float | None, ...]:
    return tuple(None if value != value else value for value in values.tolist())
