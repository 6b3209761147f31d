"""A cumulative hardware counter as a function of time.

Knots are placed only where the counter moved, and energy is linear between them. Of an interval
that contains many edges, only the two ends are uncertain. In a tick of T seconds with mean power P,
let D be the largest deviation from P of power readings and of mean powers of the ticks around it.
The power inside may have swung by twice as much, since a mean hides half of a swing; then the
energy x seconds after the edge is off by at most

    max(min(x 2D, (T - x) min(2D, P)), min(x min(2D, P), (T - x) 2D))

and for power that changes quickly (kernels of single tokens) by two standard deviations of a
Brownian bridge, 2 s sqrt(x (T - x)), with s the scatter of the ticks' means. The larger one counts,
plus P times the uncertainty of the time of the edge itself.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple

from etui.energy._recordings.columns import Point, Recording
from etui.energy._recordings.edges import DriverClock, Edge, EdgeClock, count_joules
from etui.energy._recordings.fits import fit_steps
from etui.energy._recordings.power import PowerRecording

if TYPE_CHECKING:
    import numpy as np

_TYPICAL_PERIOD_NS = 1e8
_LONG_TICKS = 5
_EDGES_AFTER = 2
"""Edges after a mark that its fit waits for: one full tick after the step."""
_FIT_EDGES = 4
"""Edges before a mark between which the power is taken as level."""
_HISTORY_EDGES = 32
"""Edges before a mark whose ticks give the levels of the phases."""
_SIGMAS = 2.5
"""Half width of a fitted mark in standard deviations, which are themselves estimated."""
_JITTER_TICKS = 20
_MARK_HALF_S = 0.002
"""Time by which the power may step before or after the engine's event, seconds."""
_RESUME_NS = 500_000_000
"""What a counter adds in its first movements after a suspend may have been used before."""


class Knot(NamedTuple):
    """A time at which the energy is known, with the totals up to it: an edge, or a fitted mark."""

    t_ns: int
    joules: float
    covered_ns: float
    known_ns: float
    half_ns: float = 0.0  # Half width of `t_ns`; 0 for a mark
    noise: float = 0.0  # Half width of `joules` that the fit of a mark leaves
    systematic: float = 0.0  # Half width of `joules`, since the power may step off the mark
    is_added: bool = False  # A mark, or read at one: its tick is not a regular one

    @property
    def is_mark(self) -> bool:
        """Whether it is a fitted mark."""
        return self.is_added and self.half_ns == 0.0


class CounterRecording(Recording[Knot]):
    """The record of one counter; it was last read at ``_read_ns``, and last moved at ``last_ns``.

    Reads further apart than ``gap_s`` leave a gap in the coverage. The power readings of the same
    channel are used where the counter gives no information.
    """

    def __init__(
        self,
        *,
        keep: int,
        gap_s: float,
        max_watts: float,
        power: PowerRecording,
        range_joules: float | None = None,
        period_s: float | None = None,
    ) -> None:
        super().__init__(Knot, keep)
        self._clock = EdgeClock(period_s)
        self._gap_ns = gap_s * 1e9
        self._max_watts = max_watts
        self._range = range_joules
        self._power = power
        self._raw: float | None = None
        self._read_ns = 0
        self._half_ns = 0
        self._anchor_ns = 0
        self._gap = False
        self._still = False
        self._driver = DriverClock()
        self._distrust_until_ns = 0
        self._uneven_s = 0.0
        self.resets = 0

    @property
    def period_s(self) -> float | None:
        """Time between two refreshes in seconds; None while unknown."""
        period = self._clock.period_ns
        return None if period is None else period / 1e9

    def observe(
        self,
        t_ns: int,
        joules: float | None,
        updated_ns: int | None = None,
        *,
        added: bool = False,
        half_ns: int = 0,
    ) -> None:
        """Add a reading, within ``half_ns`` of a time; ``added`` at a mark, close to another one.

        None, NaN, infinite and negative values are failed reads.
        """
        if joules is None or not math.isfinite(joules) or joules < 0:
            self._gap = True
            return
        if self._raw is None:
            self._raw, self._read_ns, self._half_ns, self._anchor_ns = joules, t_ns, half_ns, t_ns
            return
        since_ns, now_ns = t_ns - half_ns, t_ns + half_ns
        if t_ns <= self._read_ns:
            return
        if joules < self._raw and since_ns <= self._read_ns + self._half_ns:
            return  # another thread's read overtook it
        is_vague = half_ns > self._period_ns + 4 * self._half_ns
        if is_vague and t_ns - self._read_ns < self._gap_ns / 4:
            return  # it was held up, and the next one says more
        before, before_ns = self._raw, self._read_ns - self._half_ns
        seconds = (now_ns - self._anchor_ns + self._period_ns) / 1e9
        added_joules = count_joules(
            before, joules, seconds=seconds, range_joules=self._range, max_watts=self._max_watts
        )
        if t_ns - self._read_ns > self._gap_ns:
            self._gap = True
        self._raw, self._read_ns, self._half_ns = joules, t_ns, half_ns
        if added_joules == 0:
            self._driver.still(updated_ns)
            self._still = True
            self._clock.still(before_ns, now_ns)
            return
        if t_ns < self._distrust_until_ns:
            added_joules = None
        edge = self._locate_edge(before_ns, since_ns, now_ns, updated_ns)
        self._append(edge, added_joules, added)
        self._anchor_ns = edge.t_ns
        self._still = self._gap = False
        self._place_marks()

    def interrupt(self, now_ns: int) -> None:
        """Note that the machine was suspended: what the counter adds then was not used now."""
        self._distrust_until_ns = now_ns + _RESUME_NS
        self._gap = True

    def at(self, t_ns: int) -> Point:
        upper = self._rows.search(t_ns)
        if upper == 0:
            return self._before_first(t_ns)
        if upper == len(self._rows):
            return self._after_last(t_ns)
        a, b = self._rows.row(upper - 1), self._rows.row(upper)
        watts = (b.joules - a.joules) / (b.t_ns - a.t_ns) * 1e9
        share = (t_ns - a.t_ns) / (b.t_ns - a.t_ns)
        left = 1 - share
        tick = self._bound_tick(upper, a, b, share)
        return Point(
            joules=a.joules + share * (b.joules - a.joules),
            covered_ns=a.covered_ns + share * (b.covered_ns - a.covered_ns),
            known_ns=a.known_ns + share * (b.known_ns - a.known_ns),
            systematic=tick + left * a.systematic + share * b.systematic,
            noise=watts * (left * a.half_ns + share * b.half_ns) / 1e9
            + left * a.noise
            + share * b.noise,
        )

    def totals(
        self, times: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        import numpy as np

        joules, known = np.empty(len(times)), np.empty(len(times))
        t, e, k = (self._rows.column(name) for name in ("t_ns", "joules", "known_ns"))
        upper = t.searchsorted(times, side="right")
        inside = (upper > 0) & (upper < len(self._rows))
        high = upper[inside]
        share = (times[inside] - t[high - 1]) / (t[high] - t[high - 1])
        joules[inside] = e[high - 1] + share * (e[high] - e[high - 1])
        known[inside] = k[high - 1] + share * (k[high] - k[high - 1])
        for index in np.flatnonzero(~inside):
            point = self.at(int(times[index]))
            joules[index], known[index] = point.joules, point.known_ns
        return joules, known

    def slopes(self, start_ns: int, end_ns: int) -> tuple[float, float] | None:
        """Return the smallest and largest mean watts of the ticks that overlap an interval."""
        low = max(self._rows.search(start_ns) - 1, 0)
        high = min(self._rows.search(end_ns) + 1, len(self._rows))
        if high - low < 2:
            return None
        watts = self._find_ticks(low, high)[1]
        return (float(watts.min()), float(watts.max())) if len(watts) else None

    @property
    def _period_ns(self) -> float:
        return self._clock.period_ns or _TYPICAL_PERIOD_NS

    def _find_ticks(self, low: int, high: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the ends and mean watts of the ticks between two knots, without added reads."""
        added = self._rows.column("is_added")
        while low > 0 and added[low]:
            low -= 1
        while high < len(self._rows) and added[high - 1]:
            high += 1
        regular = ~added[low:high]
        times = self._rows.column("t_ns")[low:high][regular]
        joules = self._rows.column("joules")[low:high][regular]
        watts: np.ndarray[Any, Any] = (joules[1:] - joules[:-1]) / (times[1:] - times[:-1]) * 1e9
        return times, watts

    def _locate_edge(
        self, before_ns: int, since_ns: int, now_ns: int, updated_ns: int | None
    ) -> Edge:
        if self._gap:
            self._clock.lose()
        period_ns = self._clock.period_ns
        dated = self._driver.moved(before_ns, now_ns, updated_ns, period_ns, since_ns)
        if dated is not None:
            return self._clock.place(dated.t_ns, dated.half_ns)
        still = self._still
        return self._clock.moved(before_ns, now_ns, stood_still=still, since_ns=since_ns)

    def _place_marks(self) -> None:
        """Fit the energy at the marks that have enough edges after them, and keep it as a knot.

        A knot at a mark is final, so that an interval that has settled does not change.
        """
        while self._marks and len(self._rows) >= 3:
            upper = self._rows.search(self._marks[0].t_ns)
            if len(self._rows) - upper < _EDGES_AFTER:
                return
            if upper:
                self._place_mark(self._marks[0].t_ns, upper)
            self._keep_mark(self._marks.pop(0))

    def _place_mark(self, mark_ns: int, upper: int) -> None:
        a, b = self._rows.row(upper - 1), self._rows.row(upper)
        if a.t_ns == mark_ns:
            return
        knots = self._find_fit_knots(upper)
        edges_before = sum(knot.t_ns < mark_ns for knot in knots)
        if edges_before < 2:
            return  # a gap or a reset: how the power went is not known
        marks, phases = self._list_marks(knots[0].t_ns, knots[-1].t_ns)
        if edges_before > _FIT_EDGES:
            # The level of a long phase may drift: here it is only nearly that of before.
            near_ns = knots[edges_before - _FIT_EDGES].t_ns
            at = bisect_left(marks, near_ns)
            marks.insert(at, near_ns)
            phases.insert(at, phases[at])
        uneven_s = self._estimate_jitter(upper)
        edges = [
            (
                (knot.t_ns - a.t_ns) / 1e9,
                knot.joules - a.joules,
                math.hypot(knot.half_ns / 1e9 / math.sqrt(3), uneven_s),
            )
            for knot in knots
        ]
        at = marks.index(mark_ns)
        found = fit_steps([(each - a.t_ns) / 1e9 for each in marks], edges, phases, at)[0]
        share = (mark_ns - a.t_ns) / (b.t_ns - a.t_ns)
        joules = min(max(found.joules, 0.0), b.joules - a.joules)
        mark = Knot(
            t_ns=mark_ns,
            joules=a.joules + joules,
            covered_ns=a.covered_ns + share * (b.covered_ns - a.covered_ns),
            known_ns=a.known_ns + share * (b.known_ns - a.known_ns),
            noise=math.hypot(
                _SIGMAS * found.own_joules, found.misfit_joules, found.joules - joules
            ),
            systematic=math.hypot(_SIGMAS * found.shared_joules, found.step_watts * _MARK_HALF_S),
            is_added=True,
        )
        self._rows.insert(upper, mark)

    def _find_fit_knots(self, upper: int) -> list[Knot]:
        """Return the edges to fit around a tick, without marks; those before a gap do not count."""
        edges: list[Knot] = []
        low = upper
        while low > 0 and len(edges) < _HISTORY_EDGES:
            low -= 1
            knot = self._rows.row(low)
            if not knot.is_mark:
                edges.insert(0, knot)
        last = edges[-1].t_ns if edges else 0
        edges += [
            self._rows.row(index)
            for index in range(upper, min(upper + _EDGES_AFTER, len(self._rows)))
        ]
        for index in range(len(edges) - 1, 0, -1):
            p, q = edges[index - 1], edges[index]
            if q.covered_ns - p.covered_ns < q.t_ns - p.t_ns:
                return edges[index:] if p.t_ns < last else []
        return edges

    def _estimate_jitter(self, upper: int) -> float:
        """Estimate how far edges are off their times, from the ticks before, seconds.

        At constant power P a tick of T seconds between edges that are off by s each has a mean
        power off by P s sqrt(2) / T, and the step to the next tick one off by P s sqrt(6) / T. The
        median does not see the few steps that are real. Ticks with marks do not count: where turns
        follow each other, all steps are real, and the estimate from before holds.
        """
        times, watts = self._find_ticks(max(upper - _JITTER_TICKS, 0), upper)
        marks, _ = self._list_marks(int(times[0]), int(times[-1])) if len(times) else ([], [])
        marked = times.searchsorted(marks) - 1
        level = [i for i in range(len(watts) - 1) if not {i, i + 1} & set(marked.tolist())]
        if len(level) >= 4:
            a, b = watts[level], watts[[i + 1 for i in level]]
            steps = sorted((abs(b - a) / (a + b) * 2).tolist())
            self._uneven_s = float(
                1.8 * steps[len(steps) // 2] * (self._period_ns / 1e9) / math.sqrt(6)
            )
        return self._uneven_s

    def _append(self, edge: Edge, delta: float | None, added: bool) -> None:
        """Add a knot; without a delta the counter was reset, and power readings replace it."""
        if not len(self._rows):
            self._rows.append(Knot(edge.t_ns, 0.0, 0.0, 0.0, edge.half_ns))
            return
        last = self._rows.row(-1)
        t_ns = max(edge.t_ns, last.t_ns + 1)
        joules, known, covered = delta, float(t_ns - last.t_ns), float(t_ns - last.t_ns)
        if joules is None:
            self.resets += 1
            self._clock.lose()
            joules, known = self._power.between(last.t_ns, t_ns)
        if delta is None or self._gap:
            covered = 0.0
        self._rows.append(
            Knot(
                t_ns,
                last.joules + joules,
                last.covered_ns + covered,
                last.known_ns + known,
                edge.half_ns,
                is_added=added and delta is not None,
            )
        )

    def _before_first(self, t_ns: int) -> Point:
        if not len(self._rows):
            return Point(0.0, 0.0, 0.0, 0.0)
        first = self._rows.row(0)
        joules, known = self._power.between(t_ns, first.t_ns)
        return Point(
            joules=first.joules - joules,
            covered_ns=first.covered_ns - known,
            known_ns=first.known_ns - known,
            systematic=self._spread(t_ns, first.t_ns) * 0.1,
        )

    def _after_last(self, t_ns: int) -> Point:
        last = self._rows.row(-1)
        span = float(t_ns - last.t_ns)
        noise = self._slope() * last.half_ns / 1e9
        if span == 0:
            return Point(last.joules, last.covered_ns, last.known_ns, 0.0, noise=noise)
        joules, known = self._power.between(last.t_ns, t_ns)
        if known < span:
            reach = min(span, 1.5 * self._period_ns)
            if reach > known:
                joules, known = self._slope() * reach / 1e9, reach
        read = 0.0 if self._gap else float(max(min(t_ns, self._read_ns) - last.t_ns, 0))
        swung_s = min(span, 2 * self._period_ns) / 1e9
        return Point(
            joules=last.joules + joules,
            covered_ns=last.covered_ns + read,
            known_ns=last.known_ns + known,
            systematic=self._spread(last.t_ns, t_ns) * swung_s + 0.05 * abs(joules),
            noise=noise,
        )

    def _slope(self) -> float:
        """Return the mean watts of the last tick."""
        if len(self._rows) < 2:
            return 0.0
        watts = self._find_ticks(len(self._rows) - 2, len(self._rows))[1]
        return float(watts[-1]) if len(watts) else 0.0

    def _spread(self, start_ns: int, end_ns: int) -> float:
        low, high = self._estimate_range(start_ns, end_ns)
        return high - low

    def _estimate_range(self, start_ns: int, end_ns: int) -> tuple[float, float]:
        """Bound the watts drawn in an interval by the readings and ticks around it."""
        margin = int(2 * self._period_ns)
        around = start_ns - margin, end_ns + margin
        found = [pair for pair in (self.slopes(*around), self._power.extremes(*around)) if pair]
        if not found:
            return 0.0, 0.0
        low = min(pair[0] for pair in found)
        high = max(pair[1] for pair in found)
        return max(0.0, low - 0.02 * high), 1.02 * high

    def _bound_tick(self, upper: int, a: Knot, b: Knot, share: float) -> float:
        """Bound the error of linear interpolation inside the tick from ``a`` to ``b``, joules."""
        seconds = (b.t_ns - a.t_ns) / 1e9
        mean = (b.joules - a.joules) / seconds
        low, high = self._estimate_range(a.t_ns, b.t_ns)
        swing = 2 * max(high - mean, mean - low, 0.0)
        if seconds > _LONG_TICKS * self._period_ns / 1e9:
            # A bridged gap: power may have been anything from 0 to the largest ever measured.
            swing = max(swing, mean, self.most_watts - mean)
        above, below = swing, min(swing, mean)
        done, left = share * seconds, (1 - share) * seconds
        steps = max(min(done * above, left * below), min(done * below, left * above))
        wander = 2 * self._scatter(upper) * math.sqrt(done * left)
        return float(max(steps, wander))

    @property
    def most_watts(self) -> float:
        """Largest mean watts of a tick on record; 0 without one."""
        if not len(self._rows):
            return 0.0
        found = self.slopes(self._rows.row(0).t_ns, self._rows.row(-1).t_ns)
        return found[1] if found else 0.0

    def _scatter(self, upper: int) -> float:
        """Compute the standard deviation of a tick's mean watts from the steps around it."""
        low, high = max(upper - 6, 0), min(upper + 6, len(self._rows))
        if high - low < 4:
            return 0.0
        watts = self._find_ticks(low, high)[1]
        steps = watts[1:] - watts[:-1]
        return math.sqrt(float((steps * steps).mean()) / 2) if len(steps) else 0.0
