"""Single arms and their mixtures on the plane of joules and accuracy, and the oracle above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from etui.bench.sample import Sample

Point = tuple[float, float]
"""Joules per question, accuracy."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Each question by the cheapest arm that answers it rightly, else by the cheapest arm.

    No policy can do better with these arms; none knows beforehand what this one knows.

    Attributes:
        questions: Questions that every arm answered.
        accuracy: Share of them that some arm answers rightly.
        joules_per_question: None where an arm is unmeasured.
        shares: Arm -> share of the questions it takes.
    """

    questions: int
    accuracy: float
    joules_per_question: float | None
    shares: dict[str, float]


def hull(points: Mapping[str, Point]) -> list[str]:
    """The arms on the upper hull, cheapest first.

    Between two neighbours on it lies what a random mixture of the two reaches; every other arm is
    below such a mixture, or dearer and no better.

    Args:
        points: Arm -> joules per question, accuracy.
    """
    kept: list[str] = []
    for name in sorted(points, key=lambda arm: (points[arm][0], -points[arm][1], arm)):
        if kept and points[name][1] <= points[kept[-1]][1]:
            continue
        while len(kept) > 1 and _below(points[kept[-2]], points[kept[-1]], points[name]):
            kept.pop()
        kept.append(name)
    return kept


def mixture_accuracy(points: Mapping[str, Point], joules: float) -> float | None:
    """Accuracy of the best random mixture that costs ``joules`` a question on average.

    Above the dearest arm of the hull it is that arm's; None below the cheapest arm, where there
    is no mixture.
    """
    corners = [points[name] for name in hull(points)]
    if not corners or joules < corners[0][0]:
        return None
    for (x0, y0), (x1, y1) in pairwise(corners):
        if joules <= x1:
            return y0 + (y1 - y0) * (joules - x0) / (x1 - x0)
    return corners[-1][1]


def oracle(samples: Mapping[str, Sequence[Sample]]) -> Oracle | None:
    """The oracle over the questions that all arms answered; None with one arm or no question."""
    if len(samples) < 2:
        return None
    answers = {
        arm: {(sample.subject, sample.row): sample for sample in inside}
        for arm, inside in samples.items()
    }
    common = sorted(set.intersection(*(set(inside) for inside in answers.values())))
    if not common:
        return None
    taken = dict.fromkeys(samples, 0)
    right, joules, measured = 0, 0.0, True
    for key in common:
        candidates = [(arm, answers[arm][key]) for arm in samples]
        good = [pair for pair in candidates if pair[1].correct]
        arm, best = min(good or candidates, key=_price)
        taken[arm] += 1
        right += bool(good)
        measured &= all(sample.joules is not None for _, sample in candidates)
        joules += best.joules or 0.0
    return Oracle(
        questions=len(common),
        accuracy=right / len(common),
        joules_per_question=joules / len(common) if measured else None,
        shares={arm: count / len(common) for arm, count in taken.items()},
    )


def _price(candidate: tuple[str, Sample]) -> float:
    """An unmeasured answer comes last; among equals the first arm is taken."""
    joules = candidate[1].joules
    return float("inf") if joules is None else joules


def _below(left: Point, middle: Point, right: Point) -> bool:
    """Whether ``middle`` lies on or under the line from ``left`` to ``right``."""
    rise = (right[1] - left[1]) * (middle[0] - left[0])
    return (middle[1] - left[1]) * (right[0] - left[0]) <= rise
