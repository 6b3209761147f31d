"""Confidence sequence of a mean over a finite population: when is it known to so many points?

The questions of a suite are asked in random order, proportionally by stratum, without replacement.
The target is the mean of a value (right or not, the difference of two systems) over all ``total``
questions. After n questions, the mean of the prefix has the variance s^2 (1/n - 1/total), and for
n < m the covariance of two prefix means is the variance of the later one. The mean times the
information I = 1 / variance is therefore a Brownian motion with drift in the time I (Jennison and
Turnbull, Group Sequential Methods, 2000, chapter 3 and section 11.3), as far as sums of many
questions are normal.

With t = I / I1, where I1 is the information at which the interval is as narrow as asked, the
sequence is the boundary |B(t)| <= h + b (1 - t) on (0, 1]. A Brownian motion crosses one side of it
with probability Phi(-h) + exp(2 b (h + b)) Phi(-(h + 2 b)) (Anderson, Ann. Math. Stat. 31, 1960;
Siegmund, Sequential Analysis, 1985, chapter 3); h is such that both sides together have 5 %. The
intervals of all looks hold at once, so looking often never makes a wrong stop more probable; at
t = 1, the boundary is h = 2.05 instead of 1.96, which costs 9 % more questions than a sample whose
size was fixed before. The price is paid early: at t = 1/2 the interval is four times the width
asked for. A sequence in this sense is asymptotic (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
Ann. Statist. 52, 2024): the variance is estimated and the sums are normal only approximately. Two
remedies make it hold for few questions and for accuracies near 0 or 1: pseudo-answers as in Agresti
and Coull (Am. Stat. 52, 1998), and Student's quantile for the degrees of freedom.

A covariate that is known for the whole population (the difficulty of a question) narrows the
interval by regression within strata (Cochran, Sampling Techniques, 3rd ed., 1977, chapter 7). The
coefficients are those of the sample; any coefficient leaves the estimate consistent, and of no, one
and more covariates those count that give the smallest variance, degrees of freedom paid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from etui.stats.arrays import Floats, Whole
from etui.stats.distributions import find_root, log_normal_tail, normal_tail
from etui.stats.tests import CONFIDENCE

METHOD = "linear-boundary confidence sequence"
"""Name of the method, for reports."""

SLOPE = 4.0
"""Slope b of the boundary: 0 would be a constant boundary (h = 2.24, 31 % more questions than a
fixed sample), 10 would save 4 % of the questions and nearly double the width half-way."""

Z95 = 1.959963984540054
"""Quantile of the normal distribution for an interval of 95 % at a fixed number of questions."""

LEAST_QUESTIONS = 30
"""Fewest questions after which an interval is stated: below, sums are not near normal."""

_ROUNDS = 20
"""Rounds of the fixed point of the predicted number of questions; it settles in a few."""

_RIDGE = 1e-3
"""Share of a covariate's variance that is added to it, so that a constant one has coefficient 0."""


@dataclass(frozen=True, slots=True)
class PrefixMean:
    """The mean of a population, estimated from the first questions of a random order."""

    value: float  # Estimate of the mean; with a covariate, corrected by regression
    centre: float  # Middle of the interval: the value with pseudo-answers
    spread: float
    """Variance of one question within its stratum; with a covariate, of what the regression leaves.
    """
    variance: float  # The same with pseudo-answers
    freedom: float  # Degrees of freedom of `variance`
    questions: int  # Number of questions asked
    total: int  # Number of questions of the population
    low: float
    high: float
    correlation: float | None = None
    """Multiple correlation of the value and the covariate within strata; None without a covariate.
    """

    @property
    def variance_error(self) -> float:
        """Relative standard error of ``variance``, from that of a share of answers."""
        if self.variance <= 0:
            return 1.0
        largest = ((self.high - self.low) / 2) ** 2
        unknown = max(0.0, 1 - self.variance / largest)
        return min(1.0, math.sqrt(unknown / (self.variance * self.questions)))


@dataclass(frozen=True, slots=True)
class SequenceInterval:
    """Interval of a confidence sequence at one look."""

    value: float  # Estimate of the mean
    low: float
    high: float
    half_width: float  # Half of the interval's width before it is cut at the bounds of the mean
    time: float  # Share of the information that the asked width needs; from 1 on it is reached
    questions: int  # Number of questions asked

    @property
    def reached(self) -> bool:
        """Whether the interval is as narrow as asked."""
        return self.time >= 1


def crossing_probability(height: float, slope: float) -> float:
    """Compute the probability that a Brownian motion crosses height + slope (1 - t) in (0, 1].

    The height is above 0, and the slope not negative.
    """
    exponent = 2 * slope * (height + slope) + log_normal_tail(height + 2 * slope)
    return normal_tail(height) + math.exp(exponent)


@cache
def boundary_height(slope: float = SLOPE, level: float = 1 - CONFIDENCE) -> float:
    """Compute the height h at which both sides together are crossed with a probability."""
    return find_root(lambda height: 2 * crossing_probability(height, slope) - level, 0.1, 10)


def estimate_prefix_mean(
    values: Floats,
    strata: Whole,
    total: int,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    covariates: Floats | None = None,
) -> PrefixMean:
    """Estimate the mean of a population from the questions asked so far.

    The variance is that within strata; strata with one question are pooled, which overstates it
    (collapsed strata, Cochran, section 5A.12).

    Args:
        values: Value of each question asked, within the bounds, shape (n,), at least one.
        strata: Number of its stratum, from 0, shape (n,).
        total: Number of questions of the population, at least n.
        covariates: Of each question asked, shape (n, k), with a mean of 0 over the population
            (:func:`build_covariates`).
    """
    count = len(values)
    sizes, groups = _pool_single(strata)
    freedom = float(count - (sizes > 0).sum())
    mean, inside = _centre(values, groups, sizes)
    variance = _compute_variance(inside, groups, sizes)
    plain = PrefixMean(mean, mean, variance, variance, freedom, count, total, *bounds)
    if covariates is None:
        return _add_pseudo_answers(plain)
    best = replace(plain, correlation=0.0)
    means, columns = _centre(covariates, groups, sizes)
    for used in range(1, min(len(means), int(freedom) - 1) + 1):
        slopes, leverage = _regress(inside, columns[:, :used], means[:used])
        rest = _compute_variance(inside - columns[:, :used] @ slopes, groups, sizes)
        left = freedom - used
        fitted = replace(
            plain,
            value=min(bounds[1], max(bounds[0], mean - float(means[:used] @ slopes))),
            spread=rest * (1 + leverage) * freedom / left,
            freedom=left,
            correlation=math.sqrt(max(0.0, 1 - rest / variance)) if variance > 0 else 0.0,
        )
        if _widen(fitted.spread, left) < _widen(best.spread, best.freedom):
            best = fitted
    return _add_pseudo_answers(best)


def build_covariates(difficulty: Floats) -> Floats:
    """Build the covariates of a population from the difficulties, shape (questions, 3).

    They are the difficulty, its square and its cube, standardised: a strong model is wrong only on
    the hardest questions and a weak one right only on the easiest, which a line does not follow. A
    constant difficulty gives zeros.
    """

    def standardise(column: Floats) -> Floats:
        centred = column - column.mean()
        deviation = float(centred.std())
        return centred / deviation if deviation > 1e-9 else np.zeros_like(centred)

    first = standardise(np.asarray(difficulty, dtype=np.float64))
    return np.column_stack([first, standardise(first**2), standardise(first**3)])


def within_variance(values: Floats, strata: Whole) -> float:
    """Compute the variance of a question within its stratum over a whole population."""
    sizes, groups = _pool_single(strata)
    return _compute_variance(_centre(values, groups, sizes)[1], groups, sizes)


def compute_interval(estimate: PrefixMean, half_width: float) -> SequenceInterval:
    """Compute the interval of the sequence that narrows to a half width, a share above 0."""
    total, count = estimate.total, estimate.questions
    if count >= total:
        return SequenceInterval(
            estimate.value, estimate.value, estimate.value, 0.0, math.inf, count
        )
    if count < LEAST_QUESTIONS or estimate.freedom < 1:
        return SequenceInterval(
            estimate.value, estimate.low, estimate.high, estimate.high - estimate.low, 0.0, count
        )
    height = boundary_height()
    variance = _widen(estimate.variance, estimate.freedom) * (1 / count - 1 / total)
    time = half_width**2 / (height**2 * variance) if variance > 0 else math.inf
    # Beyond t = 1 the interval is that of a look at t = 1: h standard errors.
    wider = (1 + SLOPE / height * (1 - time)) / time if time < 1 else 1 / math.sqrt(time)
    half = min(half_width * wider, estimate.high - estimate.low)
    low, high = estimate.centre - half, estimate.centre + half
    low = max(estimate.low, min(low, estimate.value))
    high = min(estimate.high, max(high, estimate.value))
    return SequenceInterval(estimate.value, low, high, half, time, count)


def questions_needed(estimate: PrefixMean, half_width: float) -> int:
    """Predict the number of questions at which the interval is as narrow as asked."""
    height, count = boundary_height(), LEAST_QUESTIONS
    for _ in range(_ROUNDS):  # the pseudo-answers weigh less the more questions there are
        asked = replace(estimate, questions=min(count, estimate.total))
        variance = _add_pseudo_answers(asked).variance
        count = _count_for(variance, estimate.total, half_width, height)
    return max(count, min(LEAST_QUESTIONS, estimate.total))


def fixed_sample(variance: float, total: int, half_width: float) -> int:
    """Compute the smallest fixed sample whose 95 % half width is not above a given one.

    It is drawn proportionally by stratum without replacement, so that the half width of n questions
    is 1.96 sqrt(variance (1/n - 1/total)), with the variance of one question within its stratum.
    """
    return max(1, _count_for(variance, total, half_width, Z95))


def _count_for(variance: float, total: int, half_width: float, quantile: float) -> int:
    if variance <= 0:
        return min(total, 1)
    exact = 1 / ((half_width / quantile) ** 2 / variance + 1 / total)
    return min(total, math.ceil(exact - 1e-9))


def _regress(inside: Floats, columns: Floats, means: Floats) -> tuple[Floats, float]:
    """Fit coefficients within strata."""
    products = columns.T @ columns
    products[np.diag_indices_from(products)] *= 1 + _RIDGE
    products[np.diag_indices_from(products)] += 1e-9
    solved = np.linalg.solve(products, np.column_stack([columns.T @ inside, means]))
    return np.asarray(solved[:, 0]), float(means @ solved[:, 1]) * len(inside)


def _pool_single(strata: Whole) -> tuple[Whole, Whole]:
    """Count the questions of each stratum; put those that are alone into one stratum.

    A single one that is left over joins the smallest other stratum.
    """
    sizes = np.bincount(strata)
    alone = sizes[strata] == 1
    if not alone.any():
        return sizes, strata
    if alone.sum() > 1 or len(strata) == 1:
        into = len(sizes)
    else:
        into = int(np.where(sizes > 1, sizes, len(strata) + 1).argmin())
    groups = np.where(alone, into, strata)
    return np.bincount(groups), groups


def _compute_variance(inside: Floats, groups: Whole, sizes: Whole) -> float:
    """Average the variances of the strata by their numbers of questions."""
    scale = sizes / np.maximum(sizes - 1, 1)
    return float((scale[groups] * inside**2).mean())


def _centre(values: Floats, groups: Whole, sizes: Whole) -> tuple[Any, Floats]:
    """Return the mean of all rows, and each row less the mean of its stratum."""
    divisor = np.maximum(sizes, 1)
    if values.ndim == 1:
        means = np.bincount(groups, values, len(sizes)) / divisor
        return float(values.mean()), values - means[groups]
    columns = [_centre(column, groups, sizes)[1] for column in values.T]
    return values.mean(axis=0), np.column_stack(columns)


def _add_pseudo_answers(estimate: PrefixMean) -> PrefixMean:
    """Move the centre and the variance towards the middle of the bounds by pseudo-answers.

    Half of them are at each bound: z^2 for an accuracy (Agresti and Coull), z^2 / 4 for a
    difference, so that both add z^2 / 2n to the variance where all answers agree. Their number
    falls with the share of the population that is asked, since a census leaves nothing to guess.
    """
    count, width = estimate.questions, estimate.high - estimate.low
    pseudo = (Z95 / width) ** 2 * (1 - count / estimate.total)
    weight = count / (count + pseudo)
    middle = (estimate.low + estimate.high) / 2
    largest = (width / 2) ** 2
    return replace(
        estimate,
        centre=weight * estimate.value + (1 - weight) * middle,
        variance=weight**2 * estimate.spread + (1 - weight**2) * largest,
    )


def _widen(variance: float, freedom: float) -> float:
    """Scale a variance so that a normal quantile covers like Student's.

    The first term of the expansion of Student's quantile (Abramowitz and Stegun, 26.7.5).
    """
    return variance * (1 + (Z95**2 + 1) / (4 * freedom)) ** 2
