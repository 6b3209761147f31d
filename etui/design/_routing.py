"""What a router over the arms of a run would have saved, replayed over its answers.

Every choice is cross-fitted: the arm of a question is chosen from the answers to other questions,
so that a router cannot profit from having seen the one that it is judged on. Only the oracle knows
the outcomes; it bounds what any router could save. All are compared with the direct answer of the
largest model, question by question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from etui.design._arms import (
    compute_difference,
    compute_ratio_interval,
    compute_sensor_share,
)
from etui.design._paired import Paired, Strategy
from etui.learning.cross_fit import FOLDS, cross_fit
from etui.learning.graded import Graded, assign_folds
from etui.learning.judge import against_mixture
from etui.learning.outcomes import build_graded
from etui.stats.arrays import Floats, Whole
from etui.stats.bootstrap import resample_sums
from etui.stats.frontier import cheapest_correct
from etui.stats.tests import Interval

LEAST_QUESTIONS = 40
"""Fewest questions to replay a router on: a fold then learns from 32."""

ORACLE = "oracle"
FRUGAL = "frugal oracle"
MIXTURE = "mixture"
BY_SUBJECT = "by subject"
BY_LENGTH = "by length"

_BANDS = 4
"""Bands of prompt length."""


@dataclass(frozen=True, slots=True)
class RoutedFigures:
    """One way to choose the arms of questions, against the direct answer of the largest model."""

    name: str  # `oracle`, `frugal oracle`, `mixture`, `by subject` or `by length`
    accuracy: float  # Share of right answers
    joules_per_question: float
    difference: Interval  # Accuracy minus that of the reference
    joules: Interval  # Joules over those of the reference
    saved: Interval  # Share of the reference's joules that is saved; negative if more are used
    lead: Interval | None
    """Accuracy minus that of a random mixture of the arms for the same joules; None for the mixture
    and the oracle."""
    shares: dict[str, float]
    """Arm -> share of the questions it answers; arms without any are absent."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The replay of a run."""

    reference: Strategy | None  # The direct answer of the largest model
    questions: int
    routed: tuple[RoutedFigures, ...]  # Figures of each way to choose
    why_not: str = ""  # Why nothing was replayed; empty if something was


def replay_routers(paired: Paired, seed: int) -> Replay:
    """Replay the ways to choose an arm over the questions of which every arm has joules."""
    reference = paired.layout.reference
    count = int(paired.measured.sum())
    why_not = ""
    if not len(paired):
        why_not = "no question has been answered by every arm"
    elif len(paired.layout.roles) < 2:
        why_not = "the run has one model, so that there is no larger one to save joules against"
    elif reference is None:
        why_not = "the largest model has no arm that answers directly"
    elif not all(paired.metered):
        why_not = "the joules of an arm are unmeasured"
    elif count < LEAST_QUESTIONS:
        why_not = f"{count:,} questions are too few to learn from; {LEAST_QUESTIONS} are needed"
    if why_not or reference is None:
        return Replay(reference, count, (), why_not)
    kept = paired.measured
    correct, joules = paired.correct[kept], paired.joules[kept]
    keys = [key for key, used in zip(paired.keys, kept.tolist(), strict=True) if used]
    names = [one.arm for one in paired.layout.strategies]
    graded = replace(build_graded(names, keys, (correct > 0).tolist(), None), joules=joules)
    at = paired.index(reference)
    lengths = paired.values(lambda sample: sample.tokens.prompt)[kept][:, at]
    # Where the reference is not right, any arm is as good.
    needed = np.where(graded.correct[:, [at]], graded.correct, True)
    weights = {
        ORACLE: _one_hot(cheapest_correct(graded.correct, joules), len(names)),
        FRUGAL: _one_hot(cheapest_correct(needed, joules), len(names)),
        MIXTURE: _fit_mixtures(graded, joules, at, seed),
        BY_SUBJECT: _route(graded, joules, at, seed),
        BY_LENGTH: _route(_band_by_length(graded, lengths), joules, at, seed),
    }
    sensor = _find_sensor_share(paired, at)
    found = [
        _judge(name, np.asarray(weight), graded, joules, at, seed, sensor)
        for name, weight in weights.items()
    ]
    return Replay(reference, count, tuple(found))


def _one_hot(chosen: Whole, arms: int) -> Floats:
    return np.asarray(np.eye(arms)[chosen])


def _band_by_length(graded: Graded, lengths: Floats) -> Graded:
    """Return the questions with bands of prompt length in place of subjects."""
    edges = np.quantile(lengths, np.linspace(0, 1, _BANDS + 1)[1:-1])
    bands = tuple(f"length {band}" for band in np.searchsorted(edges, lengths).tolist())
    return replace(graded, subjects=bands, rows=tuple(range(len(graded))))


def _route(graded: Graded, joules: Floats, at: int, seed: int) -> Floats:
    """Choose the cheapest arm that is predicted to be as accurate as the reference."""
    probabilities = cross_fit(graded, routers=("subject",), seed=seed)["subject"]
    enough = probabilities >= probabilities[:, [at]]
    folds = assign_folds(graded, FOLDS, seed)  # those of the probabilities
    cost = np.empty(joules.shape)
    for fold in range(int(folds.max()) + 1):
        cost[folds == fold] = joules[folds != fold].mean(axis=0)
    chosen = np.where(enough, cost, np.inf).argmin(axis=1)
    return _one_hot(np.asarray(chosen), joules.shape[1])


def _fit_mixtures(graded: Graded, joules: Floats, at: int, seed: int) -> Floats:
    """Return the shares of the cheapest mixture that is as accurate, from the other folds."""
    folds = assign_folds(graded, FOLDS, seed)
    weights = np.zeros(joules.shape)
    for fold in range(int(folds.max()) + 1):
        used = folds != fold
        weights[folds == fold] = find_cheapest_mixture(
            joules[used].mean(axis=0), graded.correct[used].mean(axis=0), at
        )
    return weights


def find_cheapest_mixture(cost: Floats, accuracy: Floats, at: int) -> Floats:
    """Find the cheapest random mixture of two arms that is as accurate as a given one.

    Args:
        cost: Mean cost of each arm, shape (arms,).
        accuracy: Share of right answers, same shape.
        at: The arm whose accuracy is to be reached; alone it is such a mixture.

    Returns:
        Share of each arm, shape (arms,); they sum to 1.
    """
    target, arms = accuracy[at], len(cost)
    best, least = np.eye(arms)[at], float(cost[at])
    for one in range(arms):
        for other in range(arms):
            if accuracy[one] < target:
                continue
            rise = accuracy[one] - accuracy[other]
            share = 1.0 if rise <= 0 else max(0.0, float((target - accuracy[other]) / rise))
            spent = share * cost[one] + (1 - share) * cost[other]
            if spent < least - 1e-12:
                best = share * np.eye(arms)[one] + (1 - share) * np.eye(arms)[other]
                least = float(spent)
    return np.asarray(best)


def _judge(
    name: str, weights: Floats, graded: Graded, joules: Floats, at: int, seed: int, sensor: float
) -> RoutedFigures:
    count = len(graded)
    right, spent = (weights * graded.correct).sum(axis=1), (weights * joules).sum(axis=1)
    base_right, base_spent = graded.correct[:, at].astype(float), joules[:, at]
    columns = np.column_stack([right - base_right, spent, base_spent])
    drawn = resample_sums(columns, graded.subjects, seed)
    difference, _, _ = compute_difference(columns[:, 0], drawn[:, 0] / count)
    ratio = compute_ratio_interval(
        float(spent.sum()), float(base_spent.sum()), drawn[:, 1], drawn[:, 2], count, sensor
    )
    assert ratio is not None
    lead = None
    if name in (BY_SUBJECT, BY_LENGTH):
        (against,) = against_mixture([(right > 0.5, spent)], graded, joules, seed)
        ends = against["difference"]
        lead = Interval(ends["value"], ends["low"], ends["high"], "bootstrap")
    shares = weights.mean(axis=0).tolist()
    return RoutedFigures(
        name=name,
        accuracy=float(right.mean()),
        joules_per_question=float(spent.mean()),
        difference=difference,
        joules=ratio,
        saved=Interval(
            1 - ratio.value,
            None if ratio.high is None else 1 - ratio.high,
            None if ratio.low is None else 1 - ratio.low,
            ratio.method,
        ),
        lead=lead,
        shares={arm: share for arm, share in zip(graded.arms, shares, strict=True) if share > 0},
    )


def _find_sensor_share(paired: Paired, at: int) -> float:
    """Return the relative half width of the meter in a ratio of the joules of two arms.

    A way to choose mixes the answers of arms, so the largest share of an arm is taken for it.
    """
    kept = paired.measured.tolist()
    shares = [
        compute_sensor_share([s for s, used in zip(inside, kept, strict=True) if used])
        for inside in paired.samples
    ]
    return math.hypot(max(shares), shares[at])
