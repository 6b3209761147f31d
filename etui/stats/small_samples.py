"""Means of 2 to about 30 independent values, with intervals that hold at so few.

The percentile and BCa bootstraps of 4 to 8 values are too narrow: they draw only from values that
were seen (79 and 82 % instead of 95 % at 4 normal values). So:

- fewer than 8 values: Student's t, which is exact for normal values and wider than necessary for
  values with outliers;
- 8 values and more: the mean without the largest and the smallest eighth, so that one disturbed
  value does not hide a difference, with its standard error from winsorised values (Tukey and
  McLaughlin, Sankhya A 25, 1963) and a symmetric studentised bootstrap (Hall, The Bootstrap and
  Edgeworth Expansion, 1992; Wilcox, Introduction to Robust Estimation, section 4.4), never
  narrower than Tukey and McLaughlin's own t interval. Some resamples of 8 values have next to no
  spread and a distance of many standard errors, so the variance of each is averaged with a tenth
  of the sample's.

``tests/stats/test_small_samples.py`` simulates the coverage, with skewed values and outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from statistics import median
from typing import Any

import numpy as np

from etui.stats.arrays import Floats, Whole
from etui.stats.distributions import t_p_value, t_quantile
from etui.stats.tests import CONFIDENCE

REPLICATES = 2000
"""Resamples; half of them are mirror images of the others."""

_LEAST_TRIMMED = 8
_SAMPLE_SHARE = 0.1
"""Weight of the sample's variance in that of a resample: without it the interval of 8 normal values
is a third too wide, with 0.25 nothing is left of the bootstrap."""
_NO_SPREAD = 1e-12
"""A standard error below this share of the largest value is that of equal values, rounded."""


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """The mean of a few values; of one value, the rest is None."""

    mean: float  # Trimmed mean from 8 values on
    low: float | None  # Ends of the interval at 95 %
    high: float | None
    p: float | None  # Two-sided p-value of a mean of 0
    deviation: float | None  # Standard error times the root of the number of values
    values: int
    method: str | None  # `bootstrap` or `student`; None without an interval


def count_trimmed(values: int) -> int:
    """Return how many values are left out at each end: an eighth from 8 values on."""
    return values // _LEAST_TRIMMED


def count_freedom(values: int) -> int:
    """Return the degrees of freedom of a (trimmed) mean: values that are left in, less one."""
    return values - 2 * count_trimmed(values) - 1


def estimate_means(samples: Sequence[Floats], seed: int) -> list[MeanEstimate]:
    """Estimate the mean of each sample.

    Samples of equal size share their resamples. The result does not depend on the order of the
    values, and the negated values give exactly the negated result.
    """
    found: list[MeanEstimate | None] = [None] * len(samples)
    for size in sorted({len(sample) for sample in samples}):
        members = [at for at, sample in enumerate(samples) if len(sample) == size]
        values = np.sort(np.array([samples[at] for at in members], dtype=np.float64), axis=1)
        for at, one in zip(members, _estimate_sorted(values, seed), strict=True):
            found[at] = one
    return [one for one in found if one is not None]


def _estimate_sorted(values: Floats, seed: int) -> list[MeanEstimate]:
    """Estimate the means of samples of one size, each in ascending order, (samples, values)."""
    size = values.shape[1]
    if size == 1:
        return [MeanEstimate(float(one), None, None, None, None, 1, None) for one in values[:, 0]]
    freedom = count_freedom(size)
    means, errors = _trim(values)
    errors = np.where(errors <= _NO_SPREAD * np.abs(values).max(axis=1), 0.0, errors)
    quantiles = np.full(len(values), t_quantile((1 - CONFIDENCE) / 2, freedom))
    method = "student"
    if count_trimmed(size):
        quantiles = np.maximum(quantiles, _bootstrap_quantiles(values, means, errors, seed))
        method = "bootstrap"
    half = quantiles * errors
    return [
        MeanEstimate(
            float(mean), float(mean - width), float(mean + width),
            _p_value(float(mean), float(error), freedom), float(error) * size**0.5, size, method,
        )
        for mean, error, width in zip(means, errors, half, strict=True)
    ]  # fmt: skip


def _trim(ordered: Any) -> tuple[Any, Any]:
    """Return trimmed means and their standard errors, of values ordered along the last axis."""
    size = ordered.shape[-1]
    cut = count_trimmed(size)
    kept = ordered[..., cut : size - cut]
    ends = kept[..., 0], kept[..., -1]
    total = kept.sum(axis=-1)
    middle = (total + cut * (ends[0] + ends[1])) / size  # the winsorised mean
    squares = ((kept - middle[..., None]) ** 2).sum(axis=-1)
    squares = squares + cut * ((ends[0] - middle) ** 2 + (ends[1] - middle) ** 2)
    errors = np.sqrt(squares / (size - 1) / size) / (1 - 2 * cut / size)
    return total / (size - 2 * cut), errors


def _bootstrap_quantiles(values: Floats, means: Floats, errors: Floats, seed: int) -> Floats:
    """Return the 95 % quantile of the resamples' distance in standard errors, shape (samples,).

    Resamples of an ordered sample by ordered ranks are ordered, so that nothing is sorted.
    """
    ranks = _draw_ranks(values.shape[1], seed)
    found = np.zeros(len(values))
    for at, (sample, mean, error) in enumerate(zip(values, means, errors, strict=True)):
        if error > 0:
            drawn, own = _trim(sample[ranks])
            mixed = np.sqrt((own**2 + _SAMPLE_SHARE * error**2) / (1 + _SAMPLE_SHARE))
            found[at] = np.quantile(np.abs(drawn - mean) / mixed, CONFIDENCE)
    return found


def _draw_ranks(size: int, seed: int) -> Whole:
    """Draw the ranks of resamples, each in ascending order, shape (REPLICATES, size).

    Every resample comes with its mirror image, so that negated values have the same quantiles.
    """
    generator = np.random.default_rng([seed, size])
    drawn = np.sort(generator.integers(0, size, size=(REPLICATES // 2, size)), axis=1)
    return np.concatenate([drawn, size - 1 - drawn[:, ::-1]])


def _p_value(mean: float, error: float, freedom: int) -> float:
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return t_p_value(mean / error, freedom)


def hodges_lehmann(values: Sequence[float]) -> float:
    """Return the median of all pairs' means (Hodges and Lehmann, Ann. Math. Stat. 34, 1963)."""
    return median((a + b) / 2 for a, b in combinations_with_replacement(values, 2))
