"""Accuracy of answers: in total, by group and subject, and on questions with checked labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etui.bench.sample import Sample
from etui.datasets.mmlu import GROUPS, find_group
from etui.stats.arrays import Floats
from etui.stats.bootstrap import percentiles, resample_sums
from etui.stats.frontier import cheapest_correct
from etui.stats.tests import Interval, wilson


@dataclass(frozen=True, slots=True)
class Oracle:
    """Accuracy and cost of the oracle over some arms."""

    questions: int  # Number of questions that every arm answered
    accuracy: float  # Share of them that at least one arm answers correctly
    joules_per_question: float | None  # None if an arm is unmeasured
    shares: dict[str, float]  # Arm -> share of the questions that the oracle gives to it


def oracle(samples: Mapping[str, Sequence[Sample]]) -> Oracle | None:
    """Evaluate the oracle on the questions that all arms answered, if there are any."""
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


CHANCE = 0.25  # Accuracy of guessing one of four letters, which a configuration leaves out
LOW_MASS = 0.5  # Below this letter mass, the model prefers to write something other than a letter
CLEAN = "ok"  # Label of MMLU-Redux for a question without errors
OUTCOMES = ("right", "wrong", "no_answer", "truncated", "error")


@dataclass(frozen=True, slots=True)
class RightShare:
    """Right answers among some questions; ``low`` and ``high`` bound Wilson's 95 % interval."""

    questions: int
    correct: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LetterMass:
    """Total probability of the options' letters."""

    questions: int  # Number of questions for which it is known
    mean: float  # Mean over these questions
    share_below_half: float  # Share of these questions with less than 0.5


@dataclass(frozen=True, slots=True)
class ConstantLetter:
    """Score of answering every question of the run with the same letter."""

    letter: str
    micro: float
    macro: float


@dataclass(frozen=True, slots=True)
class Labelled:
    """Accuracy on the questions that MMLU-Redux labelled."""

    all: RightShare
    clean: RightShare | None  # The questions labelled as free of errors; None if the run has none


@dataclass(frozen=True, slots=True)
class SystemAccuracy:
    """Right answers of one system."""

    questions: int  # All its questions; those without an answer count as not right
    correct: int  # Number of right answers
    micro: Interval  # Share of right answers among all questions
    macro: Interval  # Mean of the subjects' shares
    groups: dict[str, RightShare]  # Group of MMLU -> share, for the groups that occur
    subjects: dict[str, RightShare]
    outcomes: dict[str, int]  # Each of `OUTCOMES` -> number of questions
    letter_mass: LetterMass | None  # None if no log-probabilities were read
    labelled: Labelled | None  # None without an index of labels
    strict: RightShare | None = None
    """Right answers by the stricter reading of the grading rule; None if it has none."""


def compute_accuracy(
    samples: Sequence[Sample], seed: int, labels: Mapping[str, Mapping[int, str]] | None = None
) -> SystemAccuracy:
    """Compute the accuracy of one system from its samples, at least one, sorted by question."""
    micro, macro = _compute_totals(samples, seed)
    groups = {
        group: [sample for sample in samples if find_group(sample.subject) == group]
        for group in GROUPS
    }
    outcomes = Counter(classify_outcome(sample) for sample in samples)
    return SystemAccuracy(
        questions=len(samples),
        correct=sum(sample.correct for sample in samples),
        micro=micro,
        macro=macro,
        groups={group: compute_share(inside) for group, inside in groups.items() if inside},
        subjects={
            subject: compute_share(inside) for subject, inside in group_by_subject(samples).items()
        },
        outcomes={outcome: outcomes[outcome] for outcome in OUTCOMES},
        letter_mass=_compute_letter_mass(samples),
        labelled=_compute_labelled(samples, labels) if labels else None,
        # Right answers by the stricter reading, if all samples have one.
        strict=None
        if any(sample.strict is None for sample in samples)
        else compute_share([replace(each, correct=bool(each.strict)) for each in samples]),
    )


def group_by_subject(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Group samples by subject, sorted by name."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.subject, []).append(sample)
    return dict(sorted(found.items()))


def compute_macro_weights(subjects: Sequence[str]) -> list[float]:
    """Return the weight of each question in the mean over subjects; the weights sum to 1."""
    sizes = Counter(subjects)
    return [1 / (sizes[subject] * len(sizes)) for subject in subjects]


def classify_outcome(sample: Sample) -> str:
    """Return ``right`` or ``wrong`` for an answer, or the status if there is none."""
    if sample.status == "answered":
        return "right" if sample.correct else "wrong"
    return sample.status


def compute_share(samples: Sequence[Sample]) -> RightShare:
    """Compute the share of right answers of at least one sample."""
    correct = sum(sample.correct for sample in samples)
    found = wilson(correct, len(samples))
    assert found.low is not None
    assert found.high is not None
    return RightShare(len(samples), correct, found.value, found.low, found.high)


def constant_letter(samples: Iterable[Sample]) -> ConstantLetter:
    """Find the letter that is right most often (micro), counting each question once."""
    questions = {(sample.subject, sample.row): sample.answer for sample in samples}
    subjects = [subject for subject, _ in questions]
    weights = dict(zip(questions, compute_macro_weights(subjects), strict=True))
    counts = Counter(questions.values())
    best = min(counts, key=lambda letter: (-counts[letter], letter))
    macro = sum(weights[key] for key, letter in questions.items() if letter == best)
    return ConstantLetter(best, counts[best] / len(questions), macro)


def _compute_totals(samples: Sequence[Sample], seed: int) -> tuple[Interval, Interval]:
    """Compute the shares over all questions (micro) and over the subjects (macro).

    Where every subject is all right or all wrong, the bootstrap has no spread, and an interval of
    zero width would suggest certainty: it is Wilson's.
    """
    subjects = [sample.subject for sample in samples]
    weights = compute_macro_weights(subjects)
    columns = [
        (float(sample.correct), sample.correct * weight)
        for sample, weight in zip(samples, weights, strict=True)
    ]
    sums = resample_sums(columns, subjects, seed)
    count = len(samples)

    def bound(value: float, replicates: Floats) -> Interval:
        low, high = percentiles(replicates)
        if low is None or high is None or high - low < 1e-12:
            plain = wilson(round(value * count), count)
            return Interval(value, plain.low, plain.high, "wilson")
        return Interval(value, max(low, 0.0), min(high, 1.0), "bootstrap")

    micro = bound(sum(row[0] for row in columns) / count, sums[:, 0] / count)
    return micro, bound(math.fsum(row[1] for row in columns), sums[:, 1])


def _compute_letter_mass(samples: Iterable[Sample]) -> LetterMass | None:
    masses = [sample.letter_mass for sample in samples if sample.letter_mass is not None]
    if not masses:
        return None
    below = sum(mass < LOW_MASS for mass in masses)
    return LetterMass(len(masses), sum(masses) / len(masses), below / len(masses))


def _compute_labelled(
    samples: Iterable[Sample], labels: Mapping[str, Mapping[int, str]]
) -> Labelled | None:
    known = [sample for sample in samples if sample.row in labels.get(sample.subject, {})]
    if not known:
        return None
    clean = [sample for sample in known if labels[sample.subject][sample.row] == CLEAN]
    return Labelled(compute_share(known), compute_share(clean) if clean else None)
