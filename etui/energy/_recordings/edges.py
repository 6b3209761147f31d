"""When a counter moved: pure arithmetic on the reads around each movement.

A hardware counter is refreshed from time to time (NVML about every 100 ms, RAPL every millisecond)
and does not change in between. Two reads that differ show only that an edge is between them. Reads
around many edges of one regular counter locate each edge more precisely than the two reads around
it. The driver's timestamps do so too, once it is known how far they are off.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_STEP_NS = 2_000_000
"""A timestamp is trusted to 2 ms at best: clocks drift, and it has coarse steps."""
_EDGES = 64
_FIRST_EDGES = 6
_FIRST_STILL = 3
_USEFUL_SHARE = 0.25
_USEFUL_NS = 5_000_000
"""The beat of a regular counter places its refreshes as well as that."""
_MORE = 1.25
_FORGET = 0.99
"""Reads that are far apart hide how errors vary; what dense ones showed is forgotten slowly."""


def count_joules(
    before: float, now: float, *, seconds: float, range_joules: float | None, max_watts: float
) -> float | None:
    """Return the joules between two readings of a cumulative counter; 0 if it stood still.

    A counter that exceeds its range restarts at 0 once. None where it restarted for another reason,
    or jumped: the energy in between is not known. It was spent in ``seconds`` at most, one refresh
    more than between the reads.
    """
    most = max_watts * max(seconds, 0.0)
    if range_joules is not None and most > range_joules:
        return None  # it may have wrapped more than once
    joules = now - before
    if joules < 0 and range_joules is not None:
        joules = now + range_joules - before
    return joules if 0 <= joules <= most else None


@dataclass(frozen=True, slots=True)
class Edge:
    """When a counter moved: the true time is within ``half_ns`` of ``t_ns``."""

    t_ns: int
    half_ns: int


class EdgeClock:
    """Learns a counter's period and phase from the reads around its movements.

    The first dense reads give the period. Each later edge is placed where both the reads around it
    and the beat of the edges before it allow; where the reads move it off the beat, the period is
    adjusted slightly. An edge that does not fit at all widens the permitted drift; edges that fit
    narrow it again.
    """

    _FIRST_EDGES = 12
    _GAIN = 0.03
    _FOLLOW = 0.05
    """Share by which the period may drift from the one that the first dense reads gave."""
    _MOST_BLIND = 2
    _LEAST_SLACK, _MOST_SLACK = 0.01, 0.2
    """Share of a period by which one edge may be off a regular beat."""
    _LEAST_DOUBT = 0.002

    def __init__(self, period_s: float | None = None) -> None:
        self._hint_ns = None if period_s is None else period_s * 1e9
        self._first: list[float] = []
        self._first_half = 0.0
        self._begin_half = 0.0
        self._doubt = 0.0
        """Share by which the period may be off, as its first edges are not known precisely."""
        self._learned_ns: float | None = None
        self._measured_ns = 0.0
        self._low: float | None = None
        self._high: float | None = None
        self._slack = 0.02
        self._blind = 0

    @property
    def period_ns(self) -> float | None:
        """Time between two refreshes, nanoseconds; None while unknown."""
        return self._learned_ns if self._learned_ns is not None else self._hint_ns

    def moved(
        self, before_ns: int, now_ns: int, *, stood_still: bool, since_ns: int | None = None
    ) -> Edge:
        """Locate the edge between two reads that differ.

        The read of the old value began at ``before_ns``; that of the new one began at ``since_ns``
        (None if it took no time) and ended at ``now_ns``. If the counter ``stood_still`` at a read
        since the last edge, the reads are dense enough to resolve single refreshes.
        """
        low, high = float(before_ns), float(now_ns)
        self._learn((low + high) / 2, (high - low) / 2, stood_still)
        period = self.period_ns
        if period is not None:
            # A gap with several refreshes carries little information on the beat; many gaps, none.
            self._blind = self._blind + 1 if now_ns - before_ns > 0.75 * period else 0
            since = high if since_ns is None else float(since_ns)
            low = max(low, since - period * (1 + max(self._slack, self._doubt)))
        if self._blind > self._MOST_BLIND:
            self.lose()
        narrowed = self._narrow(low, high)
        if narrowed is not None:
            low, high, is_counted = narrowed
            if is_counted:  # else the edges before it tell the beat better
                self._low, self._high = low, high
        elif self._blind:
            self.lose()  # the position of such an edge is a guess and must not be learned from
        else:
            self._low, self._high = low, high
        return Edge(int((low + high) / 2), int((high - low) / 2))

    def place(self, t_ns: int, half_ns: int) -> Edge:
        """Record an edge at a time that the driver gives, and learn the period from it."""
        self._learn(float(t_ns), float(half_ns), True)
        self._low, self._high = float(t_ns - half_ns), float(t_ns + half_ns)
        return Edge(t_ns, half_ns)

    def still(self, before_ns: int, now_ns: int) -> None:
        """Note that two reads found the same value: a much shorter period is wrong."""
        period = self.period_ns
        if period is not None and now_ns - before_ns > 3 * period:
            self._forget()

    def lose(self) -> None:
        """Forget the phase: after a gap the beat may have shifted."""
        self._low = self._high = None

    def _forget(self) -> None:
        self._hint_ns = self._learned_ns = None
        self._first = []
        self._slack = 0.02
        self.lose()

    def _learn(self, middle: float, half: float, single: bool) -> None:
        """Learn the period from the first run of edges with an unchanged read between them."""
        if self._first:
            between = middle - self._first[-1]
            if self._learned_ns is not None and single and between < 0.5 * self._learned_ns:
                self._forget()  # the learned period spanned several refreshes
            elif not single or half > 0.3 * between:
                self._first = [] if self._learned_ns is None else self._first
            elif self._learned_ns is not None and between > 3.5 * self._learned_ns:
                return
        if len(self._first) >= 3 and half > 1.5 * self._first_half:
            return  # the dense reads are over: sparse ones would move the period by percents
        if len(self._first) < self._FIRST_EDGES:
            if not self._first:
                self._first_half = self._begin_half = half
            self._first_half = max(self._first_half, half)
            self._first.append(middle)
            if len(self._first) >= 3:
                count = len(self._first) - 1
                if self._learned_ns is not None:
                    count = round((self._first[-1] - self._first[0]) / self._learned_ns)
                self._learned_ns = (self._first[-1] - self._first[0]) / count
                self._measured_ns = self._learned_ns
                self._doubt = (self._begin_half + half) / (self._first[-1] - self._first[0])

    def _narrow(self, low: float, high: float) -> tuple[float, float, bool] | None:
        """Narrow the bracket to where a regular beat puts the edge; None if it does not fit.

        Returns its ends, and whether it is known which beat it was.
        """
        period = self._learned_ns
        if period is None or self._low is None or self._high is None:
            return None
        last = (self._low + self._high) / 2
        nearest = round(((low + high) / 2 - last) / period)
        if not 0 <= nearest <= 20:
            return None
        fits: list[tuple[float, float, int, float]] = []
        for ticks in (nearest - 1, nearest, nearest + 1):
            slack = max(self._slack, ticks * self._doubt) * period
            early = max(low, self._low + ticks * period - slack)
            late = min(high, self._high + ticks * period + slack)
            if ticks >= 1 and early < late:
                fits.append((early, late, ticks, slack))
        if len(fits) > 1:  # sparse reads do not show which refresh it was
            return fits[0][0], fits[-1][1], False
        if not fits:
            if nearest:
                self._slack = min(2 * self._slack, self._MOST_SLACK)
            return None
        [(early, late, ticks, slack)] = fits
        self._slack = max(0.97 * self._slack, self._LEAST_SLACK)
        self._doubt = max(0.97 * self._doubt, self._LEAST_DOUBT)
        push = (early + late) / 2 - (last + ticks * period)
        if not self._blind:
            followed = period + self._GAIN * push / ticks
            most = self._FOLLOW * self._measured_ns
            self._learned_ns = self._measured_ns + max(
                -most, min(most, followed - self._measured_ns)
            )
        least = 2 * slack  # the beat is not trusted further than its drift
        if late - early < least:
            middle = (early + late) / 2
            early, late = max(low, middle - least / 2), min(high, middle + least / 2)
        return early, late, True


class DriverClock:
    """Learns the error of a driver's timestamps, and dates with them the movements of a counter.

    A counter was refreshed between the read that last gave the old value and the read that first
    gave the new one. So each movement bounds the error of its timestamp, and many movements show
    whether the timestamps are late or early by a constant, by a varying time, or date something
    else.

    Timestamps are not used while fewer than six movements have been seen, nor where they date the
    call, nor where they leave more than 5 ms, or a quarter of the counter's period, either way.
    """

    def __init__(self) -> None:
        self._stamp: int | None = None
        self._least: deque[int] = deque(maxlen=_EDGES)
        self._most: deque[int] = deque(maxlen=_EDGES)
        self._same = 0
        self._changed = 0
        self._varies_ns = 0.0

    def still(self, stamp_ns: int | None) -> None:
        """Note the timestamp of a read that found the counter unchanged."""
        if stamp_ns is None or self._stamp is None:
            return
        if abs(stamp_ns - self._stamp) < _STEP_NS / 2:
            self._same += 1
        else:
            self._changed += 1  # it is the time of the call, not of the refresh

    def moved(
        self,
        before_ns: int,
        now_ns: int,
        stamp_ns: int | None,
        period_ns: float | None,
        since_ns: int | None = None,
    ) -> Edge | None:
        """Date the movement between two reads by the driver's stamp; None if that is of no use.

        Its arguments are those of :meth:`EdgeClock.moved`.
        """
        self._stamp = stamp_ns
        if stamp_ns is None:
            return None
        if period_ns is not None:
            since_ns = now_ns if since_ns is None else since_ns
            before_ns = max(before_ns, since_ns - int(1.05 * period_ns))
        found = self._date(before_ns, now_ns, stamp_ns, period_ns)
        self._least.append(stamp_ns - now_ns)
        self._most.append(stamp_ns - before_ns)
        return found

    def _date(
        self, before_ns: int, now_ns: int, stamp_ns: int, period_ns: float | None
    ) -> Edge | None:
        if len(self._least) < _FIRST_EDGES or self._same < max(_FIRST_STILL, 8 * self._changed):
            return None
        least, most = max(self._least), min(self._most)
        error_ns = (least + most) // 2
        known_ns = float(_STEP_NS)
        self._varies_ns *= _FORGET
        if least <= most:  # one error explains all; none, if that does
            error_ns = min(max(0, least), most)
            known_ns = max(error_ns - least, most - error_ns, _STEP_NS)
        else:  # it varies, and not every error was seen in full
            varies_ns = _MORE * (least - most) / 2 + _STEP_NS
            self._varies_ns = min(max(self._varies_ns, varies_ns), 4 * _USEFUL_NS)
        half_ns = max(known_ns, self._varies_ns)
        if half_ns > min(_USEFUL_NS, _USEFUL_SHARE * (period_ns or _USEFUL_NS)):
            return None
        at_ns = stamp_ns - error_ns
        low, high = max(before_ns, at_ns - half_ns), min(now_ns, at_ns + half_ns)
        if low > high:
            return None
        at_ns = min(max(at_ns, before_ns), now_ns)
        return Edge(at_ns, int(max(high - at_ns, at_ns - low)))
