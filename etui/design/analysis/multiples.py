"""Multiples: what an arm costs and gains against a direct answer, question by question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from etui.design.analysis.intervals import (
    compute_difference,
    compute_ratio_interval,
    compute_sensor_share,
)
from etui.design.analysis.paired import Paired
from etui.design.analysis.strategies import Layout, Strategy
from etui.stats.bootstrap import percentiles, ratio, resample_sums
from etui.stats.tests import Interval, holm, mcnemar

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

Against = Literal["direct", "large"]
"""The direct answer of the same model, or that of the largest model."""


@dataclass(frozen=True, slots=True)
class Multiple:
    """One arm against a direct answer; all figures are paired."""

    strategy: Strategy
    base: Strategy  # The arm that answers directly
    against: Against  # Which direct answer this is
    questions: int
    difference: Interval  # Accuracy of the arm minus that of the base, a share
    deviation: float  # Standard deviation of the difference of a question
    p_value: float  # Two-sided p-value of McNemar's exact test
    p_holm: float  # The p-value adjusted for all arms of the model against this base
    accuracy: Interval | None
    """Accuracy of the arm over that of the base; None if the base is never right."""
    joules: Interval | None  # Joules over those of the base; None if one of them is unmeasured
    per_correct: Interval | None  # Joules per right answer over those of the base
    per_additional: Interval | None
    """Joules for each right answer that the arm has beyond the base; the upper end is None if it
    may have none. None if it has none."""
    seconds: Interval | None  # Time over that of the base
    tokens: Interval | None  # Output tokens over those of the base; None if the base generates none


RIGHT, SECONDS, TOKENS, JOULES, RIGHT_MEASURED = range(5)
"""Columns of :class:`Resampled`; the last two are over the measured questions only."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """Sums of every arm over the paired questions, and over their resamples."""

    paired: Paired
    totals: Floats  # Shape (arms, columns)
    drawn: Floats  # Shape (resamples, arms, columns)
    seed: int

    def sums(self, strategy: Strategy, column: int) -> tuple[float, Floats]:
        """Return a sum of an arm, and that of each resample."""
        at = self.paired.index(strategy)
        return float(self.totals[at, column]), self.drawn[:, at, column]


def resample(paired: Paired, seed: int) -> Resampled:
    """Draw the questions of every subject again, with the answers of all arms together."""
    import numpy as np

    measured = paired.measured[:, None]
    correct = paired.correct
    stacked = np.stack(
        [
            correct,
            paired.values(lambda sample: sample.seconds),
            paired.values(lambda sample: sample.tokens.output),
            np.where(measured, np.nan_to_num(paired.joules), 0.0),
            np.where(measured, correct, 0.0),
        ],
        axis=2,
    )
    count, arms, columns = stacked.shape
    drawn = resample_sums(stacked.reshape(count, -1), paired.subjects, seed)
    return Resampled(paired, stacked.sum(axis=0), drawn.reshape(-1, arms, columns), seed)


def compute_multiples(resampled: Resampled) -> tuple[Multiple, ...]:
    """Compare every arm with the direct answer of its model and with that of the largest one."""
    found = [
        _compute_multiple(resampled, strategy, base, against)
        for strategy, base, against in _list_pairs(resampled.paired.layout)
    ]
    adjusted: list[Multiple] = []
    families = {(one.against, one.strategy.role) for one in found}
    for family in sorted(families):
        inside = [one for one in found if (one.against, one.strategy.role) == family]
        values = holm([one.p_value for one in inside])
        adjusted += [replace(one, p_holm=p) for one, p in zip(inside, values, strict=True)]
    order = {(one.strategy.arm, one.against): at for at, one in enumerate(found)}
    return tuple(sorted(adjusted, key=lambda one: order[one.strategy.arm, one.against]))


def find_multiple(
    multiples: Sequence[Multiple], strategy: Strategy, against: Against
) -> Multiple | None:
    """Return the comparison of an arm; None if there is none."""
    return next((m for m in multiples if m.strategy == strategy and m.against == against), None)


def compute_additional_cost(
    paired: Paired, strategy: Strategy, base: Strategy, rows: Sequence[int], seed: int
) -> Interval | None:
    """Compute the joules for each right answer that an arm has beyond a direct answer.

    Args:
        rows: Questions to look at.

    Returns:
        The upper end is None if there may be no additional right answer; None if there is none, or
        if an arm is unmeasured.
    """
    if not _are_metered(paired, strategy, base):
        return None
    measured = paired.measured
    used = [row for row in rows if measured[row]]
    columns = [paired.index(strategy), paired.index(base)]
    joules = paired.joules[used][:, columns]
    correct = paired.correct[used][:, columns]
    changes = [(j[0] - j[1], c[0] - c[1]) for j, c in zip(joules, correct, strict=True)]
    spent = math.fsum(change[0] for change in changes)
    gained = math.fsum(change[1] for change in changes)
    if gained <= 0:
        return None
    sums = resample_sums(changes, [paired.subjects[row] for row in used], seed)
    low, high = percentiles(ratio(sums[:, 0], sums[:, 1]))
    return Interval(spent / gained, low, high, "bootstrap")


def _list_pairs(layout: Layout) -> Iterator[tuple[Strategy, Strategy, Against]]:
    reference = layout.reference
    for strategy in layout.strategies:
        direct = layout.direct_of(strategy.role)
        if direct is not None and strategy != direct:
            yield strategy, direct, "direct"
        if reference is not None and strategy.role != reference.role:
            yield strategy, reference, "large"


def _compute_multiple(
    resampled: Resampled, strategy: Strategy, base: Strategy, against: Against
) -> Multiple:
    paired = resampled.paired
    count = len(paired)
    correct = paired.correct
    changes = correct[:, paired.index(strategy)] - correct[:, paired.index(base)]
    right, base_right = (resampled.sums(one, RIGHT) for one in (strategy, base))
    difference, _, deviation = compute_difference(changes, (right[1] - base_right[1]) / count)
    gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
    p_value = mcnemar(lost, gained)

    def over(column: int, sensor: float = 0.0) -> Interval | None:
        above, below = resampled.sums(strategy, column), resampled.sums(base, column)
        return compute_ratio_interval(above[0], below[0], above[1], below[1], count, sensor)

    joules = per_correct = per_additional = None
    if _are_metered(paired, strategy, base) and paired.measured.any():
        sensor = _sensor_share(paired, strategy, base)
        joules = over(JOULES, sensor)
        spent, base_spent = (resampled.sums(one, JOULES) for one in (strategy, base))
        ours, theirs = (resampled.sums(one, RIGHT_MEASURED) for one in (strategy, base))
        if base_spent[0] > 0 and ours[0] > 0 and theirs[0] > 0:
            per_correct = compute_ratio_interval(
                spent[0] * theirs[0], base_spent[0] * ours[0],
                spent[1] * theirs[1], base_spent[1] * ours[1], count, sensor,
            )  # fmt: skip
        per_additional = compute_additional_cost(
            paired, strategy, base, range(count), resampled.seed
        )
    return Multiple(
        strategy=strategy,
        base=base,
        against=against,
        questions=count,
        difference=difference,
        deviation=deviation,
        p_value=p_value,
        p_holm=p_value,
        accuracy=over(RIGHT),
        joules=joules,
        per_correct=per_correct,
        per_additional=per_additional,
        seconds=over(SECONDS),
        tokens=over(TOKENS),
    )


def _are_metered(paired: Paired, *strategies: Strategy) -> bool:
    return all(paired.metered[paired.index(one)] for one in strategies)


def _sensor_share(paired: Paired, *strategies: Strategy) -> float:
    measured = paired.measured.tolist()
    return math.hypot(
        *(
            compute_sensor_share(
                [s for s, kept in zip(paired.column(one), measured, strict=True) if kept]
            )
            for one in strategies
        )
    )
