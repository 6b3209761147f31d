"""Frontier of random mixtures of arms on the plane of cost and accuracy.

Choosing between two arms at random reaches every point on the line between them. The best mixture
at a cost is on the upper hull of the arms' points: the maximum of all lines between two arms, which
numpy computes for all resamples at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TypeVar

import numpy as np

from etui.stats.arrays import Flags, Floats, Whole

Point = tuple[float, float]
"""Cost (joules per question), accuracy."""

_Name = TypeVar("_Name", str, int)
_SLACK = 1e-12
"""Costs and accuracies that differ by less count as equal, since means of resamples are rounded."""


def hull(points: Mapping[_Name, Point]) -> list[_Name]:
    """Find the arms on the upper hull, cheapest first.

    Between two neighbours on the hull a random mixture of the two reaches every point; every other
    arm is below such a mixture, or costs more and is no better. Among equal points the first name
    wins.
    """
    kept: list[_Name] = []
    for name in sorted(points, key=lambda arm: (points[arm][0], -points[arm][1], arm)):
        if kept and points[name][1] <= points[kept[-1]][1]:
            continue
        while len(kept) > 1 and _is_below(points[kept[-2]], points[kept[-1]], points[name]):
            kept.pop()
        kept.append(name)
    return kept


def _is_below(left: Point, middle: Point, right: Point) -> bool:
    """Test whether ``middle`` is on or under the line from ``left`` to ``right``."""
    rise = (right[1] - left[1]) * (middle[0] - left[0])
    return (middle[1] - left[1]) * (right[0] - left[0]) <= rise


def mixture_accuracies(cost: Floats, accuracy: Floats, at: Floats) -> Floats:
    """Compute the accuracy of the best random mixture at a mean cost, for many resamples.

    The costs of the arms have the shape (resamples, arms), those of the mixture (resamples,), as
    the result. Below the cheapest arm, where there is no mixture, it is that arm's accuracy.
    """
    at = np.maximum(at, cost.min(axis=1))
    best = np.where(cost <= at[:, None] + _SLACK, accuracy, -np.inf).max(axis=1)
    for one, other in combinations(range(cost.shape[1]), 2):
        low = np.minimum(cost[:, one], cost[:, other])
        high = np.maximum(cost[:, one], cost[:, other])
        first = cost[:, one] <= cost[:, other]
        left = np.where(first, accuracy[:, one], accuracy[:, other])
        right = np.where(first, accuracy[:, other], accuracy[:, one])
        width = high - low
        share = np.divide(at - low, width, out=np.zeros_like(width), where=width > 0)
        inside = (low <= at) & (at <= high) & (width > 0)
        # Rounding must not put the end of a line beyond the better arm.
        between = np.minimum(left + (right - left) * share, np.maximum(left, right))
        best = np.where(inside, np.maximum(best, between), best)
    return np.asarray(best)


def mixture_costs(cost: Floats, accuracy: Floats, at: Floats) -> Floats:
    """Compute the lowest mean cost of a random mixture with an accuracy, for many resamples.

    Shapes are those of :func:`mixture_accuracies`; infinite where no mixture is as accurate.
    """
    reached = accuracy.max(axis=1) >= at - _SLACK
    return np.asarray(np.where(reached, -mixture_accuracies(-accuracy, -cost, -at), np.inf))


def cheapest_correct(correct: Flags, cost: Floats) -> Whole:
    """Pick the cheapest correct arm of each question, or the cheapest arm if none is correct.

    The costs have the shape (questions, arms), infinite if unmeasured; the result is the column of
    each question, the first among equals.
    """
    order = np.argsort(cost, axis=1, kind="stable")
    sorted_right = np.take_along_axis(correct, order, axis=1)
    first = np.where(sorted_right.any(axis=1), sorted_right.argmax(axis=1), 0)
    return np.asarray(np.take_along_axis(order, first[:, None], axis=1)[:, 0])
