"""Comparison of a system with the random mixture of the others at the same cost.

Choosing between two arms at random already reaches every point between them on the plane of joules
and accuracy. A policy or an arm is useful only if it is above that line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.bench.analysis.comparable import System
from etui.stats.bootstrap import percentiles, resample_sums
from etui.stats.frontier import Point, hull, mixture_accuracy
from etui.stats.tests import Interval


@dataclass(frozen=True, slots=True)
class AgainstMixture:
    """One system and the best random mixture of the others at its joules."""

    label: str
    joules_per_question: float
    """Joules of the system. The mixture costs the same, or as much as the most expensive of the
    others if they all cost less."""
    accuracy: float
    mixture: tuple[str, ...]  # The other systems on the hull, cheapest first
    mixture_accuracy: float
    difference: Interval  # Accuracy of the system minus that of the mixture, with its interval


def compare_with_mixtures(systems: Sequence[System]) -> list[AgainstMixture]:
    """Compare every system with a random mixture of the others.

    The interval comes from the paired bootstrap, and every resample has its own hull. Sensor errors
    are not included, because they move all points alike if one sensor measured them.

    Args:
        systems: Systems with the same questions, sorted by question.

    Returns:
        One comparison for each system that costs at least as much as the cheapest of the others;
        empty with fewer than three systems, or if the energy of one is unknown.
    """
    samples = [sample for system in systems for sample in system.samples]
    if len(systems) < 3 or any(sample.joules is None for sample in samples):
        return []
    count = len(systems[0].samples)
    columns = [
        [value / count for sample in row for value in (sample.joules or 0.0, float(sample.correct))]
        for row in zip(*(system.samples for system in systems), strict=True)
    ]
    subjects = [sample.subject for sample in systems[0].samples]
    sums = resample_sums(columns, subjects, systems[0].run.seed)
    totals = [math.fsum(column) for column in zip(*columns, strict=True)]
    labels = [system.label for system in systems]
    points = _points(labels, totals)
    redrawn = [_points(labels, row) for row in sums.tolist()]
    return [
        _compare_with_mixture(label, points, redrawn)
        for label in labels
        if points[label][0] >= min(points[name][0] for name in labels if name != label)
    ]


_Points = dict[str, Point]


def _points(labels: Sequence[str], totals: Sequence[float]) -> _Points:
    return {label: (totals[2 * at], totals[2 * at + 1]) for at, label in enumerate(labels)}


def _compare_with_mixture(
    label: str, points: _Points, redrawn: Sequence[_Points]
) -> AgainstMixture:
    import numpy as np

    low, high = percentiles(np.asarray([_compute_lead(drawn, label) for drawn in redrawn]))
    joules, accuracy = points[label]
    above = _compute_lead(points, label)
    return AgainstMixture(
        label=label,
        joules_per_question=joules,
        accuracy=accuracy,
        mixture=tuple(hull({name: point for name, point in points.items() if name != label})),
        mixture_accuracy=accuracy - above,
        difference=Interval(above, low, high, "bootstrap"),
    )


def _compute_lead(points: _Points, label: str) -> float:
    """Return the lead over the mixture, or over the cheapest other system if all cost more."""
    others = {name: point for name, point in points.items() if name != label}
    joules = max(points[label][0], min(point[0] for point in others.values()))
    mixture = mixture_accuracy(others, joules)
    assert mixture is not None
    return points[label][1] - mixture
