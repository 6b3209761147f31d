"""When a counter moved: pure arithmetic on the reads around each movement.

A hardware counter is refreshed now and then (NVML about every 100 ms, RAPL every millisecond) and
stands still in between. Two reads that differ say only that an edge lies between them. Reads around
many edges of one regular counter narrow each edge down much further than the reads around it alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from statistics import median


class StepKind(StrEnum):
    """What a second reading of a cumulative counter means."""

    STILL = "still"
    MOVED = "moved"
    WRAPPED = "wrapped"
    """It ran over its range once and began at 0 again."""
    RESET = "reset"
    """It began again for another reason, or jumped: the energy in between is not known."""


@dataclass(frozen=True, slots=True)
class Step:
    """From one reading to the next; ``joules`` is None where it cannot be known."""

    kind: StepKind
    joules: float | None


def unwrap(
    before: float, now: float, *, seconds: float, range_joules: float | None, max_watts: float
) -> Step:
    """What happened between two readings of a cumulative counter.

    Args:
        before, now: The readings, joules.
        seconds: Time in which the energy was spent, at least (one refresh more than between reads).
        range_joules: Where the counter starts again at 0; None if it never does.
        max_watts: More power than this is not believed.
    """
    most = max_watts * max(seconds, 0.0)
    if range_joules is not None and most > range_joules:
        return Step(StepKind.RESET, None)  # it may have run over more than once
    if now == before:
        return Step(StepKind.STILL, 0.0)
    if now > before:
        delta = now - before
        return Step(StepKind.MOVED, delta) if delta <= most else Step(StepKind.RESET, None)
    if range_joules is not None:
        delta = now + range_joules - before
        if 0 <= delta <= most:
            return Step(StepKind.WRAPPED, delta)
    return Step(StepKind.RESET, None)


@dataclass(frozen=True, slots=True)
class Edge:
    """When a counter moved: the true time lies within ``half_ns`` of ``t_ns``."""

    t_ns: int
    half_ns: int


class EdgeClock:
    """Learns a counter's period and phase from the reads around its movements.

    Args:
        period_s: Expected period in seconds; None when nothing is known.
    """

    _REMEMBERED = 25
    _SLACK = 0.02
    """Share of a period by which an edge may drift from a regular beat."""

    def __init__(self, period_s: float | None = None) -> None:
        self._hint_ns = None if period_s is None else period_s * 1e9
        self._periods: deque[float] = deque(maxlen=self._REMEMBERED)
        self._learned_ns: float | None = None
        self._low: float | None = None
        self._high: float | None = None

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
        period = self.period_ns
        if period is not None:
            low = max(low, high - period * (1 + self._SLACK))
        if self._low is not None and self._high is not None:
            if stood_still:
                self._learn(low, high)
            low, high = self._narrow(low, high)
        self._low, self._high = low, high
        return Edge(int((low + high) / 2), int((high - low) / 2))

    def place(self, t_ns: int, half_ns: int) -> Edge:
        """An edge whose time somebody knows (the driver), kept for the period."""
        low, high = float(t_ns - half_ns), float(t_ns + half_ns)
        if self._low is not None:
            self._learn(low, high)
        self._low, self._high = low, high
        return Edge(t_ns, half_ns)

    def still(self, before_ns: int, now_ns: int) -> None:
        """Two reads found the same value: a period much shorter than that is wrong."""
        period = self.period_ns
        if period is not None and now_ns - before_ns > 3 * period:
            self._hint_ns = self._learned_ns = None
            self._periods.clear()

    def lose(self) -> None:
        """Forget the phase: after a gap the beat may have shifted."""
        self._low = self._high = None

    def _learn(self, low: float, high: float) -> None:
        assert self._low is not None
        assert self._high is not None
        between = (low + high - self._low - self._high) / 2
        blur = (high - low + self._high - self._low) / 2
        if between <= 0 or blur > 0.6 * between:
            return
        known = self._learned_ns
        if known is not None and between < 0.6 * known:
            self._periods.clear()  # an earlier guess spanned several refreshes
            known = None
        ticks = max(1, round(between / known)) if known is not None else 1
        self._periods.append(between / ticks)
        if len(self._periods) >= 3:
            self._learned_ns = median(self._periods)

    def _narrow(self, low: float, high: float) -> tuple[float, float]:
        """Cut the bracket down to where a regular beat puts the edge, if that fits at all."""
        period = self._learned_ns
        if period is None or self._low is None or self._high is None:
            return low, high
        ticks = round(((low + high) - (self._low + self._high)) / 2 / period)
        if not 1 <= ticks <= 20:
            return low, high
        slack = self._SLACK * period * ticks
        early = max(low, self._low + ticks * period - slack)
        late = min(high, self._high + ticks * period + slack)
        if late <= early:
            return low, high
        least = self._SLACK * period  # a beat is never trusted further than its drift
        if late - early < least:
            middle = (early + late) / 2
            return max(low, middle - least / 2), min(high, middle + least / 2)
        return early, late
