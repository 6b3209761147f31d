"""Power as a function of time, with an exact integral."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class WattCurve:
    """Straight lines between points, with jumps where two points share a time."""

    points: tuple[tuple[float, float], ...]
    """(seconds, watts), times not decreasing; the end values continue on both sides."""
    _times: list[float] = field(init=False, repr=False, compare=False)
    _joules: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        times = [t for t, _ in self.points]
        if not times or any(b < a for a, b in pairwise(times)):
            raise ValueError("a power curve needs points in order of time")
        joules = [0.0]
        for (t0, w0), (t1, w1) in pairwise(self.points):
            joules.append(joules[-1] + (t1 - t0) * (w0 + w1) / 2)
        object.__setattr__(self, "_times", times)
        object.__setattr__(self, "_joules", joules)

    def watts(self, seconds: float) -> float:
        """Return the power at a time; at a jump, the power after it."""
        at = bisect_right(self._times, seconds)
        if at == 0:
            return self.points[0][1]
        if at == len(self.points):
            return self.points[-1][1]
        (t0, w0), (t1, w1) = self.points[at - 1], self.points[at]
        return w0 + (w1 - w0) * (seconds - t0) / (t1 - t0)

    def joules(self, seconds: float) -> float:
        """Return the energy from the first point to a time; negative before it."""
        at = bisect_right(self._times, seconds)
        if at == 0:
            return (seconds - self._times[0]) * self.points[0][1]
        t0, w0 = self.points[at - 1]
        return self._joules[at - 1] + (seconds - t0) * (w0 + self.watts(seconds)) / 2

    def between(self, start_s: float, end_s: float) -> float:
        """Return the energy of an interval, joules."""
        return self.joules(end_s) - self.joules(start_s)


def steps(levels: Sequence[tuple[float, float]]) -> WattCurve:
    """Build plateaus of (length in seconds, watts)."""
    points: list[tuple[float, float]] = []
    now = 0.0
    for length, watts in levels:
        points += [(now, watts), (now + length, watts)]
        now += length
    return WattCurve(tuple(points))


def constant(watts: float, seconds: float) -> WattCurve:
    """Build a constant power."""
    return steps([(seconds, watts)])


def stairs(rng: random.Random, seconds: float) -> WattCurve:
    """Draw plateaus of 1 to 6 s between 40 and 300 W."""
    return _draw_steps(rng, seconds, lambda: (rng.uniform(1, 6), rng.uniform(40, 300)))


def ramps(rng: random.Random, seconds: float) -> WattCurve:
    """Draw straight rises and falls of 0.5 to 5 s between 40 and 300 W."""
    points, now = [(0.0, 60.0)], 0.0
    while now < seconds:
        now += rng.uniform(0.5, 5)
        points.append((now, rng.uniform(40, 300)))
    return WattCurve(tuple(points))


def spikes(rng: random.Random, seconds: float) -> WattCurve:
    """Draw a base load of 120 W with spikes of 250 to 350 W that last 10 to 60 ms."""
    levels: list[tuple[float, float]] = []
    now = 0.0
    while now < seconds:
        quiet, short = rng.uniform(0.2, 1.5), rng.uniform(0.01, 0.06)
        levels += [(quiet, 120.0), (short, rng.uniform(250, 350))]
        now += quiet + short
    return steps(levels)


def bursts(rng: random.Random, seconds: float) -> WattCurve:
    """Draw a load that is on and off for random times, like answers and pauses in a chat."""
    levels: list[tuple[float, float]] = []
    now = 0.0
    while now < seconds:
        on, off = rng.uniform(0.05, 4), rng.uniform(0.05, 2)
        levels += [(on, rng.uniform(180, 300)), (off, rng.uniform(50, 70))]
        now += on + off
    return steps(levels)


def flicker(rng: random.Random, seconds: float) -> WattCurve:
    """Draw a load that changes every 5 to 40 ms around 220 W, like the kernels of one token."""
    return _draw_steps(rng, seconds, lambda: (rng.uniform(0.005, 0.04), rng.uniform(150, 290)))


def _draw_steps(
    rng: random.Random, seconds: float, draw: Callable[[], tuple[float, float]]
) -> WattCurve:
    levels: list[tuple[float, float]] = []
    now = 0.0
    while now < seconds:
        levels.append(draw())
        now += levels[-1][0]
    return steps(levels)


CURVES: dict[str, Callable[[random.Random, float], WattCurve]] = {
    "constant": lambda rng, seconds: constant(rng.uniform(40, 300), seconds),
    "stairs": stairs,
    "ramps": ramps,
    "spikes": spikes,
    "bursts": bursts,
    "flicker": flicker,
}
"""Name -> function that draws a random curve of a length in seconds."""
