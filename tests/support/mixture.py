"""The accuracy of a mixture on the hull of one set of points, in plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from etui.stats.frontier import hull


def mixture_accuracy(points: Mapping[Any, tuple[float, float]], cost: float) -> float | None:
    """Compute the accuracy of the best random mixture at a mean cost.

    Above the most expensive arm of the hull it is that arm's; None below the cheapest arm, where
    there is no mixture.
    """
    corners = [points[name] for name in hull(points)]
    if not corners or cost < corners[0][0]:
        return None
    for (x0, y0), (x1, y1) in pairwise(corners):
        if cost <= x1:
            return y0 + (y1 - y0) * (cost - x0) / (x1 - x0)
    return corners[-1][1]
