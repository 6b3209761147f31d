"""Multiples: what an arm costs and gains against a direct answer, question by question."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from etui.bench.accuracy import OUTCOMES, classify_outcome, compute_accuracy
from etui.bench.cost import Cost, add_half_widths, compute_cost
from etui.bench.sample import Sample
from etui.design._paired import Layout, Paired, Strategy
from etui.energy.types import Kind
from etui.stats.arrays import Floats
from etui.stats.bootstrap import percentiles, ratio, resample_sums
from etui.stats.distributions import t_quantile
from etui.stats.frontier import hull
from etui.stats.tests import CONFIDENCE, Interval, estimate_paired_mean, holm, mcnemar


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Figures of one arm."""

    strategy: Strategy
    questions: int
    accuracy: Interval  # Share of right answers
    energy: Cost | None
    """Joules per question, right answer and output token, over the questions of which every metered
    arm has joules; None if unmeasured."""
    output_tokens: Interval  # Thinking and answer tokens of a question
    seconds: Interval  # Time of a question
    ttft_seconds: Interval | None
    """Time to first token, over the questions of which it is known; None if none."""
    outcomes: dict[str, int]
    """Each of ``right``, ``wrong``, ``no_answer``, ``truncated``, ``error`` -> number."""
    on_hull: bool = False
    """Whether no random mixture of other arms is as accurate for as few joules."""

    @property
    def lost(self) -> int:
        """Questions without an answer."""
        return sum(self.outcomes[name] for name in OUTCOMES if name not in ("right", "wrong"))


def compute_arm_figures(paired: Paired, seed: int) -> tuple[ArmFigures, ...]:
    """Compute the figures of every arm; empty without a paired question."""
    if not len(paired):
        return ()
    measured = paired.measured.tolist()
    costs = {
        one: compute_cost(
            [s for s, kept in zip(paired.column(one), measured, strict=True) if kept], seed
        )
        for one, metered in zip(paired.layout.strategies, paired.metered, strict=True)
        if metered
    }
    found = [
        _compute_arm(one, paired.column(one), costs.get(one), seed)
        for one in paired.layout.strategies
    ]
    points = {
        one.strategy.arm: (one.energy.per_question.value, one.accuracy.value)
        for one in found
        if one.energy is not None
    }
    best = set(hull(points)) if len(points) == len(found) else set()
    return tuple(replace(one, on_hull=one.strategy.arm in best) for one in found)


def _compute_arm(
    strategy: Strategy, samples: tuple[Sample, ...], energy: Cost | None, seed: int
) -> ArmFigures:
    def mean(read: Callable[[Sample], float | None]) -> Interval | None:
        known = [(sample.subject, read(sample)) for sample in samples]
        pairs = [(subject, value) for subject, value in known if value is not None]
        return compute_mean_interval([v for _, v in pairs], [s for s, _ in pairs], seed)

    tokens, seconds = mean(lambda s: float(s.tokens.output)), mean(lambda s: s.seconds)
    assert tokens is not None
    assert seconds is not None
    outcomes = [classify_outcome(sample) for sample in samples]
    return ArmFigures(
        strategy=strategy,
        questions=len(samples),
        accuracy=compute_accuracy(samples, seed).micro,
        energy=energy,
        output_tokens=tokens,
        seconds=seconds,
        ttft_seconds=mean(lambda s: s.ttft_seconds),
        outcomes={name: outcomes.count(name) for name in OUTCOMES},
    )


_INDEPENDENT: frozenset[str | None] = frozenset({Kind.COUNTER.value, Kind.INTEGRATED.value})
"""Kinds of which the error of a reading is independent of that of another one."""


_NORMAL = 1.959964
"""Quantile of the normal distribution at 97.5 %."""


def compute_mean_interval(
    values: Sequence[float], subjects: Sequence[str], seed: int
) -> Interval | None:
    """Compute a mean over questions and its interval; None without a question.

    The interval is widened for few questions as in :func:`compute_ratio_interval`.
    """
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean, None, None, None)
    sums = resample_sums([[value / len(values)] for value in values], subjects, seed)[:, 0]
    low, high = percentiles(sums)
    widen = _widen_few(len(values))
    return Interval(
        mean,
        None if low is None else mean - widen * max(mean - low, 0.0),
        None if high is None else mean + widen * max(high - mean, 0.0),
        "bootstrap",
    )


def _widen_few(questions: int) -> float:
    """Return Student's quantile for a number of questions over the normal one."""
    return t_quantile((1 - CONFIDENCE) / 2, questions - 1) / _NORMAL


def compute_ratio_interval(
    above: float,
    below: float,
    drawn_above: Floats,
    drawn_below: Floats,
    questions: int,
    sensor: float = 0.0,
) -> Interval | None:
    """Compute a ratio of two sums and its interval; None if the divisor is not above 0.

    Percentiles of a bootstrap of few questions are too narrow, like a normal interval with an
    estimated deviation. They are widened by Student's quantile over the normal one, on the
    logarithm (Hesterberg, The American Statistician 69, 2015).

    ``sensor`` is the relative half width that the meter adds, in quadrature at each end. Fewer than
    two questions have no ends.
    """
    if below <= 0:
        return None
    value = above / below
    if questions < 2:
        return Interval(value, None, None, None)
    widen = _widen_few(questions)
    low, high = percentiles(ratio(drawn_above, drawn_below))
    off = abs(value) * sensor
    if low is not None:
        low = value * (min(low, value) / value) ** widen if value > 0 else 0.0
        low = max(0.0, value - math.hypot(value - low, off))
    if high is not None:
        high = value * (max(high, value) / value) ** widen if value > 0 else max(high, value)
        high = value + math.hypot(high - value, off)
    return Interval(value, low, high, "bootstrap")


def compute_difference(differences: Floats, replicates: Floats) -> tuple[Interval, float, float]:
    """Compute a mean difference of accuracies: the wider of two intervals at each end.

    The bootstrap knows the strata and is too narrow for few disagreements; the adjusted interval is
    the reverse. Returns the mean, its p-value and the standard deviation of the differences.
    """
    found = estimate_paired_mean(differences)
    low, high = percentiles(replicates)
    return (
        Interval(
            found.value,
            max(-1.0, min(found.low, found.low if low is None else low)),
            min(1.0, max(found.high, found.high if high is None else high)),
            "bootstrap",
        ),
        found.p,
        found.deviation,
    )


def compute_sensor_share(samples: Sequence[Sample]) -> float:
    """Return the relative half width of the meter in a ratio of joules; 0 if it cancels.

    The error of an estimate, of a vendor's model and of a battery is one factor of both sides.
    Readings of a counter are independent, and their errors stay.
    """
    kinds: frozenset[str | None] = frozenset(sample.kind for sample in samples)
    if not kinds <= _INDEPENDENT:
        return 0.0
    total = math.fsum(sample.joules or 0.0 for sample in samples)
    width = add_half_widths(
        [sample.uncertainty for sample in samples], [sample.subject for sample in samples], kinds
    )
    return width / total if width is not None and total > 0 else 0.0


def excludes(interval: Interval | None, neutral: float) -> int:
    """Return 1 if an interval is above a value, -1 if it is below, 0 if neither is known."""
    if interval is None:
        return 0
    if interval.low is not None and interval.low > neutral:
        return 1
    if interval.high is not None and interval.high < neutral:
        return -1
    return 0


@dataclass(frozen=True, slots=True)
class Readout:
    """What the letter behind the answers of an arm is worth, on the same answers."""

    strategy: Strategy
    read: Interval  # Accuracy by the letter that was read behind the answer
    stated: Interval  # Accuracy by the letter that its free text states
    silent: float  # Share of the questions of which the free text states none
    difference: Interval  # The first accuracy minus the second
    p_holm: float  # P-value of McNemar's exact test, adjusted for all arms


def compare_readouts(paired: Paired, seed: int) -> tuple[Readout, ...]:
    """Compare the letter behind the answers with their free text, for every arm that has both."""
    found, p_values = [], []
    for at, one in enumerate(paired.layout.strategies):
        samples = paired.column(one)
        if not samples or all(sample.stated is None for sample in samples):
            continue
        right = paired.correct[:, at]
        changes = right - np.array([float(one.stated == one.answer) for one in samples])
        drawn = resample_sums(changes[:, None], paired.subjects, seed)[:, 0]
        by_text = [replace(one, correct=one.stated == one.answer) for one in samples]
        read, own = (compute_accuracy(each, seed).micro for each in (samples, by_text))
        difference, _, _ = compute_difference(changes, drawn / len(samples))
        silent = sum(not sample.stated for sample in samples) / len(samples)
        found.append(Readout(one, read, own, silent, difference, 1.0))
        p_values.append(mcnemar(int((changes < 0).sum()), int((changes > 0).sum())))
    adjusted = zip(found, holm(p_values), strict=True) if found else ()
    return tuple(replace(one, p_holm=p) for one, p in adjusted)


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
    joules: Interval | None  # Joules over those of the base; None if one of them is unmeasured
    per_correct: Interval | None  # Joules per right answer over those of the base
    per_additional: Interval | None
    """Joules for each right answer that the arm has beyond the base; the upper end is None if it
    may have none. None if it has none."""
    seconds: Interval | None  # Time over that of the base


RIGHT, SECONDS, JOULES, RIGHT_MEASURED = range(4)
"""Columns of :class:`Resampled`; the last two are over the measured questions only."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """Sums of every arm over the paired questions, and over their resamples."""

    paired: Paired
    totals: Floats  # Shape (arms, columns)
    drawn: Floats  # Shape (resamples, arms, columns)

    def sums(self, strategy: Strategy, column: int) -> tuple[float, Floats]:
        """Return a sum of an arm, and that of each resample."""
        at = self.paired.index(strategy)
        return float(self.totals[at, column]), self.drawn[:, at, column]


def resample(paired: Paired, seed: int) -> Resampled:
    """Draw the questions of every subject again, with the answers of all arms together."""
    measured = paired.measured[:, None]
    correct = paired.correct
    stacked = np.stack(
        [
            correct,
            paired.values(lambda sample: sample.seconds),
            np.where(measured, np.nan_to_num(paired.joules), 0.0),
            np.where(measured, correct, 0.0),
        ],
        axis=2,
    )
    count, arms, columns = stacked.shape
    drawn = resample_sums(stacked.reshape(count, -1), paired.subjects, seed)
    return Resampled(paired, stacked.sum(axis=0), drawn.reshape(-1, arms, columns))


def compute_multiples(resampled: Resampled) -> tuple[Multiple, ...]:
    """Compare every arm with the direct answer of its model and with that of the largest one."""
    found = [
        _compute_multiple(resampled, strategy, base, against)
        for strategy, base, against in _list_pairs(resampled.paired.layout)
    ]
    families: dict[tuple[Against, str], list[Multiple]] = {}
    for one in found:
        families.setdefault((one.against, one.strategy.role), []).append(one)
    adjusted = {
        (one.strategy.arm, one.against): p
        for inside in families.values()
        for one, p in zip(inside, holm([each.p_value for each in inside]), strict=True)
    }
    return tuple(replace(one, p_holm=adjusted[one.strategy.arm, one.against]) for one in found)


def find_multiple(
    multiples: Sequence[Multiple], strategy: Strategy, against: Against
) -> Multiple | None:
    """Return the comparison of an arm; None if there is none."""
    return next((m for m in multiples if m.strategy == strategy and m.against == against), None)


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
    metered = paired.metered[paired.index(strategy)] and paired.metered[paired.index(base)]
    if metered and paired.measured.any():
        sensor = _sensor_share(paired, strategy, base)
        joules = over(JOULES, sensor)
        spent, base_spent = (resampled.sums(one, JOULES) for one in (strategy, base))
        ours, theirs = (resampled.sums(one, RIGHT_MEASURED) for one in (strategy, base))
        if base_spent[0] > 0 and ours[0] > 0 and theirs[0] > 0:
            per_correct = compute_ratio_interval(
                spent[0] * theirs[0], base_spent[0] * ours[0],
                spent[1] * theirs[1], base_spent[1] * ours[1], count, sensor,
            )  # fmt: skip
        more = ours[0] - theirs[0]
        if more > 0:
            # Sums of weights that are equal may differ by their rounding.
            drawn = ours[1] - theirs[1]
            drawn = np.where(drawn > 1e-9, drawn, 0.0)
            low, high = percentiles(ratio(spent[1] - base_spent[1], drawn))
            each = (spent[0] - base_spent[0]) / more
            per_additional = Interval(each, low, high, "bootstrap")
    return Multiple(
        strategy=strategy,
        base=base,
        against=against,
        questions=count,
        difference=difference,
        deviation=deviation,
        p_value=p_value,
        p_holm=p_value,
        joules=joules,
        per_correct=per_correct,
        per_additional=per_additional,
        seconds=over(SECONDS),
    )


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
