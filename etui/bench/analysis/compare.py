"""Comparison of two systems on the same questions: exact McNemar, paired bootstrap, joules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.bench.analysis.accuracy import compute_macro_weights, group_by_subject
from etui.bench.analysis.comparable import System
from etui.bench.analysis.cost import Figure, add_half_widths
from etui.bench.store.sample import Sample
from etui.datasets.mmlu import find_group
from etui.stats.bootstrap import percentiles, resample_sums
from etui.stats.tests import Interval, mcnemar, wilson

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


@dataclass(frozen=True, slots=True)
class SubjectDifference:
    """One subject: both accuracies, and the questions that only one of the systems got right."""

    subject: str
    group: str | None
    questions: int
    first: float
    second: float
    only_first: int
    only_second: int

    @property
    def difference(self) -> float:
        """Second minus first, a share."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class EnergyDifference:
    """Joules per question of both systems, over the questions that both have measured.

    Attributes:
        first, second: Joules per question.
    """

    questions: int  # Number of these questions
    first: float
    second: float
    kinds: tuple[str | None, str | None]
    difference: Figure
    """Second minus first in joules per question. The sensor's half widths of both sides add up like
    those of one side, since two readings may err in opposite directions."""
    ratio: float | None  # Second over first; None if the first is 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of a second system with a first; differences are second minus first.

    Attributes:
        both, only_first, only_second, neither: Number of questions by which system is right.
    """

    first: str
    second: str
    questions: int  # Number of questions that both answered
    accuracies: tuple[float, float]  # Share of right answers of both
    difference: Interval  # Difference of the accuracies over all questions (micro)
    macro_difference: Interval  # Difference of the means over subjects
    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float  # Two-sided p-value of McNemar's exact test
    p_holm: float  # The p-value adjusted for the number of comparisons
    energy: EnergyDifference | None  # None if one of them is unmeasured
    subjects: tuple[SubjectDifference, ...]

    @property
    def points_lost(self) -> float:
        """Percentage points by which the second is worse (micro); negative if it is better."""
        return -self.difference.value * 100


def compare(first: System, second: System) -> Comparison:
    """Compare two systems that answered the same questions, sorted by question.

    The bootstrap draws pairs within each subject, which keeps the correlation of the two systems;
    its seed is the first run's. ``p_holm`` is that of a single comparison.

    Raises:
        ValueError: The questions differ, or there are none.
    """
    if first.questions != second.questions or not first.questions:
        raise ValueError("both systems need the same questions, at least one")
    pairs = list(zip(first.samples, second.samples, strict=True))
    count = len(pairs)
    only_first = sum(one.correct and not two.correct for one, two in pairs)
    only_second = sum(two.correct and not one.correct for one, two in pairs)
    both = sum(one.correct and two.correct for one, two in pairs)
    difference, macro = _differences(pairs, only_first + only_second, first.run.seed)
    p_value = mcnemar(only_first, only_second)
    return Comparison(
        first=first.label,
        second=second.label,
        questions=count,
        accuracies=((both + only_first) / count, (both + only_second) / count),
        difference=difference,
        macro_difference=macro,
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=count - both - only_first - only_second,
        p_value=p_value,
        p_holm=p_value,
        energy=_energy(pairs, first.run.seed),
        subjects=_subjects(first.samples, second.samples),
    )


_Pairs = Sequence[tuple[Sample, Sample]]


def _differences(pairs: _Pairs, discordant: int, seed: int) -> tuple[Interval, Interval]:
    subjects = [one.subject for one, _ in pairs]
    changes = [float(two.correct) - float(one.correct) for one, two in pairs]
    weights = compute_macro_weights(subjects)
    columns = [
        (change / len(pairs), change * weight)
        for change, weight in zip(changes, weights, strict=True)
    ]
    sums = resample_sums(columns, subjects, seed)
    values = (math.fsum(row[0] for row in columns), math.fsum(row[1] for row in columns))
    # Fallback width if the bootstrap has no spread (for example, all answers are equal): the share
    # of disagreements that Wilson's interval still allows.
    unseen = (wilson(discordant, len(pairs)).high or 1.0) - discordant / len(pairs)
    micro, macro = (_interval(value, sums[:, at], unseen) for at, value in enumerate(values))
    return micro, macro


def _interval(value: float, replicates: Floats, unseen: float) -> Interval:
    low, high = percentiles(replicates)
    if low is None or high is None or high - low < 1e-12:
        return Interval(value, max(-1.0, value - unseen), min(1.0, value + unseen), "wilson")
    return Interval(value, max(-1.0, low), min(1.0, high), "bootstrap")


def _energy(pairs: _Pairs, seed: int) -> EnergyDifference | None:
    measured = [
        (one, two) for one, two in pairs if one.joules is not None and two.joules is not None
    ]
    if not measured:
        return None
    count = len(measured)
    sides = [
        math.fsum(sample.joules or 0.0 for sample in side) / count
        for side in zip(*measured, strict=True)
    ]
    changes = [[((two.joules or 0.0) - (one.joules or 0.0)) / count] for one, two in measured]
    sums = resample_sums(changes, [one.subject for one, _ in measured], seed)[:, 0]
    value = sides[1] - sides[0]
    both = [sample for pair in measured for sample in pair]
    width = add_half_widths(
        [sample.uncertainty for sample in both],
        [sample.subject for sample in both],
        {sample.kind for sample in both},
    )
    sensor = None if width is None else width / count
    return EnergyDifference(
        questions=count,
        first=sides[0],
        second=sides[1],
        kinds=(measured[0][0].kind, measured[0][1].kind),
        difference=_combine_errors(value, sums, sensor),
        ratio=sides[1] / sides[0] if sides[0] > 0 else None,
    )


def _combine_errors(value: float, replicates: Floats, sensor: float | None) -> Figure:
    """Combine sampling interval and sensor half width in quadrature, separately at each end."""
    low, high = percentiles(replicates)
    off = sensor or 0.0
    return Figure(
        value,
        sensor,
        None if low is None else value - math.hypot(value - min(low, value), off),
        None if high is None else value + math.hypot(max(high, value) - value, off),
    )


def _subjects(first: Sequence[Sample], second: Sequence[Sample]) -> tuple[SubjectDifference, ...]:
    others = group_by_subject(second)
    found = []
    for subject, ours in group_by_subject(first).items():
        pairs = list(zip(ours, others[subject], strict=True))
        found.append(
            SubjectDifference(
                subject=subject,
                group=find_group(subject),
                questions=len(pairs),
                first=sum(one.correct for one, _ in pairs) / len(pairs),
                second=sum(two.correct for _, two in pairs) / len(pairs),
                only_first=sum(one.correct and not two.correct for one, two in pairs),
                only_second=sum(two.correct and not one.correct for one, two in pairs),
            )
        )
    return tuple(found)
