"""Energy over time as knots, with bounds of the power between them.

Energy is linear between two knots. In a stretch of T seconds with J joules and power from p to q,
the energy x seconds after its begin is at most min(q x, J - p (T - x)) and at least
max(p x, J - q (T - x)).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from itertools import pairwise
from typing import NamedTuple

UNKNOWN_WATTS = 1e9
"""Upper bound of a power that no reading bounds."""


class Knot(NamedTuple):
    """A time with the totals up to it, and the power since the knot before it."""

    t_ns: int
    half_ns: int = 0  # Half width of `t_ns`
    joules: float = 0.0
    known_ns: int = 0
    covered_ns: int = 0
    doubt: float = 0.0  # Half width of `joules` that no end of an interval has, joules
    low: float = 0.0
    high: float = UNKNOWN_WATTS


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
        high: float = UNKNOWN_WATTS,
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
        return bisect_right(self.knots, t_ns, key=_get_time)

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


def _get_time(knot: Knot) -> int:
    return knot.t_ns
