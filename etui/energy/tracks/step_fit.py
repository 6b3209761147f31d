"""Energy at the marks of power steps: least squares over the edges of a counter around them.

An engine's events say when its power steps: where an answer begins, where its first token comes,
where it ends. Between two marks the power near them is taken as level. With marks m_1 .. m_k the
energy at a time is then linear in the energy at m_1 and the levels p_0 .. p_k, and every edge of
the counter near the marks is an observation of it, off by the level at the edge times the error of
the edge's time. The fit weighs the edges by that error: the energy at a step follows mostly from
the edge on its low side, where a late edge costs the least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_ROUNDS = 3
_WANDER = 0.04
"""Relative scatter of the power of one tick around its level, at least."""
_LEAST_EDGE_S = 0.0002


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
    """Fit the energy at each mark, and the levels between them.

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
