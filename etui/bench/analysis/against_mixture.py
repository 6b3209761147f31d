"""A contender against the random mixture of the others that costs the same: does routing pay?

Choosing by a coin between two arms already reaches every point between them on the plane of joules
and accuracy. A policy, or an arm, is worth having if it lies above that line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.bench.analysis.comparable import System
from etui.stats.bootstrap import percentiles, resampled_sums
from etui.stats.frontier import Point, hull, mixture_accuracy
from etui.stats.tests import Interval


@dataclass(frozen=True, slots=True)
class AgainstMixture:
    """One contender and the best random mixture of the others at its joules.

    Attributes:
        label: The contender.
        joules_per_question: Of the contender; the mixture costs as much, or as the dearest of the
            others where these all cost less.
        accuracy: The contender's.
        mixture: The other contenders on the hull, cheapest first.
        mixture_accuracy: What their mixture reaches.
        difference: The contender's accuracy minus the mixture's, with its interval.
    """

    label: str
    joules_per_question: float
    accuracy: float
    mixture: tuple[str, ...]
    mixture_accuracy: float
    difference: Interval


def against_mixtures(contenders: Sequence[System]) -> list[AgainstMixture]:
    """Every contender of three or more that costs no less than the cheapest of the others.

    The interval is that of the paired bootstrap: each sample drawn anew has its own hull. Sensors'
    errors are not in it; they move all points alike where one sensor measured them.

    Args:
        contenders: On the same questions, sorted by question. Without the energy of all of them
            there is no plane, and the list is empty.
    """
    samples = [sample for contender in contenders for sample in contender.samples]
    if len(contenders) < 3 or any(sample.joules is None for sample in samples):
        return []
    count = len(contenders[0].samples)
    columns = [
        [value / count for sample in row for value in (sample.joules or 0.0, float(sample.correct))]
        for row in zip(*(contender.samples for contender in contenders), strict=True)
    ]
    subjects = [sample.subject for sample in contenders[0].samples]
    sums = resampled_sums(columns, subjects, contenders[0].run.seed)
    totals = [math.fsum(column) for column in zip(*columns, strict=True)]
    labels = [contender.label for contender in contenders]
    points = _points(labels, totals)
    redrawn = [_points(labels, row) for row in sums.tolist()]
    return [
        _against(label, points, redrawn)
        for label in labels
        if points[label][0] >= min(points[name][0] for name in labels if name != label)
    ]


_Points = dict[str, Point]


def _points(labels: Sequence[str], totals: Sequence[float]) -> _Points:
    return {label: (totals[2 * at], totals[2 * at + 1]) for at, label in enumerate(labels)}


def _against(label: str, points: _Points, redrawn: Sequence[_Points]) -> AgainstMixture:
    import numpy as np

    low, high = percentiles(np.asarray([_above(drawn, label) for drawn in redrawn]))
    joules, accuracy = points[label]
    above = _above(points, label)
    return AgainstMixture(
        label=label,
        joules_per_question=joules,
        accuracy=accuracy,
        mixture=tuple(hull({name: point for name, point in points.items() if name != label})),
        mixture_accuracy=accuracy - above,
        difference=Interval(above, low, high, "bootstrap"),
    )


def _above(points: _Points, label: str) -> float:
    """Accuracy above the mixture's; where the others all cost more, above the cheapest one's."""
    others = {name: point for name, point in points.items() if name != label}
    joules = max(points[label][0], min(point[0] for point in others.values()))
    mixture = mixture_accuracy(others, joules)
    assert mixture is not None
    return points[label][1] - mixture
