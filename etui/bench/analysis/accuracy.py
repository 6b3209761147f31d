"""How many answers were right: over all, by group and subject, and on the well-labelled ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.bench.store.sample import Sample
from etui.datasets.mmlu import GROUPS, find_group
from etui.stats.bootstrap import percentiles, resampled_sums
from etui.stats.tests import Interval, wilson

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

CHANCE = 0.25
"""Of four letters."""

LOW_MASS = 0.5
"""Below this, the model would rather write something else than a letter."""

CLEAN = "ok"
"""The label of MMLU-Redux for a question with nothing wrong."""

OUTCOMES = ("right", "wrong", "no_answer", "truncated", "error")


@dataclass(frozen=True, slots=True)
class Share:
    """Right answers of some questions; ``low`` and ``high`` are Wilson's at 95 %."""

    questions: int
    correct: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LetterMass:
    """Probability of the four letters together.

    Attributes:
        questions: Questions that have one.
        mean: Over them.
        share_below_half: Share of them below 0.5.
    """

    questions: int
    mean: float
    share_below_half: float


@dataclass(frozen=True, slots=True)
class ConstantLetter:
    """What answering one letter to everything scores on the run's questions."""

    letter: str
    micro: float
    macro: float


@dataclass(frozen=True, slots=True)
class Labelled:
    """Accuracy where MMLU-Redux looked at the question.

    Attributes:
        all: Every question it labelled.
        clean: Those it found nothing wrong with; None where the run has none.
    """

    all: Share
    clean: Share | None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers of one contender.

    Attributes:
        questions: All it was asked; those without an answer count as not right.
        correct: Right answers.
        micro: Share of all questions.
        macro: Mean of the subjects' shares.
        groups: The four groups of MMLU, those that occur.
        subjects: Every subject, by name.
        outcomes: Each of ``OUTCOMES`` -> questions.
        letter_mass: None where no log-probabilities were read.
        labelled: None without an index of labels.
    """

    questions: int
    correct: int
    micro: Interval
    macro: Interval
    groups: dict[str, Share]
    subjects: dict[str, Share]
    outcomes: dict[str, int]
    letter_mass: LetterMass | None
    labelled: Labelled | None


def accuracy_of(
    samples: Sequence[Sample], seed: int, labels: Mapping[str, Mapping[int, str]] | None = None
) -> Accuracy:
    """The accuracy of one contender's samples, which are sorted by question.

    Args:
        samples: At least one.
        seed: Of the bootstrap.
        labels: Subject -> row -> label of MMLU-Redux (:func:`etui.datasets.mmlu.read_labels`).
    """
    micro, macro = _totals(samples, seed)
    groups = {
        group: [sample for sample in samples if find_group(sample.subject) == group]
        for group in GROUPS
    }
    outcomes = Counter(outcome_of(sample) for sample in samples)
    return Accuracy(
        questions=len(samples),
        correct=sum(sample.correct for sample in samples),
        micro=micro,
        macro=macro,
        groups={group: share_of(inside) for group, inside in groups.items() if inside},
        subjects={subject: share_of(inside) for subject, inside in by_subject(samples).items()},
        outcomes={outcome: outcomes[outcome] for outcome in OUTCOMES},
        letter_mass=_letter_mass(samples),
        labelled=_labelled(samples, labels) if labels else None,
    )


def by_subject(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The samples of each subject, subjects by name."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.subject, []).append(sample)
    return dict(sorted(found.items()))


def macro_weights(subjects: Sequence[str]) -> list[float]:
    """Weight of each question in the mean over subjects; they sum to 1."""
    sizes = Counter(subjects)
    return [1 / (sizes[subject] * len(sizes)) for subject in subjects]


def outcome_of(sample: Sample) -> str:
    """``right`` or ``wrong`` for an answer, else why there is none."""
    if sample.status == "answered":
        return "right" if sample.correct else "wrong"
    return sample.status


def share_of(samples: Sequence[Sample]) -> Share:
    """Right answers of at least one sample."""
    correct = sum(sample.correct for sample in samples)
    found = wilson(correct, len(samples))
    assert found.low is not None
    assert found.high is not None
    return Share(len(samples), correct, found.value, found.low, found.high)


def constant_letter(samples: Iterable[Sample]) -> ConstantLetter:
    """The letter that is right most often (micro) among the questions, each counted once."""
    questions = {(sample.subject, sample.row): sample.answer for sample in samples}
    subjects = [subject for subject, _ in questions]
    weights = dict(zip(questions, macro_weights(subjects), strict=True))
    counts = Counter(questions.values())
    best = min(counts, key=lambda letter: (-counts[letter], letter))
    macro = sum(weights[key] for key, letter in questions.items() if letter == best)
    return ConstantLetter(best, counts[best] / len(questions), macro)


def _totals(samples: Sequence[Sample], seed: int) -> tuple[Interval, Interval]:
    subjects = [sample.subject for sample in samples]
    weights = macro_weights(subjects)
    columns = [
        (float(sample.correct), sample.correct * weight)
        for sample, weight in zip(samples, weights, strict=True)
    ]
    sums = resampled_sums(columns, subjects, seed)
    count = len(samples)
    values = (sum(row[0] for row in columns) / count, math.fsum(row[1] for row in columns))
    micro, macro = (
        _within(value, sums[:, at] / (count, 1)[at], count) for at, value in enumerate(values)
    )
    return micro, macro


def _within(value: float, replicates: Floats, count: int) -> Interval:
    """The bootstrap's interval, or Wilson's where every subject is all right or all wrong.

    The bootstrap has no spread then, and an interval of no width would claim to be certain.
    """
    low, high = percentiles(replicates)
    if low is None or high is None or high - low < 1e-12:
        plain = wilson(round(value * count), count)
        return Interval(value, plain.low, plain.high, "wilson")
    return Interval(value, max(low, 0.0), min(high, 1.0), "bootstrap")


def _letter_mass(samples: Iterable[Sample]) -> LetterMass | None:
    masses = [sample.letter_mass for sample in samples if sample.letter_mass is not None]
    if not masses:
        return None
    below = sum(mass < LOW_MASS for mass in masses)
    return LetterMass(len(masses), sum(masses) / len(masses), below / len(masses))


def _labelled(
    samples: Iterable[Sample], labels: Mapping[str, Mapping[int, str]]
) -> Labelled | None:
    known = [sample for sample in samples if sample.row in labels.get(sample.subject, {})]
    if not known:
        return None
    clean = [sample for sample in known if labels[sample.subject][sample.row] == CLEAN]
    return Labelled(share_of(known), share_of(clean) if clean else None)
