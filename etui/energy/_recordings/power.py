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
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from etui.energy._recordings.columns import Point, Recording
from etui.energy._recordings.fits import fit_levels

if TYPE_CHECKING:
    import numpy as np

_LONGEST_REFRESH_S = 0.25
_TYPICAL_REFRESH_S = 0.1
_APART_NS = 250_000_000
_AVERAGE_SEEN = 0.32
"""Share of the averaging time after which a step is fitted: half of it would show all."""
_FIT_SIGMAS = 4.5
"""Reads of one running average are wrong together, so that their number says too much."""
_MARK_HALF_S = 0.01
"""Time by which marks and readings may be apart, seconds."""
_ROW_S = 0.05
_WINDOW_S = 0.025
"""Time that an instant reading may average (25 ms on an A100)."""
_MOST_REPAIRS = 1000
_MOST_TOGETHER = 8
_HISTORY_NS = 4_000_000_000
"""Time before a mark whose readings give the levels of the phases."""
_BEAT_NS = 30_000_000_000
_BEATS = 3
_BEAT_SHARE = 0.1
_BEAT_UNEVEN = 0.25
"""Time around an interval in which readings that swing are looked for, how often they must swing,
how far (of their mean), and the deviation of a regular period."""
_UNSEEN = 0.25
_VARIANCE_NS = 8_000_000_000
_SIGMAS = 2.5
"""Half width of the sampling part: the power between samples has a heavy tail (spikes)."""


class Sample(NamedTuple):
    """A reading, dated to the middle of what it averages, with the totals up to it."""

    t_ns: int
    watts: float
    joules: float
    covered_ns: float
    known_ns: float
    variance: float  # Of the sampling, J^2


@dataclass(frozen=True, slots=True)
class _Repair:
    """What levels fitted around marks change about the readings."""

    times: np.ndarray[Any, Any]  # Times in nanoseconds, in order
    joules: np.ndarray[Any, Any]
    """Joules to add to those of the readings; constant before and after."""
    half_width: np.ndarray[Any, Any]  # Of the fitted energy since the first time, joules
    keep: float  # Share of the half width of the readings that it has at least
    variance: float  # Variance of sampling that the fit replaces, less its own, J^2
    final_ns: int  # Its last mark: a fit of later marks may replace what follows

    def end_at(self) -> int:
        return int(self.times[-1])

    def covers(self, t_ns: int) -> bool:
        return bool(self.times[0] < t_ns <= self.times[-1])

    def cut(self) -> _Repair:
        """Return the part that is final."""
        count = int(self.times.searchsorted(self.final_ns, side="right"))
        share = float(self.times[count - 1] - self.times[0]) / float(self.times[-1] - self.times[0])
        return replace(
            self,
            times=self.times[:count],
            joules=self.joules[:count],
            half_width=self.half_width[:count],
            variance=share * self.variance,
        )

    def apply(self, point: Point, t_ns: int) -> Point:
        """Return the totals at a time before the end, with what the fit changes."""
        import numpy as np

        if t_ns <= self.times[0]:
            return point
        since, at = self.times - self.times[0], t_ns - int(self.times[0])
        return point._replace(
            joules=point.joules + float(np.interp(at, since, self.joules)),
            variance=point.variance - self.variance * at / float(since[-1]),
            systematic=max(
                float(np.interp(at, since, self.half_width)), self.keep * point.systematic
            ),
        )


class PowerRecording(Recording[Sample]):
    """The record of one channel's power readings, each dated to the middle of what it averages.

    Readings further apart than ``gap_s`` leave a gap; up to four times that, a gap is bridged by a
    straight line, beyond it the energy is not known.
    """

    def __init__(
        self, *, keep: int, gap_s: float, average_s: float = 0.0, period_s: float | None = None
    ) -> None:
        super().__init__(Sample, keep)
        self._gap_ns = gap_s * 1e9
        self._average_s = average_s
        self._hint_s = period_s or 0.0
        self._changes: deque[float] = deque(maxlen=25)
        self._changed_ns: int | None = None
        self._unchanged_ns = 0  # The last read before that change
        self._shortest_s = [_TYPICAL_REFRESH_S, _TYPICAL_REFRESH_S]
        """The two shortest times within which the reading has changed twice, in order."""
        self._failed = False
        self._still = False
        self._whole = True
        self._read_ns = 0
        self._refresh_s = 0.0
        self._repairs: list[_Repair] = []
        self._repaired: list[tuple[float, float]] = []
        self.max_watts = 0.0

    @property
    def refresh_s(self) -> float:
        """Learned time between two refreshes of the reading, seconds; 0 while unknown."""
        return self._refresh_s or min(self._hint_s, _LONGEST_REFRESH_S)

    @property
    def longest_wait_ns(self) -> int:
        """Time after which a change of power appears in the reading."""
        return int(self._wait_s * 1e9)

    @property
    def _wait_s(self) -> float:
        return self.refresh_s or self._shortest_s[1]

    @property
    def latest_watts(self) -> float | None:
        """The newest reading; None after a failed read."""
        if self._failed or not len(self._rows):
            return None
        return self._rows.row(-1).watts

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
        self._place_marks()

    def at(self, t_ns: int) -> Point:
        point = self._read_at(t_ns)
        if not self._repairs or t_ns <= self._repairs[0].times[0]:
            return point
        # Repairs do not overlap: of those before, only their sums count.
        next_one = bisect_left(self._repairs, t_ns, key=_Repair.end_at)
        if next_one:
            joules, variance = self._repaired[next_one - 1]
            point = point._replace(joules=point.joules + joules, variance=point.variance - variance)
        if next_one < len(self._repairs):
            point = self._repairs[next_one].apply(point, t_ns)
        return point

    def totals(
        self, times: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        import numpy as np

        joules, known = np.empty(len(times)), np.empty(len(times))
        t, w, e, k = (self._rows.column(n) for n in ("t_ns", "watts", "joules", "known_ns"))
        upper = t.searchsorted(times, side="right")
        plain = (upper > 0) & (upper < len(self._rows))
        if self._repairs:
            ends = np.array([repair.end_at() for repair in self._repairs])
            starts = np.array([int(repair.times[0]) for repair in self._repairs])
            behind = ends.searchsorted(times, side="right")
            at = np.minimum(behind, len(ends) - 1)
            plain &= (behind == len(ends)) | (times <= starts[at])
        high = upper[plain]
        t0, w0, k0 = t[high - 1], w[high - 1], k[high - 1]
        since = times[plain] - t0
        share = since / (t[high] - t0)
        added = since / 1e9 * (w0 + share * (w[high] - w0) / 2)
        joules[plain] = e[high - 1] + np.where(k[high] > k0, added, 0.0)
        known[plain] = k0 + share * (k[high] - k0)
        if self._repairs:
            sums = np.array([0.0, *(joules for joules, _ in self._repaired)])
            joules[plain] += sums[behind[plain]]
        for index in np.flatnonzero(~plain):
            point = self.at(int(times[index]))
            joules[index], known[index] = point.joules, point.known_ns
        return joules, known

    def _read_at(self, t_ns: int) -> Point:
        """Return the running totals of the readings as they are."""
        upper = self._rows.search(t_ns)
        if upper == 0:
            if not len(self._rows):
                return Point(0.0, 0.0, 0.0, 0.0)
            first = self._rows.row(0)
            return Point(first.joules, first.covered_ns, first.known_ns, 0.0, first.variance)
        a = self._rows.row(upper - 1)
        if upper == len(self._rows):
            return self._after_last(a, t_ns)
        b = self._rows.row(upper)
        since_ns = t_ns - a.t_ns
        share = since_ns / (b.t_ns - a.t_ns)
        joules = 0.0
        if b.known_ns > a.known_ns:  # the trapezoid below the line from a to b
            joules = since_ns / 1e9 * (a.watts + share * (b.watts - a.watts) / 2)
        return Point(
            joules=a.joules + joules,
            covered_ns=a.covered_ns + share * (b.covered_ns - a.covered_ns),
            known_ns=a.known_ns + share * (b.known_ns - a.known_ns),
            systematic=self._end_half_width(t_ns),
            variance=a.variance + share * (b.variance - a.variance),
        )

    def _after_last(self, last: Sample, t_ns: int) -> Point:
        """Return the totals after the newest reading, which is valid until the next one is due."""
        reach = min(float(t_ns - last.t_ns), self._hold_ns())
        covered = min(float(max(min(t_ns, self._read_ns) - last.t_ns, 0)), reach)
        return Point(
            joules=last.joules + last.watts * reach / 1e9,
            covered_ns=last.covered_ns + (0.0 if self._failed else covered),
            known_ns=last.known_ns + reach,
            systematic=self._end_half_width(t_ns) + self._spread(last.t_ns, t_ns) * reach / 2e9,
            variance=last.variance,
        )

    def between(self, start_ns: int, end_ns: int) -> tuple[float, float]:
        """Return the joules of an interval and the nanoseconds of it that are known."""
        first, last = self.at(start_ns), self.at(end_ns)
        return last.joules - first.joules, last.known_ns - first.known_ns

    def extremes(self, start_ns: int, end_ns: int) -> tuple[float, float] | None:
        """Return the smallest and largest watts read in an interval; None without a reading."""
        low = self._rows.search(start_ns - 1)
        high = self._rows.search(end_ns)
        if high <= low:
            return None
        watts = self._rows.column("watts")[low:high]
        return float(watts.min()), float(watts.max())

    def resolution_watts(self) -> float:
        """Return the resolution of the readings: 1 W when all are whole watts, else 0.001 W."""
        return 1.0 if self._whole and len(self._rows) >= 10 else 0.001

    def sampling_half_width(self, start_ns: int, end_ns: int) -> float:
        """Compute the half width of an interval's energy from changes between samples."""
        return _SIGMAS * math.sqrt(self._sampling_variance(start_ns, end_ns))

    def find_beat(self, start_ns: int, end_ns: int) -> float | None:
        """Return the mean watts of readings that swing regularly around an interval.

        A sensor that sees a part of the time shows a load that comes and goes nearly as often as it
        refreshes as a slow swing that is not there. What is true is the mean of whole swings. None
        where the readings do not swing, where marks say why, and where they see all of the time.
        """
        import numpy as np

        if self._average_s or self._wait_s < 1.5 * _WINDOW_S or end_ns - start_ns > _BEAT_NS:
            return None
        low, high = self._rows.search(start_ns - _BEAT_NS), self._rows.search(end_ns + _BEAT_NS)
        if high - low < 4 * _BEATS:
            return None
        times = self._rows.column("t_ns")[low:high]
        watts = self._rows.column("watts")[low:high]
        least, most = np.quantile(watts, (0.05, 0.95))
        swing, middle = most - least, (most + least) / 2
        if swing < _BEAT_SHARE * middle:
            return None
        clear = abs(watts - middle) > 0.15 * swing
        above, at = watts[clear] > middle, np.flatnonzero(clear)
        rises = at[1:][above[1:] & ~above[:-1]]
        if len(rises) <= _BEATS:
            return None
        periods = np.diff(times[rises])
        first, last = int(rises[0]), int(rises[-1])
        marks, _ = self._list_marks(int(times[first]), int(times[last]))
        if periods.std() > _BEAT_UNEVEN * periods.mean() or len(marks) >= len(rises):
            return None
        joules = self._rows.column("joules")[low:high]
        return float((joules[last] - joules[first]) / (times[last] - times[first]) * 1e9)

    def unseen_half_width(self, t_ns: int) -> float:
        """Compute how much of a refresh's energy may be before or after a time inside it, joules.

        A load that repeats with every refresh gives equal readings. Averages say it by their swing.
        """
        return 0.0 if self._average_s else _UNSEEN * self._wait_s * self._find_watts(t_ns)

    def lag_half_width(self, start_ns: int, end_ns: int) -> float:
        """Compute the half width of an interval's energy from the lag of the readings."""
        if self._average_s and self._is_repaired(start_ns) and self._is_repaired(end_ns):
            return 0.0  # the marks, and not the readings, say when the power changed
        late_s = self._wait_s / 2 + (self._average_s / 10 or _WINDOW_S / 2)
        return late_s * abs(self._find_watts(end_ns) - self._find_watts(start_ns))

    def _is_repaired(self, t_ns: int) -> bool:
        """Return whether fitted levels replace the readings at a time."""
        at = bisect_left(self._repairs, t_ns, key=_Repair.end_at)
        return at < len(self._repairs) and self._repairs[at].covers(t_ns)

    def _find_watts(self, t_ns: int) -> float:
        upper = self._rows.search(t_ns)
        return self._rows.row(max(upper - 1, 0)).watts if len(self._rows) else 0.0

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
        found = max(inside, around * (end_ns - start_ns) / _VARIANCE_NS, 0.0)
        return found * self._inflate(low, high)

    def _inflate(self, start_ns: int, end_ns: int) -> float:
        """Return how much more the mean of fast changing samples varies than their steps say.

        With a correlation r from sample to sample it is (1 + r) / (1 - r). Where r is above a half,
        the changes are slow, and the trapezoids follow them.
        """
        low, high = self._rows.search(start_ns), self._rows.search(end_ns)
        watts = self._rows.column("watts")[low:high]
        if len(watts) < 8:
            return 1.0
        whole, steps = float(watts.var()), float(((watts[1:] - watts[:-1]) ** 2).mean() / 2)
        if not steps < whole < 2 * steps:
            return 1.0
        return (2 * whole - steps) / steps

    def _learn(self, before_ns: int, t_ns: int, watts: float) -> None:
        """Learn the refresh from the shortest recurring times between changes of the reading."""
        if watts == self._rows.row(-1).watts:
            return
        middle = (before_ns + t_ns) // 2
        if self._changed_ns is not None and not self._failed:
            self._changes.append((middle - self._changed_ns) / 1e9)
            within_s = (t_ns - self._unchanged_ns) / 1e9  # a refresh cannot take longer
            self._shortest_s = sorted((*self._shortest_s, within_s))[:2]
            if len(self._changes) >= 8:
                short = sorted(self._changes)[: len(self._changes) // 2]
                typical = short[len(short) // 2]
                recurs = typical <= _LONGEST_REFRESH_S and short[-1] < 2 * typical
                self._refresh_s = typical if recurs else 0.0
        self._changed_ns, self._unchanged_ns = middle, before_ns

    def _append(self, t_ns: int, watts: float) -> None:
        if not len(self._rows):
            self._rows.append(Sample(t_ns, watts, 0.0, 0.0, 0.0, 0.0))
            return
        last = self._rows.row(-1)
        t_ns = max(t_ns, last.t_ns + 1)
        span = float(t_ns - last.t_ns)
        gap = self._failed or span > self._gap_ns
        known = span <= 4 * self._gap_ns
        joules = span * (last.watts + watts) / 2e9 if known else 0.0
        pause_s = max(span / 1e9, self._wait_s)
        variance = (watts - last.watts) ** 2 / 2 * pause_s**2 if known else 0.0
        self._rows.append(
            Sample(
                t_ns,
                watts,
                last.joules + joules,
                last.covered_ns + (0.0 if gap else span),
                last.known_ns + (span if known else 0.0),
                last.variance + variance,
            )
        )

    def _place_marks(self) -> None:
        """Replace the energy of the readings around marks by that of fitted levels.

        Marks of one turn, and others that are closer than the readings can tell apart, are fitted
        together. The result is final, so that an interval that has settled does not change.
        """
        width_s = (self._average_s or _WINDOW_S) + self._wait_s
        width_ns = int(width_s * 1e9)
        while self._marks and len(self._rows) >= 3:
            apart_ns, count = max(width_ns, _APART_NS), 1
            while count < min(len(self._marks), _MOST_TOGETHER):
                before, mark = self._marks[count - 1 : count + 1]
                # Of turns without a pause, the start of the next one is the end of the last one.
                ended = before.phase == "idle" or (count > 1 and before.phase == "prefill")
                if ended or mark.t_ns - before.t_ns >= apart_ns:
                    break
                count += 1
            group = [mark.t_ns for mark in self._marks[:count]]
            late_s = _AVERAGE_SEEN * self._average_s + self.longest_wait_ns / 2e9
            if not self._average_s:
                late_s += _ROW_S
            if self._rows.row(-1).t_ns < group[-1] + late_s * 1e9:
                return
            self._repair(group, width_ns)
            for _ in group:
                self._keep_mark(self._marks.pop(0))

    def _repair(self, group: list[int], width_ns: int) -> None:
        import numpy as np

        cut = self._repairs[-1].cut() if self._repairs else None
        if cut is not None and cut.times[-1] < group[0] < self._repairs[-1].end_at():
            edge_ns = cut.end_at()
        else:
            cut, edge_ns = None, self._repairs[-1].end_at() if self._repairs else 0
        low = max(self._rows.search(group[0] - width_ns // 2) - 1, 0)
        high = min(self._rows.search(group[-1] + width_ns // 2) + 1, len(self._rows))
        start_ns = edge_ns if cut is not None else max(self._rows.row(low).t_ns, edge_ns)
        end_ns = self._rows.row(high - 1).t_ns
        reach = max(width_ns, 3 * _APART_NS // 2)
        before = _HISTORY_NS if self._marks[0].phase else 0
        first = self._rows.search(group[0] - max(reach, before))
        last = self._rows.search(group[-1] + reach)
        if last - first < 2 or start_ns >= group[0] or end_ns <= group[-1]:
            return
        times, known = self._rows.column("t_ns"), self._rows.column("covered_ns")
        gaps = np.diff(known[first:high]) < np.diff(times[first:high])
        if gaps.any():
            first += int(np.flatnonzero(gaps)[-1]) + 1
            if first > low:
                return  # a gap: how the power went is not known
        shown = int(times[first]) - width_ns // 2, int(times[last - 1]) + width_ns // 2
        marks, phases = self._list_marks(*shown)
        fit = fit_levels(
            [(each - group[0]) / 1e9 for each in marks],
            (times[first:last] - group[0]) / 1e9,
            self._rows.column("watts")[first:last],
            self._average_s,
            self._wait_s + (0.0 if self._average_s else _WINDOW_S),
            phases,
        )
        inside = [int(t) for t in times[low:high] if start_ns < t < end_ns]
        knots = np.array(sorted({start_ns, *inside, *group, end_ns}))
        fitted, sigma = fit.joules((knots - group[0]) / 1e9)
        read = np.array([self._read_at(int(t)).joules for t in knots])
        lost = self._read_at(end_ns).variance - self._read_at(start_ns).variance
        if not self._average_s:
            lost = 0.0  # which readings are older than a step is not known: keep their bounds
        lost -= float(sigma[-1]) ** 2  # what the fit may be off by, in place of the readings
        keep = 0.0 if self._average_s else 1.0
        half_width = _FIT_SIGMAS * sigma + _MARK_HALF_S * float(np.ptp(fit.watts))
        repair = _Repair(knots, fitted - (read - read[0]), half_width, keep, lost, group[-1])
        if cut is not None:
            self._repairs.pop()
            self._repaired.pop()
            self._add_repair(cut)
        self._add_repair(repair)

    def _add_repair(self, repair: _Repair) -> None:
        joules, variance = self._repaired[-1] if self._repaired else (0.0, 0.0)
        self._repairs.append(repair)
        self._repaired.append((joules + float(repair.joules[-1]), variance + repair.variance))
        del self._repairs[:-_MOST_REPAIRS], self._repaired[:-_MOST_REPAIRS]

    def _hold_ns(self) -> float:
        """Return how long the newest reading may be used for the time after it."""
        lag = (self._average_s / 2 + self.refresh_s / 2) * 1e9
        return lag + min(self._gap_ns, 2.5e8)

    def _end_half_width(self, t_ns: int) -> float:
        half_width = self._spread(t_ns, t_ns) * self._wait_s
        if self._average_s:
            half_width += self._swing(t_ns) * self._average_s / 8
        return half_width

    def _spread(self, start_ns: int, end_ns: int) -> float:
        margin = int((2 * self._wait_s + self._average_s) * 1e9)
        found = self.extremes(start_ns - margin, end_ns + margin)
        return 0.0 if found is None else found[1] - found[0]

    def _swing(self, t_ns: int) -> float:
        """Estimate how far the power behind a running average swung around a time, watts.

        The average of A seconds changes by (P(t) - P(t - A)) / A a second, so its steepest change
        times A is the largest swing that it hides.
        """
        import numpy as np

        reach = int(self._average_s * 1e9)
        low = max(self._rows.search(t_ns - reach) - 1, 0)
        high = self._rows.search(t_ns + reach)
        times = self._rows.column("t_ns")[low:high]
        watts = self._rows.column("watts")[low:high]
        if len(times) < 3:
            return 0.0
        # Between two reads of one refresh the average has moved as in a whole one.
        spans = np.maximum((times[2:] - times[:-2]) / 1e9, self._wait_s)
        steps = abs(watts[2:] - watts[:-2]) / spans
        return float(max(watts.max() - watts.min(), steps.max() * self._average_s))
