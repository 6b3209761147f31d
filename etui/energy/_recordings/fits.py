"""Energy and levels around marks of power steps, by least squares.

An engine's events say when its power steps: where an answer begins, where its first token comes,
where it ends. Between two marks the power near them is taken as level. The levels follow from the
edges of a counter (:func:`fit_steps`) or from power readings (:func:`fit_levels`); a weak prior
draws those that the readings do not determine to the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_ROUNDS = 3
_WANDER = 0.04
"""Relative scatter of the power of one tick around its level, at least."""
_LEAST_EDGE_S = 0.0002
_RELATIVE_NOISE = 0.02
_LEAST_NOISE_WATTS = 0.5


@dataclass(frozen=True, slots=True)
class EdgeSample:
    """An edge of a counter: seconds and joules from any origin, and the error of its time."""

    seconds: float
    joules: float  # Energy up to it
    sigma_s: float  # Standard deviation of `seconds`
    sigma_joules: float = 0.0  # Standard deviation of `joules` themselves (a fitted mark before)


@dataclass(frozen=True, slots=True)
class MarkFit:
    """The fit at one mark."""

    joules: float  # Energy up to it, from the origin of the edges
    sigma_joules: float  # Standard deviation of `joules`
    step_watts: float  # Level after it minus level before it


def fit_steps(marks_s: Sequence[float], edges: Sequence[EdgeSample]) -> tuple[MarkFit, ...]:
    """Fit the energy at each mark, and the levels between them, to edges of a counter.

    With marks m_1 .. m_k the energy at a time is linear in the energy at m_1 and the levels
    p_0 .. p_k, and every edge near the marks is an observation of it, off by the level at the edge
    times the error of the edge's time. The fit weighs the edges by that error: the energy at a step
    follows mostly from the edge on its low side, where a late edge costs the least.

    Args:
        marks_s: Times of the marks in seconds, in order, at least one.
        edges: Edges around them in order of time, at least two.
    """
    import numpy as np

    times = np.array([edge.seconds for edge in edges])
    joules = np.array([edge.joules for edge in edges])
    spans = np.diff(times)
    tick_s = float(np.median(spans))
    mean = float((joules[-1] - joules[0]) / (times[-1] - times[0]))
    # Two reads in quick succession say nothing about the power between them.
    watts = np.where(spans > 0.1 * tick_s, np.diff(joules) / spans, mean)
    starts = np.array([-np.inf, *marks_s])
    ends = np.array([*marks_s, np.inf])
    origin = marks_s[0]
    # Seconds of each level between the first mark and each edge; negative before the mark.
    low, high = np.minimum(times, origin)[:, None], np.maximum(times, origin)[:, None]
    spent = np.clip(np.minimum(high, ends) - np.maximum(low, starts), 0.0, None)
    spent *= np.where(times < origin, -1.0, 1.0)[:, None]
    rows = np.hstack([np.ones((len(times), 1)), spent])
    level = np.searchsorted(marks_s, times, side="right")
    far_s = np.min(np.abs(times[:, None] - np.array(marks_s)), axis=1)
    most = max(float(watts.max()), 1.0)
    prior = np.diag([0.0, *[1 / most**2] * (len(marks_s) + 1)])
    pull = np.array([0.0, *[mean / most**2] * (len(marks_s) + 1)])
    at_edge = np.minimum(np.append(watts, watts[-1]), np.insert(watts, 0, watts[0]))
    fixed = np.array([edge.sigma_joules for edge in edges])
    sigma_s = np.array([max(edge.sigma_s, _LEAST_EDGE_S) for edge in edges])
    center = float(joules[0])
    for _ in range(_ROUNDS):
        spread = _WANDER * at_edge
        variance = (at_edge * sigma_s) ** 2 + spread**2 * far_s * tick_s + fixed**2 + 1e-6
        weighted = rows / variance[:, None]
        normal = rows.T @ weighted + prior
        covariance = np.linalg.inv(normal)
        found = covariance @ (weighted.T @ (joules - center) + pull)
        levels = np.maximum(found[1:], 0.0)
        at_edge = np.maximum(levels[level], 0.02 * most)
    fits = []
    row = np.zeros(len(found))
    row[0] = 1.0
    for index, (start, end) in enumerate(pairwise([origin, *marks_s])):
        row[1 + index] += end - start
        fits.append(
            MarkFit(
                center + float(row @ found),
                math.sqrt(max(float(row @ covariance @ row), 0.0)),
                float(found[2 + index] - found[1 + index]),
            )
        )
    return tuple(fits)


@dataclass(frozen=True, slots=True)
class LevelFit:
    """Levels between marks."""

    marks_s: tuple[float, ...]  # Times of the marks, seconds
    watts: np.ndarray[Any, Any]  # Levels before, between and after them, one more than marks
    covariance: np.ndarray[Any, Any]  # Covariance of the levels, watts squared

    def joules(
        self, times_s: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the energy from the first of these times to each, and its deviation, joules."""
        import numpy as np

        bounds = np.array([-np.inf, *self.marks_s, np.inf])
        low, high = bounds[:-1], bounds[1:]
        spent = np.minimum(times_s[:, None], high) - np.maximum(times_s[0], low)
        spent = np.clip(spent, 0.0, None)
        variance = np.einsum("ij,jk,ik->i", spent, self.covariance, spent)
        return spent @ self.watts, np.sqrt(np.maximum(variance, 0.0))


def fit_levels(
    marks_s: Sequence[float],
    times_s: np.ndarray[Any, Any],
    watts: np.ndarray[Any, Any],
    average_s: float,
    refresh_s: float,
) -> LevelFit:
    """Fit the levels around marks to power readings that follow a step late.

    A reading is the mean of the time before it, and up to a refresh old. Dated to the middle of
    that time, it follows a step at m along a ramp centred at m: the averaging time, blurred by the
    age. The readings are then linear in the levels, and the energy of the levels replaces that of
    the readings.

    Args:
        marks_s: Times of the marks in seconds, in order, at least one.
        times_s: Times of the readings, each dated to the middle of what it averages.
        watts: The readings, at least one.
        average_s: Time that a reading averages; 0 if it is instant.
        refresh_s: Time between two refreshes, which is the spread of a reading's age.
    """
    import numpy as np

    count = len(marks_s) + 1
    along = follow_step(times_s[:, None] - np.array(marks_s), average_s, refresh_s)
    before = np.hstack([np.ones((len(times_s), 1)), along])
    after = np.hstack([along, np.zeros((len(times_s), 1))])
    shares = before - after
    mean, most = float(watts.mean()), max(float(watts.max()), 1.0)
    prior = np.eye(count) / most**2
    moving = (along > 1e-6) & (along < 1 - 1e-6)
    swing = float(watts.max() - watts.min())
    steps = np.full(len(marks_s), swing)
    # Reads within one refresh repeat it, and are wrong together.
    spacing = np.gradient(times_s) if len(times_s) > 1 else np.array([refresh_s])
    repeated = np.maximum(refresh_s / np.maximum(spacing, 1e-4), 1.0)
    late = refresh_s / max(average_s, refresh_s) / math.sqrt(12)
    for _ in range(_ROUNDS):
        aged = moving.any(axis=1) * max(float(np.abs(steps).max()), swing) * late
        noise = np.maximum(_RELATIVE_NOISE * watts, _LEAST_NOISE_WATTS)
        weighted = shares / ((noise**2 + aged**2) * repeated)[:, None]
        covariance = np.linalg.inv(shares.T @ weighted + prior)
        pull = prior @ np.full(count, mean)
        levels = np.maximum(covariance @ (weighted.T @ watts + pull), 0.0)
        steps = np.diff(levels)
    return LevelFit(tuple(marks_s), levels, covariance)


def follow_step(
    after_s: np.ndarray[Any, Any], average_s: float, refresh_s: float
) -> np.ndarray[Any, Any]:
    """Return how much of a step a reading shows that is dated this long after it, 0 to 1.

    The mean over the age of a reading of a running average: a step through two boxes, of the
    averaging time and of the refresh.
    """
    import numpy as np

    if average_s < refresh_s:
        ramp: np.ndarray[Any, Any] = np.clip(after_s / refresh_s + 0.5, 0.0, 1.0)
        return ramp
    half, inner = (average_s + refresh_s) / 2, (average_s - refresh_s) / 2
    area = sum(
        sign * np.maximum(after_s + shift, 0.0) ** 2 / 2
        for sign, shift in ((1, half), (-1, inner), (-1, -inner), (1, -half))
    )
    shown: np.ndarray[Any, Any] = np.clip(area / (average_s * refresh_s), 0.0, 1.0)
    return shown
