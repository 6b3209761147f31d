"""The record of a wall meter, whose readings are slow, late and coarse.

Such a meter gives power (the mean of its last refresh), a counter, or both. Each of them is a track
of knots: the times at which its value changed, for only a change shows that the meter is alive.
The track with the smaller uncertainty counts. Energy is linear between two knots. In a stretch of T
seconds with J joules and power from p to q, the energy x seconds after its begin is at most
min(q x, J - p (T - x)) and at least max(p x, J - q (T - x)).

A value that no longer changes, a failed read and a counter that lost energy are gaps. How late the
meter is, is learned by comparing its power with that of the channels inside the machine; until
then it may be up to ten seconds, so that only steady power gives a small uncertainty.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from etui.energy._recordings.channel import GRID_JOULES, CrossCheck, find_plausible_watts, snap
from etui.energy.lags import correlate
from etui.energy.types import Channel, ChannelEnergy, HalfWidths, Kind, Phase, Reading

if TYPE_CHECKING:
    import numpy as np

_UNKNOWN_WATTS = 1e9
"""Upper bound of a power that no reading bounds."""
_GAP_NS = 5_000_000_000
"""Reads further apart than this leave a gap."""
_STALE_PERIODS, _STALE_LONGEST, _STALE_S, _UNKNOWN_STALE_S = 2.5, 1.5, (5.0, 300.0), 30.0
"""A value that did not change for 2.5 usual times, and 1.5 times the longest of the last ones, is
stale; within bounds."""
_UNLEARNED_WATTS = 1.0
_SHOWN_NS = 3_000_000_000
_HOLD_NS = 1_000_000_000
_AROUND_S = 2.0
"""Time by which power and counter of a device may be apart."""
_AGREE, _WHOLE = 0.05, 0.99
_SLOW_S = 2.0
"""A power that is refreshed more rarely may be a sample, and not a mean."""
_LONGEST_LAG_S = 10.0
_LAGS_S = 15.0
_LAG_STEP_S, _SLICE_S = 0.25, 0.5
_LEARN_NS, _LEARN_SPAN_S, _LEARN_LEAST_S = 10_000_000_000, 180.0, 60.0
_LEAST_SWING, _LEAST_FIT, _NEARLY = 0.05, 0.8, 1.3
"""Swing of the power that shows a lag (of its mean), least R², and residuals of as good a fit."""


class Knot(NamedTuple):
    """A time with the totals up to it, and the power since the knot before it."""

    t_ns: int
    half_ns: int = 0  # Half width of `t_ns`
    joules: float = 0.0
    known_ns: int = 0
    covered_ns: int = 0
    doubt: float = 0.0  # Half width of `joules` that no end of an interval has, joules
    low: float = 0.0
    high: float = _UNKNOWN_WATTS


class KnotPoint(NamedTuple):
    """The totals at a time; ``half`` is what an interval that ends there is unsure of, joules."""

    joules: float
    known_ns: float
    covered_ns: float
    doubt: float
    half: float


class KnotTrack:
    """Knots of a counter, or of power readings; at most ``keep`` to twice as many."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.knots: list[Knot] = []
        self.intervals_s: deque[float] = deque(maxlen=25)
        """Times between the newest changes of the value."""
        self.step = math.inf  # Smallest difference of two values: the resolution

    @property
    def period_s(self) -> float | None:
        known = sorted(self.intervals_s)
        return known[len(known) // 2] if len(known) >= 3 else None

    def learn_step(self, *differences: float) -> None:
        self.step = min([self.step, *(abs(d) for d in differences if abs(d) > 1e-6)])

    def append(
        self,
        t_ns: int,
        joules: float | None,
        half_ns: int = 0,
        *,
        covered: bool = True,
        doubt: float = 0.0,
        low: float = 0.0,
        high: float = _UNKNOWN_WATTS,
    ) -> None:
        """Add a knot; None where the energy since the last one is not known."""
        if not self.knots:
            self.knots.append(Knot(t_ns, half_ns))
            return
        last = self.knots[-1]
        t_ns = max(t_ns, last.t_ns + 1)
        span = t_ns - last.t_ns
        known = joules is not None
        self.knots.append(
            Knot(
                t_ns,
                half_ns,
                last.joules + (joules or 0.0),
                last.known_ns + span * known,
                last.covered_ns + span * (known and covered),
                last.doubt + doubt,
                low,
                high,
            )
        )
        if len(self.knots) > 2 * self._keep:
            del self.knots[: self._keep]

    def find(self, t_ns: int) -> int:
        """Count the knots up to a time."""
        return bisect_right(self.knots, t_ns, key=lambda knot: knot.t_ns)

    def at(self, t_ns: int) -> KnotPoint:
        """Return the totals at a time up to the last knot."""
        upper = self.find(t_ns)
        if upper in (0, len(self.knots)):
            knot = self.knots[0 if upper == 0 else -1]
            return KnotPoint(knot.joules, knot.known_ns, knot.covered_ns, knot.doubt, 0.0)
        a, b = self.knots[upper - 1], self.knots[upper]
        span, done = (b.t_ns - a.t_ns) / 1e9, (t_ns - a.t_ns) / 1e9
        share, joules = done / span, b.joules - a.joules
        half = 0.0
        if b.known_ns > a.known_ns:
            low, high = self._bound_watts(upper, joules / span)
            most = min(high * done, joules - low * (span - done))
            least = max(low * done, joules - high * (span - done))
            half = max(most - share * joules, share * joules - least)
            half += min(high * max(a.half_ns, b.half_ns) / 1e9, joules)
        return KnotPoint(
            a.joules + share * joules,
            a.known_ns + share * (b.known_ns - a.known_ns),
            a.covered_ns + share * (b.covered_ns - a.covered_ns),
            a.doubt + share * (b.doubt - a.doubt),
            max(half, 0.0),
        )

    def knows(self, start_ns: int, end_ns: int) -> bool:
        """Return whether the energy of an interval up to the last knot is known."""
        end_ns = min(end_ns, self.knots[-1].t_ns)
        return self.at(end_ns).known_ns - self.at(start_ns).known_ns >= 0.999 * (end_ns - start_ns)

    def _bound_watts(self, upper: int, mean: float) -> tuple[float, float]:
        """Return the power around the stretch that ends at a knot, from the readings there."""
        low = high = mean
        for a, b in pairwise(self.knots[max(upper - 2, 0) : upper + 2]):
            if b.known_ns > a.known_ns:
                low, high = min(low, b.low), max(high, b.high)
        return low, high

    def slopes(self, start_ns: int, end_ns: int) -> tuple[float, float] | None:
        """Return the smallest and largest mean watts of the stretches that touch an interval."""
        low, high = max(self.find(start_ns) - 1, 0), self.find(end_ns) + 1
        found = [
            (b.joules - a.joules) / (b.t_ns - a.t_ns) * 1e9
            for a, b in zip(self.knots[low:high], self.knots[low + 1 : high], strict=False)
            if b.known_ns > a.known_ns
        ]
        return (min(found), max(found)) if found else None


@dataclass(frozen=True, slots=True)
class WallLag:
    """How late a meter's readings are: within ``half_seconds`` of ``seconds``."""

    seconds: float = 0.0
    half_seconds: float = _LONGEST_LAG_S
    learned: bool = False


class WallRecording:
    """The record of a wall meter: ``keep`` readings, with the methods of a ChannelRecording."""

    def __init__(self, channel: Channel, *, keep: int) -> None:
        self.channel = channel
        self.began_ns = 0
        self.last_read_ns = 0
        self.lag = WallLag()
        self._plausible_watts = find_plausible_watts(channel)
        self._counter, self._power = KnotTrack(keep), KnotTrack(keep)
        self._failed = False
        self._lost = False  # Whether the counter may have lost energy since its last knot
        self._gapped = False  # Whether reads failed since the counter's last knot
        self._moved_in_gap = self._last_added = 0.0
        self._raw: float | None = None
        self._distrust_until_ns = 0
        self._raw_ns = self._raw_half_ns = 0  # The last read of that value
        self._watts: float | None = None
        self._power_ns = 0  # The last read of a power
        self._stamp_us: int | None = None
        self._changed_ns = 0  # The last time at which the meter was seen to be alive
        self._extremes = (0.0, 0.0)  # Smallest and largest power of any stretch
        self._recent: deque[tuple[int, float]] = deque(maxlen=600)
        self._learned_ns = 0

    def observe(self, reading: Reading, *, added: bool = False) -> None:
        """Add a reading; one without a plausible value is a failed read."""
        most = self._plausible_watts
        watts = _plain(reading.watts)
        watts = watts if watts is not None and 0 < watts <= most else None
        joules = _plain(reading.joules)
        if watts is None and joules is None:
            self._failed = self._gapped = True
            return
        t_ns, before_ns = reading.t_ns, self.last_read_ns
        if t_ns <= before_ns:
            return
        gap = self._failed or (before_ns > 0 and t_ns - before_ns > _GAP_NS)
        self._gapped |= gap
        self._lose(t_ns, reading.restarted)
        fresh = (watts, joules) != (self._watts, self._raw) or reading.driver_us != self._stamp_us
        stale = before_ns > 0 and t_ns - self._changed_ns > self._stale_ns
        self._gapped |= stale and fresh
        if watts is not None:
            self._observe_power(t_ns, before_ns, watts, gap=gap, fresh=fresh, stale=stale)
            self._widen(watts)
        if joules is not None:
            self._observe_counter(t_ns, reading.half_ns, joules, gap=gap)
        if fresh:
            self._changed_ns = t_ns
        self._watts, self._stamp_us = watts, reading.driver_us
        self._failed, self.last_read_ns = False, t_ns

    def _observe_power(
        self, t_ns: int, before_ns: int, watts: float, *, gap: bool, fresh: bool, stale: bool
    ) -> None:
        track, held = self._power, self._watts
        self._power_ns = t_ns
        self._recent.append((t_ns, watts))
        if not track.knots:
            track.append(t_ns, None)
        elif gap or held is None:
            if held is not None and before_ns > track.knots[-1].t_ns and not stale:
                self._hold(before_ns, held)
            track.append(t_ns, None)
        elif fresh:
            last_ns = track.knots[-1].t_ns
            interval_s = (t_ns - self._changed_ns) / 1e9
            if stale:
                track.append(t_ns, None)
                track.intervals_s.append(min(interval_s, 2e-9 * self._stale_ns))
            else:
                if before_ns > last_ns:
                    self._hold(before_ns, held)
                    last_ns = before_ns
                span_s, step = (t_ns - last_ns) / 1e9, abs(watts - held)
                doubt = step / 2 * (interval_s if interval_s > _SLOW_S else span_s)
                ends = min(held, watts), max(held, watts)
                joules = (held + watts) / 2 * span_s
                track.append(t_ns, joules, doubt=doubt, low=ends[0], high=ends[1])
                track.intervals_s.append(interval_s)
            track.learn_step(watts - held)

    def _hold(self, until_ns: int, watts: float) -> None:
        span_s = (until_ns - self._power.knots[-1].t_ns) / 1e9
        self._power.append(until_ns, watts * span_s, low=watts, high=watts)

    def _observe_counter(self, t_ns: int, half_ns: int, joules: float, *, gap: bool) -> None:
        """Add a knot where the counter is seen to move; behind a gap, at its next movement."""
        before, before_ns, before_half_ns = self._raw, self._raw_ns, self._raw_half_ns
        self._raw, self._raw_ns, self._raw_half_ns = joules, t_ns, half_ns
        if before is None or joules == before:
            return
        track = self._counter
        self._lose(t_ns, joules < before)
        if gap or t_ns - before_ns > _GAP_NS:
            self._gapped = True
            self._moved_in_gap += joules - before
            return
        begin_ns, end_ns = before_ns - before_half_ns, t_ns + half_ns
        middle_ns, width_ns = (begin_ns + end_ns) // 2, (end_ns - begin_ns) // 2
        added = joules - before + self._moved_in_gap
        if not track.knots:
            track.append(middle_ns, None, width_ns)
        else:
            last = track.knots[-1]
            span_s = (middle_ns - last.t_ns) / 1e9
            self._append_movement(middle_ns, width_ns, added, span_s)
            track.intervals_s.append(span_s)
        self._lost = self._gapped = False
        self._moved_in_gap = 0.0
        track.learn_step(joules - before, joules - before - self._last_added)
        self._last_added = joules - before

    def _append_movement(self, t_ns: int, width_ns: int, joules: float, span_s: float) -> None:
        """Add what a counter added, unless the power readings show that it lost some of it."""
        track, last = self._counter, self._counter.knots[-1]
        since_ns = last.t_ns - int(_AROUND_S * 1e9)
        watts = [each for at_ns, each in self._recent if at_ns >= since_ns]
        low, high, doubt = 0.0, _UNKNOWN_WATTS, 0.0
        if watts and not self._gapped:
            low, high = min(watts), max(watts)
            sides_s = (width_ns + last.half_ns) / 1e9
            tolerance = _AGREE * joules + min(track.step, joules) + (high - low) * _AROUND_S
            tolerance += high * sides_s
            self._lost |= low * span_s > joules + tolerance
            doubt = max(joules - high * span_s - tolerance, 0.0)
            if doubt:
                low, high = 0.0, _UNKNOWN_WATTS
        if not self._lost and not self._power.knots:
            self._widen(joules / max(span_s, 0.1))
        self._lost |= last.t_ns < self._distrust_until_ns
        lost = self._lost or joules > self._plausible_watts * (span_s + 2 * width_ns / 1e9 + 1)
        track.append(
            t_ns,
            None if lost else joules,
            width_ns,
            covered=not self._gapped,
            doubt=0.0 if lost else doubt,
            low=low,
            high=high,
        )

    def _lose(self, t_ns: int, lost: bool) -> None:
        """Distrust a counter that was restarted: what was on its way then may be missing."""
        if lost:
            self._lost = True
            self._distrust_until_ns = t_ns + int(self.wait_s * 1e9)

    def _widen(self, watts: float) -> None:
        low, high = self._extremes
        self._extremes = (min(low, watts) if high else watts, max(high, watts))

    def interrupt(self, now_ns: int) -> None:
        """Note that the machine was suspended since the last reading."""
        self._failed = self._gapped = self._lost = True

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Do nothing: a meter at the wall is too slow to show a phase."""

    @property
    def period_s(self) -> float | None:
        """Time between two changes of the reading, as learned; None while unknown."""
        known = [p for track in (self._power, self._counter) if (p := track.period_s) is not None]
        return min(known, default=None)

    @property
    def resolution(self) -> tuple[float | None, float | None]:
        """Smallest steps of power (watts) and counter (joules), as learned; None while unknown."""
        steps = (self._power.step, self._counter.step)
        return steps[0] if steps[0] < math.inf else None, steps[1] if steps[1] < math.inf else None

    @property
    def wait_s(self) -> float:
        """Time after which an interval that has ended no longer changes."""
        return self.lag.seconds + self._late_s

    @property
    def recorded_since_ns(self) -> int | None:
        """Time of the oldest knot that is kept; None without one."""
        return min((track.knots[0].t_ns for track in self._tracks), default=None)

    def settled(self, end_ns: int, now_ns: int) -> bool:
        """Return True: waiting until a meter at the wall has settled takes too long."""
        return True

    def cross_check(self, start_ns: int, end_ns: int) -> CrossCheck | None:
        """Return None: the tracks of a wall meter are compared in :meth:`energy`."""
        return None

    def energy(self, start_ns: int, end_ns: int) -> ChannelEnergy | None:
        """Compute the energy of an interval; None when no part of it was recorded."""
        if end_ns <= start_ns:
            return None
        late_joules = self._bound_lag(start_ns, end_ns) if self._tracks else 0.0
        found = [
            part for t in self._tracks if (part := self._measure(t, start_ns, end_ns, late_joules))
        ]
        if not found:
            return None
        # A track that covers more is better than one that knows a part precisely.
        best, *others = sorted(found, key=lambda part: (-round(part.coverage, 1), part.uncertainty))
        for other in others:
            apart = abs(best.joules - other.joules)
            near = best.uncertainty
            if min(best.coverage, other.coverage) <= _WHOLE or apart <= near:
                continue
            # Which of the two is right is not known: the half width covers both.
            halves = best.half_widths.widen(apart + other.uncertainty)
            flags = best.flags
            if apart > near + other.uncertainty + _AGREE * best.joules - 2 * late_joules:
                flags = (*flags, "disagrees")
            return replace(best, uncertainty=halves.total, half_widths=halves, flags=flags)
        return best

    def joules_of(
        self, starts: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Compute the joules of many intervals; NaN where no part of one was recorded."""
        import numpy as np

        parts = [self.energy(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
        return np.array([math.nan if part is None else part.joules for part in parts])

    def slice_watts(self, start_ns: int, end_ns: int, slice_ns: int) -> np.ndarray[Any, Any]:
        """Compute mean watts in slices of an interval; 0 where nothing was recorded."""
        import numpy as np

        marks = np.arange(start_ns, end_ns, slice_ns)
        marks = marks if len(marks) >= 2 else np.array([start_ns, end_ns])
        joules = np.nan_to_num(self.joules_of(marks[:-1], marks[1:]))
        watts: np.ndarray[Any, Any] = joules / np.diff(marks) * 1e9
        return watts

    def joules_since_first(self, now_ns: int) -> float | None:
        """Return the known energy since the first reading; None without a record."""
        track = next(iter(reversed(self._tracks)), None)
        return None if track is None else snap(self._at(track, now_ns).joules)

    def watts_now(self, now_ns: int) -> float | None:
        """Return the newest power; None when it is not known now, or is stale."""
        if self._failed or now_ns - self.last_read_ns > _SHOWN_NS:
            return None
        if self.last_read_ns - self._changed_ns > self._stale_ns:
            return None
        if self._watts is not None or len(self._counter.knots) < 2:
            return self._watts
        newest = self._counter.knots[-1].t_ns
        found = self._counter.slopes(newest - 1, newest)
        return None if found is None else found[1]

    def age_s(self, now_ns: int) -> float | None:
        """Return the time since the reading last changed; None before the first reading."""
        return (now_ns - self._changed_ns) / 1e9 if self._changed_ns else None

    def learn_lag(
        self, now_ns: int, watts_of: Callable[[Sequence[tuple[int, int]]], Sequence[float | None]]
    ) -> None:
        """Learn how late the meter is from the joules of the channels inside, every ten seconds.

        The lag is where a rising line through the watts inside explains those at the wall best; the
        half width comes from all lags that explain them nearly as well.
        """
        import numpy as np

        if now_ns - self._learned_ns < _LEARN_NS or not self._tracks:
            return
        self._learned_ns = now_ns
        track = self._tracks[0]
        if (track.period_s or math.inf) > _SLOW_S:
            track = self._tracks[-1]
        end_ns = track.knots[-1].t_ns - int(_LAGS_S * 1e9)
        start_ns = max(end_ns - int(_LEARN_SPAN_S * 1e9), track.knots[0].t_ns)
        whole_s = (track.knots[-1].t_ns - start_ns) / 1e9
        known_s = (track.knots[-1].known_ns - track.at(start_ns).known_ns) / 1e9
        if (end_ns - start_ns) / 1e9 < _LEARN_LEAST_S or known_s < 0.99 * whole_s:
            return
        grid = np.arange(start_ns, end_ns, int(_SLICE_S * 1e9))
        joules = watts_of([(int(t), int(t + _SLICE_S * 1e9)) for t in grid])
        if any(each is None for each in joules):
            return
        inside = np.array(joules, dtype=float) / _SLICE_S
        if inside.std() < _LEAST_SWING * inside.mean():
            return
        times = np.array([knot.t_ns for knot in track.knots]) - start_ns
        totals = np.array([knot.joules for knot in track.knots])
        lags = np.arange(0.0, _LAGS_S, _LAG_STEP_S)
        follows = []
        for lag in lags:
            marks = np.append(grid, grid[-1] + int(_SLICE_S * 1e9)) - start_ns + lag * 1e9
            wall = np.diff(np.interp(marks, times, totals)) / _SLICE_S
            follows.append(max(correlate(inside, wall) or 0.0, 0.0))
        misfits = 1 - np.array(follows) ** 2
        least = float(misfits.min())
        good = lags[misfits <= max(_NEARLY * least, least + 0.005)]
        if least > 1 - _LEAST_FIT or good[-1] >= lags[-1]:
            return
        half = float(good[-1] - good[0]) / 2 + _LAG_STEP_S + (track.period_s or 0.0) / 2
        found = WallLag(float(good[0] + good[-1]) / 2, half, learned=True)
        apart_s = abs(found.seconds - self.lag.seconds)
        if half <= self.lag.half_seconds or apart_s > half + self.lag.half_seconds:
            self.lag = found

    @property
    def _tracks(self) -> list[KnotTrack]:
        """The tracks with an interval: counter, power."""
        return [track for track in (self._counter, self._power) if len(track.knots) > 1]

    @property
    def _stale_ns(self) -> int:
        """Longest time without a change in which the meter is believed to be alive."""
        intervals = sorted(self._power.intervals_s or self._counter.intervals_s)
        if not intervals:
            return int(_UNKNOWN_STALE_S * 1e9)
        usual_s, most_s = intervals[len(intervals) // 2], intervals[-1]
        longest_s = max(_STALE_PERIODS * usual_s, _STALE_LONGEST * most_s)
        return int(min(max(longest_s, _STALE_S[0]), _STALE_S[1]) * 1e9)

    def _at(self, track: KnotTrack, t_ns: int) -> KnotPoint:
        """Return the totals at a time; behind the last knot, as far as the meter is alive."""
        last = track.knots[-1]
        if t_ns <= last.t_ns:
            return track.at(t_ns)
        read_ns = self._raw_ns if track is self._counter else self._power_ns
        holds = not self._failed and read_ns == self.last_read_ns
        is_stale = self.last_read_ns - self._changed_ns > self._stale_ns
        alive_ns = self._changed_ns if is_stale else read_ns
        end_ns = min(t_ns, alive_ns + (holds and not is_stale) * _HOLD_NS)
        slopes = track.slopes(last.t_ns - 1, last.t_ns)
        if end_ns <= last.t_ns or slopes is None or (track is self._counter and self._gapped):
            return KnotPoint(last.joules, last.known_ns, last.covered_ns, last.doubt, 0.0)
        watts, reach_ns = slopes[1], end_ns - last.t_ns
        swing = self._find_swing((last.t_ns - reach_ns, last.t_ns))
        if self._power.knots:  # the newest reading says more than the last stretch
            watts = self._watts or watts
            swing = max(swing, abs(watts - slopes[1]))
        else:
            swing = max(swing, watts)
        return KnotPoint(
            last.joules + watts * reach_ns / 1e9,
            last.known_ns + reach_ns,
            last.covered_ns + reach_ns,
            last.doubt,
            swing * reach_ns / 1e9 + watts * last.half_ns / 1e9,
        )

    def _bound_lag(self, start_ns: int, end_ns: int) -> float:
        """Bound what the unknown part of the lag is worth, joules."""
        late_ns = int(self._late_s * 1e9)
        ends = (t_ns + int(self.lag.seconds * 1e9) for t_ns in (start_ns, end_ns))
        spans = [(t_ns - late_ns, t_ns + late_ns) for t_ns in ends]
        return self._find_swing(*spans) * self._late_s

    @property
    def _late_s(self) -> float:
        """Half width of the lag: a power is the mean of a refresh, and is held for another one."""
        period_s = _LONGEST_LAG_S if self.period_s is None else self.period_s
        return self.lag.half_seconds + (1 if self.lag.learned else 2) * period_s

    def _measure(
        self, track: KnotTrack, start_ns: int, end_ns: int, late_joules: float
    ) -> ChannelEnergy | None:
        lag_ns = int(self.lag.seconds * 1e9)
        first_ns, last_ns = start_ns + lag_ns, end_ns + lag_ns
        first, last = self._at(track, first_ns), self._at(track, last_ns)
        span_s = (end_ns - start_ns) / 1e9
        known_s = (last.known_ns - first.known_ns) / 1e9
        if known_s <= 0 or first_ns < track.knots[0].t_ns - 1e9 * span_s:
            return None
        joules = snap(last.joules) - snap(first.joules)
        shared = first.half + last.half + late_joules
        unknown = GRID_JOULES + last.doubt - first.doubt
        is_counter = track is self._counter
        learned = track.step < math.inf
        if is_counter:
            unknown += track.step if learned else joules
        else:
            unknown += (track.step if learned else _UNLEARNED_WATTS) * span_s
        missing_s = max(span_s - known_s, 0.0)
        unknown += missing_s * self._extremes[1]
        halves = HalfWidths(shared, 0.0, self.channel.relative_error * joules, unknown)
        covered = min(max((last.covered_ns - first.covered_ns) / 1e9 / span_s, 0.0), 1.0)
        flags = ["coarse"] if span_s < 4 * (track.period_s or 0.0) else []
        flags += ["gap"] if covered < 0.999 else []
        final_ns = last_ns + int(self._late_s * 1e9)
        flags += ["extrapolated"] if final_ns > track.knots[-1].t_ns else []
        slopes = self._tracks[-1].slopes(first_ns, last_ns)
        return ChannelEnergy(
            id=self.channel.id,
            kind=Kind.COUNTER if is_counter else Kind.INTEGRATED,
            joules=joules,
            uncertainty=halves.total,
            coverage=covered if covered < 0.999999 else 1.0,
            mean_watts=joules / span_s,
            peak_watts=slopes[1] if slopes else None,
            flags=tuple(flags),
            half_widths=halves,
        )

    def _find_swing(self, *spans: tuple[int, int]) -> float:
        """Return how far the power changed in some times; ever, where one is not on record."""
        low, high = self._extremes
        track = self._tracks[-1]
        if all(end <= self.last_read_ns and track.knows(start, end) for start, end in spans):
            found = [slopes for start, end in spans if (slopes := track.slopes(start, end))]
            if found:
                low, high = min(s[0] for s in found), max(s[1] for s in found)
        return high - low if self._power.knots else high  # a counter hides what is in a tick


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None
