"""When a counter moved: pure arithmetic on the reads around each movement.

A hardware counter is refreshed now and then (NVML about every 100 ms, RAPL every millisecond) and
stands still in between. Two reads that differ say only that an edge lies between them. Reads around
many edges of one regular counter narrow each edge down much further than the reads around it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StepKind(StrEnum):
    """What a second reading of a cumulative counter means."""

    STILL = "still"
    MOVED = "moved"
    WRAPPED = "wrapped"
    """It ran over its range once and began at 0 again."""
    RESET = "reset"
    """It began again for another reason, or jumped: the energy in between is not known."""


@dataclass(frozen=True, slots=True)
class CounterStep:
    """From one reading to the next; ``joules`` is None where it cannot be known."""

    kind: StepKind
    joules: float | None


def unwrap(
    before: float, now: float, *, seconds: float, range_joules: float | None, max_watts: float
) -> CounterStep:
    """What happened between two readings of a cumulative counter.

    Args:
        before, now: The readings, joules.
        seconds: Time in which the energy was spent, at least (one refresh more than between reads).
        range_joules: Where the counter starts again at 0; None if it never does.
        max_watts: More power than this is not believed.
    """
    most = max_watts * max(seconds, 0.0)
    if range_joules is not None and most > range_joules:
        return CounterStep(StepKind.RESET, None)  # it may have run over more than once
    if now == before:
        return CounterStep(StepKind.STILL, 0.0)
    if now > before:
        delta = now - before
        return (
            CounterStep(StepKind.MOVED, delta)
            if delta <= most
            else CounterStep(StepKind.RESET, None)
        )
    if range_joules is not None:
        delta = now + range_joules - before
        if 0 <= delta <= most:
            return CounterStep(StepKind.WRAPPED, delta)
    return CounterStep(StepKind.RESET, None)


@dataclass(frozen=True, slots=True)
class Edge:
    """When a counter moved: the true time lies within ``half_ns`` of ``t_ns``."""

    t_ns: int
    half_ns: int


class EdgeClock:
    """Learns a counter's period and phase from the reads around its movements.

    The first dense reads give the period. From then on each edge lies where both the reads around
    it and the beat of the edges before it allow; where the reads push it off the beat, the period
    follows a little. An edge that does not fit at all widens the drift that is allowed; edges that
    fit narrow it again.

    Args:
        period_s: Expected period in seconds; None when nothing is known.
    """

    _FIRST_EDGES = 12
    _GAIN = 0.03
    _FOLLOW = 0.05
    """Share by which the period may move away from what the first dense reads gave."""
    _MOST_BLIND = 2
    _LEAST_SLACK, _MOST_SLACK = 0.01, 0.2
    """Share of a period by which one edge may lie off a regular beat."""

    def __init__(self, period_s: float | None = None) -> None:
        self._hint_ns = None if period_s is None else period_s * 1e9
        self._first: list[float] = []
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

    def moved(self, before_ns: int, now_ns: int, *, stood_still: bool) -> Edge:
        """The edge between two reads that differ.

        Args:
            before_ns, now_ns: Times of the two reads.
            stood_still: Whether a read since the last edge found the counter unmoved, so that the
                reads are dense enough to see single refreshes.
        """
        low, high = float(before_ns), float(now_ns)
        self._learn((low + high) / 2, (high - low) / 2, stood_still)
        period = self.period_ns
        if period is not None:
            # A gap that may hold several refreshes says little of the beat; too many, nothing.
            self._blind = self._blind + 1 if now_ns - before_ns > 0.75 * period else 0
            low = max(low, high - period * (1 + self._slack))
        if self._blind > self._MOST_BLIND:
            self.lose()
        narrowed = self._narrow(low, high)
        if narrowed is not None:
            low, high = narrowed
        if narrowed is None and self._blind:
            self.lose()  # where such an edge lies is a guess by the period, no base to learn from
        else:
            self._low, self._high = low, high
        return Edge(int((low + high) / 2), int((high - low) / 2))

    def place(self, t_ns: int, half_ns: int) -> Edge:
        """An edge whose time somebody knows (the driver), kept for the period."""
        self._learn(float(t_ns), float(half_ns), True)
        self._low, self._high = float(t_ns - half_ns), float(t_ns + half_ns)
        return Edge(t_ns, half_ns)

    def still(self, before_ns: int, now_ns: int) -> None:
        """Two reads found the same value: a period much shorter than that is wrong."""
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
        """The period, from the first run of edges between which the counter was seen to stand."""
        if self._first:
            between = middle - self._first[-1]
            if self._learned_ns is not None and single and between < 0.5 * self._learned_ns:
                self._forget()  # what was learned spanned several refreshes
            elif not single or half > 0.3 * between:
                self._first = [] if self._learned_ns is None else self._first
            elif self._learned_ns is not None and between > 1.5 * self._learned_ns:
                return
        if len(self._first) < self._FIRST_EDGES:
            self._first.append(middle)
            if len(self._first) >= 3:
                count = len(self._first) - 1
                self._learned_ns = (self._first[-1] - self._first[0]) / count
                self._measured_ns = self._learned_ns

    def _narrow(self, low: float, high: float) -> tuple[float, float] | None:
        """Cut the bracket down to where a regular beat puts the edge, if it fits at all."""
        period = self._learned_ns
        if period is None or self._low is None or self._high is None:
            return None
        last = (self._low + self._high) / 2
        ticks = round(((low + high) / 2 - last) / period)
        if not 1 <= ticks <= 20:
            return None
        slack = self._slack * period
        early = max(low, self._low + ticks * period - slack)
        late = min(high, self._high + ticks * period + slack)
        if late <= early:
            self._slack = min(2 * self._slack, self._MOST_SLACK)
            return None
        self._slack = max(0.97 * self._slack, self._LEAST_SLACK)
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
            return max(low, middle - least / 2), min(high, middle + least / 2)
        return early, late
