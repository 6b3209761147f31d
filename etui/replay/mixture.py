"""Random mixtures of single arms, for many resamples at once.

A coin between two arms reaches every point on the line between them. The best mixture at a cost is
the largest of those lines there, and of the arms that cost no more; that is the upper hull.
Shapes: ``cost`` and ``accuracy`` (k, arms), ``at`` (k,).
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


def mixture_accuracy(cost: Floats, accuracy: Floats, at: Floats) -> Floats:
    """The best accuracy that a mixture has at a mean cost of ``at``.

    Below the cheapest arm there is no mixture: it is then the cheapest arm's own accuracy.
    """
    import numpy as np

    cheapest = cost.min(axis=1)
    at = np.maximum(at, cheapest)
    best = np.where(cost <= at[:, None] + 1e-12, accuracy, -np.inf).max(axis=1)
    for one, other in combinations(range(cost.shape[1]), 2):
        low, high = (
            np.minimum(cost[:, one], cost[:, other]),
            np.maximum(cost[:, one], cost[:, other]),
        )
        first = cost[:, one] <= cost[:, other]
        left = np.where(first, accuracy[:, one], accuracy[:, other])
        right = np.where(first, accuracy[:, other], accuracy[:, one])
        width = high - low
        share = np.divide(at - low, width, out=np.zeros_like(width), where=width > 0)
        inside = (low <= at) & (at <= high) & (width > 0)
        best = np.where(inside, np.maximum(best, left + (right - left) * share), best)
    return np.asarray(best)


def mixture_cost(cost: Floats, accuracy: Floats, wanted: Floats) -> Floats:
    """The least mean cost at which a mixture is as accurate as ``wanted``; infinite if none is."""
    import numpy as np

    best = np.where(accuracy >= wanted[:, None] - 1e-12, cost, np.inf).min(axis=1)
    for one, other in combinations(range(cost.shape[1]), 2):
        rise = accuracy[:, other] - accuracy[:, one]
        share = np.divide(
            wanted - accuracy[:, one], rise, out=np.full_like(rise, -1.0), where=rise != 0
        )
        between = cost[:, one] + (cost[:, other] - cost[:, one]) * share
        best = np.where((share >= 0) & (share <= 1), np.minimum(best, between), best)
    return np.asarray(best)
