"""Oracle: for each question, the cheapest arm that is right.

No policy over the same arms can do better, because the oracle knows the outcomes in advance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.bench.store.sample import Sample
    from etui.stats.arrays import Flags, Floats, Whole


@dataclass(frozen=True, slots=True)
class Oracle:
    """Accuracy and cost of the oracle over some arms."""

    questions: int  # Number of questions that every arm answered
    accuracy: float  # Share of them that at least one arm answers correctly
    joules_per_question: float | None  # None if an arm is unmeasured
    shares: dict[str, float]  # Arm -> share of the questions that the oracle gives to it


def cheapest_correct(correct: Flags, cost: Floats) -> Whole:
    """Pick the cheapest correct arm of each question, or the cheapest arm if none is correct.

    Args:
        correct: Whether each arm is correct, shape (questions, arms).
        cost: Cost of each answer, same shape; infinite if unmeasured.

    Returns:
        Column of the arm, shape (questions,); the first among equals.
    """
    import numpy as np

    order = np.argsort(cost, axis=1, kind="stable")
    sorted_right = np.take_along_axis(correct, order, axis=1)
    first = np.where(sorted_right.any(axis=1), sorted_right.argmax(axis=1), 0)
    return np.asarray(np.take_along_axis(order, first[:, None], axis=1)[:, 0])


def oracle(samples: Mapping[str, Sequence[Sample]]) -> Oracle | None:
    """Evaluate the oracle on the questions that all arms answered.

    Returns:
        None with only one arm or without a common question.
    """
    import numpy as np

    answers = [
        {(sample.subject, sample.row): sample for sample in inside} for inside in samples.values()
    ]
    common = sorted(set.intersection(*map(set, answers))) if len(answers) > 1 else []
    if not common:
        return None
    table = [[inside[key] for inside in answers] for key in common]
    joules = [[sample.joules for sample in row] for row in table]
    taken = cheapest_correct(
        np.array([[sample.correct for sample in row] for row in table]),
        np.array([[np.inf if value is None else value for value in row] for row in joules]),
    ).tolist()
    total = 0.0
    for row, at in zip(joules, taken, strict=True):
        total += row[at] or 0.0  # a loop, since `sum` rounds differently from Python 3.12 on
    count, counts = len(common), Counter(taken)
    return Oracle(
        questions=count,
        accuracy=sum(row[at].correct for row, at in zip(table, taken, strict=True)) / count,
        joules_per_question=None if any(None in row for row in joules) else total / count,
        shares={arm: counts[at] / count for at, arm in enumerate(samples)},
    )
