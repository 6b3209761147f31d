"""Power readings as energy over time: trapezoids between anchored samples.

Equal readings are kept. Dropping them and drawing a line between the others would turn 100 W for
10 s and 300 W for 10 s into 2000 J instead of 4000 J.

The uncertainty of an interval has these parts: its two ends (a reading is up to a refresh old, and
a running average of A seconds hides a swing of dP watts by up to dP A / 8 in energy); sampling in
between (half the squared step from sample to sample, summed like a variance); the lag of all
readings times the difference of power between the ends; the digits of the reading; and time
without a reading (at most the largest power measured).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from etui.energy.tracks.counter_track import Point
from etui.energy.tracks.ring_buffer import Columns

if TYPE_CHECKING:
    import numpy as np

_T, _W, _E, _COVERED, _KNOWN, _VARIANCE = range(6)
_LONGEST_REFRESH_S = 0.25
_TYPICAL_REFRESH_S = 0.1
_VARIANCE_NS = 8_000_000_000
_SIGMAS = 2.5
"""Half width of the sampling part: the power between samples has a heavy tail (spikes)."""


class PowerTrack:
    """The record of one channel's power readings.

    Args:
        keep: Number of readings to keep.
        gap_s: Readings further apart than this leave a gap; up to four times that, a gap is
            bridged by a straight line, beyond it the energy is not known.
        average_s: Seconds over which a reading is averaged; the reading is dated to its middle.
        period_s: Expected time between two refreshes.
    """

    def __init__(
        self, *, keep: int, gap_s: float, average_s: float = 0.0, period_s: float | None = None
    ) -> None:
        self._rows = Columns(("i8", "f8", "f8", "f8", "f8", "f8"), keep)
        self._gap_ns = gap_s * 1e9
        self._average_s = average_s
        self._hint_s = period_s or 0.0
        self._changes: deque[float] = deque(maxlen=25)
        self._changed_ns: int | None = None
        self._failed = False
        self._still = False
        self._whole = True
        self._read_ns = 0
        self._refresh_s = 0.0
        self.max_watts = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def refresh_s(self) -> float:
        """Learned time between two refreshes of the reading, seconds; 0 while unknown."""
        return self._refresh_s or min(self._hint_s, _LONGEST_REFRESH_S)

    @property
    def longest_wait_ns(self) -> int:
        """Time after which a change of power appears in the reading."""
        return int((self.refresh_s or _TYPICAL_REFRESH_S) * 1e9)

    @property
    def last_ns(self) -> int | None:
        """Time at which the newest reading was read."""
        return self._read_ns if len(self._rows) else None

    @property
    def newest_ns(self) -> int | None:
        """Time that the newest reading represents."""
        return int(self._rows.row(-1)[_T]) if len(self._rows) else None

    @property
    def latest_watts(self) -> float | None:
        """The newest reading; None after a failed read."""
        if self._failed or not len(self._rows):
            return None
        return float(self._rows.row(-1)[_W])

    def observe(self, t_ns: int, watts: float | None) -> None:
        """Add a reading; None, NaN, infinite and negative values are failed reads."""
        if watts is None or not math.isfinite(watts) or watts < 0:
            self._failed = True
            return
        if self._read_ns and t_ns <= self._read_ns:
            return
        before_ns, self._read_ns = self._read_ns, t_ns
        if len(self._rows):
            self._learn(before_ns, t_ns, watts)
        self._whole = self._whole and watts == int(watts)
        self.max_watts = max(self.max_watts, watts)
        at_ns = t_ns - int((self._average_s / 2 + self.refresh_s / 2) * 1e9)
        self._append(at_ns, watts)
        self._failed = False

    def curve(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return times in nanoseconds and joules up to them: views, valid until the next read."""
        return self._rows.column(_T), self._rows.column(_E)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self._rows.nbytes

    def at(self, t_ns: int) -> Point:
        """Return the running totals at a time; constant where nothing is known."""
        upper = self._rows.search(_T, t_ns)
        if upper == 0:
            if not len(self._rows):
                return Point(0.0, 0.0, 0.0, 0.0)
            _, _, e0, c0, k0, v0 = self._rows.row(0)
            return Point(e0, c0, k0, 0.0, v0)
        t0, w0, e0, c0, k0, v0 = self._rows.row(upper - 1)
        blur = self._end_blur(t_ns)
        if upper == len(self._rows):
            # The newest reading is valid only until the next one is due.
            reach = min(float(t_ns - t0), self._hold_ns())
            covered = min(float(max(min(t_ns, self._read_ns) - t0, 0)), reach)
            if self._failed:
                covered = 0.0
            blur += self._spread(t0, t_ns) * reach / 2e9
            return Point(e0 + w0 * reach / 1e9, c0 + covered, k0 + reach, blur, v0)
        t1, w1, _, c1, k1, v1 = self._rows.row(upper)
        share = (t_ns - t0) / (t1 - t0)
        joules = 0.0
        if k1 > k0:
            seconds = (t_ns - t0) / 1e9
            joules = seconds * (w0 + share * (w1 - w0) / 2)
        return Point(
            e0 + joules,
            c0 + share * (c1 - c0),
            k0 + share * (k1 - k0),
            blur,
            v0 + share * (v1 - v0),
        )

    def between(self, start_ns: int, end_ns: int) -> tuple[float, float]:
        """Return the joules of an interval and the nanoseconds of it that are known."""
        first, last = self.at(start_ns), self.at(end_ns)
        return last.joules - first.joules, last.known_ns - first.known_ns

    def extremes(self, start_ns: int, end_ns: int) -> tuple[float, float] | None:
        """Return the smallest and largest watts read in an interval; None without a reading."""
        low = self._rows.search(_T, start_ns - 1)
        high = self._rows.search(_T, end_ns)
        if high <= low:
            return None
        watts = self._rows.column(_W)[low:high]
        return float(watts.min()), float(watts.max())

    def resolution_watts(self) -> float:
        """Return the resolution of the readings: 1 W when all are whole watts, else 0.001 W."""
        return 1.0 if self._whole and len(self._rows) >= 10 else 0.001

    def sampling_blur(self, start_ns: int, end_ns: int) -> float:
        """Compute the half width of an interval's energy from changes between samples."""
        return _SIGMAS * math.sqrt(self._sampling_variance(start_ns, end_ns))

    def lag_blur(self, start_ns: int, end_ns: int) -> float:
        """Compute the half width of an interval's energy from the lag of the readings."""
        late_s = (self.refresh_s or _TYPICAL_REFRESH_S) / 2 + self._average_s / 10
        return late_s * abs(self._find_watts(end_ns) - self._find_watts(start_ns))

    def _find_watts(self, t_ns: int) -> float:
        upper = self._rows.search(_T, t_ns)
        return float(self._rows.row(max(upper - 1, 0))[_W]) if len(self._rows) else 0.0

    def _sampling_variance(self, start_ns: int, end_ns: int) -> float:
        """Compute the variance of the integral due to changes between samples, J^2.

        A short interval may have missed changes that occur around it, so its rate is at least that
        of the 8 seconds around it.
        """
        inside = self.at(end_ns).variance - self.at(start_ns).variance
        lack = _VARIANCE_NS - (end_ns - start_ns)
        if lack <= 0:
            return max(inside, 0.0)
        low, high = start_ns - lack // 2, end_ns + lack // 2
        around = self.at(high).variance - self.at(low).variance
        return max(inside, around * (end_ns - start_ns) / _VARIANCE_NS)

    def _learn(self, before_ns: int, t_ns: int, watts: float) -> None:
        """Learn the refresh from the shortest recurring times between changes of the reading."""
        if watts == self._rows.row(-1)[_W]:
            return
        middle = (before_ns + t_ns) // 2
        if self._changed_ns is not None and not self._failed:
            self._changes.append((middle - self._changed_ns) / 1e9)
            if len(self._changes) >= 8:
                short = sorted(self._changes)[: len(self._changes) // 2]
                typical = short[len(short) // 2]
                recurs = typical <= _LONGEST_REFRESH_S and short[-1] < 2 * typical
                self._refresh_s = typical if recurs else 0.0
        self._changed_ns = middle

    def _append(self, t_ns: int, watts: float) -> None:
        if not len(self._rows):
            self._rows.append(t_ns, watts, 0.0, 0.0, 0.0, 0.0)
            return
        t0, w0, e0, c0, k0, v0 = self._rows.row(-1)
        t_ns = max(t_ns, t0 + 1)
        span = float(t_ns - t0)
        gap = self._failed or span > self._gap_ns
        known = span <= 4 * self._gap_ns
        joules = span * (w0 + watts) / 2e9 if known else 0.0
        pause = max(span / 1e9, self.refresh_s or _TYPICAL_REFRESH_S)
        variance = (watts - w0) ** 2 / 2 * pause**2 if known else 0.0
        self._rows.append(
            t_ns,
            watts,
            e0 + joules,
            c0 + (0.0 if gap else span),
            k0 + (span if known else 0.0),
            v0 + variance,
        )

    def _hold_ns(self) -> float:
        """Return how long the newest reading may be used for the time after it."""
        lag = (self._average_s / 2 + self.refresh_s / 2) * 1e9
        return lag + min(self._gap_ns, 2.5e8)

    def _end_blur(self, t_ns: int) -> float:
        refresh = self.refresh_s or _TYPICAL_REFRESH_S
        blur = self._spread(t_ns, t_ns) * refresh
        if self._average_s:
            blur += self._swing(t_ns) * self._average_s / 8
        return blur

    def _spread(self, start_ns: int, end_ns: int) -> float:
        margin = int((2 * (self.refresh_s or _TYPICAL_REFRESH_S) + self._average_s) * 1e9)
        found = self.extremes(start_ns - margin, end_ns + margin)
        return 0.0 if found is None else found[1] - found[0]

    def _swing(self, t_ns: int) -> float:
        """Estimate how far the power behind a running average swung around a time, watts.

        The average of A seconds changes by (P(t) - P(t - A)) / A a second, so its steepest change
        times A is the largest swing that it hides.
        """
        reach = int(self._average_s * 1e9)
        low = max(self._rows.search(_T, t_ns - reach) - 1, 0)
        high = self._rows.search(_T, t_ns + reach)
        times = self._rows.column(_T)[low:high]
        watts = self._rows.column(_W)[low:high]
        if len(times) < 3:
            return 0.0
        steps = abs(watts[2:] - watts[:-2]) / ((times[2:] - times[:-2]) / 1e9)
        return float(max(watts.max() - watts.min(), steps.max() * self._average_s))
