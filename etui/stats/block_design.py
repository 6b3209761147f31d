"""Means of treatments from blocks in which not all of them are measured.

The model is that of a randomised block design, ``value = block + treatment + noise``, fitted by
least squares, so that a treatment that is in few blocks is compared through those (Cochran and Cox,
Experimental Designs, 1957, chapter 4). A treatment that was measured twice says next to nothing of
its noise. So the variance of each is that of its own residuals, averaged with the variance pooled
over all treatments, which counts as much as four values (moderated variances: Smyth, Stat. Appl.
Genet. Mol. Biol. 3, 2004); degrees of freedom follow Satterthwaite (Biometrics Bulletin 2, 1946).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etui.stats.arrays import Floats
from etui.stats.distributions import t_p_value, t_quantile
from etui.stats.small_samples import MeanEstimate
from etui.stats.tests import CONFIDENCE

_LEAST_FREEDOM = 2
"""Fewest degrees of freedom of all residuals for an interval."""
_PRIOR_FREEDOM = 4.0
"""Degrees of freedom that the pooled variance counts for. It fits treatments whose noise varies by
a factor of 1.5 (the variance of the log of a variance is trigamma(2) = 0.64)."""
_NO_WEIGHT = 1e-12


@dataclass(frozen=True, slots=True)
class BlockMeans:
    """Fitted means of the treatments that were measured in a block with the reference."""

    measured: tuple[int, ...]  # Their indices; the reference, 0, is the first
    means: Floats  # Relative to the reference, shape (treatments,)
    covariance: Floats  # Of the means, in variances of one value, shape (treatments, treatments)
    counts: Floats  # Values, shape (blocks, treatments)
    variances: Floats | None  # Variance of one value of each; None if the values are too few
    freedom: Floats  # Degrees of freedom of each variance, shape (treatments,)

    def estimate(self, weights: Floats) -> tuple[MeanEstimate, float, float]:
        """Estimate a contrast by weights of the treatments, with the sum 0.

        Returns the contrast with its interval (none where the values are too few), its variance in
        variances of one value, and its degrees of freedom.
        """
        mean = float(weights @ self.means)
        gains = weights @ self.covariance
        # The estimate is a weighted sum over values; these are the squares of their weights.
        centre = (self.counts @ gains) / self.counts.sum(axis=1)
        squares = self.counts * (gains[None, :] - centre[:, None]) ** 2
        blocks = int((squares.max(axis=1) > _NO_WEIGHT).sum())
        parts = squares.sum(axis=0)
        factor = float(parts.sum())
        if self.variances is None:
            return MeanEstimate(mean, None, None, None, None, blocks, None), factor, 1.0
        parts = parts * self.variances
        variance = float(parts.sum())
        if variance == 0:
            p = float(mean == 0)
            return MeanEstimate(mean, mean, mean, p, 0.0, blocks, "student"), factor, 1.0
        freedom = float(variance**2 / (parts**2 / self.freedom).sum())
        error = variance**0.5
        half = t_quantile((1 - CONFIDENCE) / 2, freedom) * error
        p = t_p_value(mean / error, freedom)
        deviation = error * blocks**0.5
        estimate = MeanEstimate(mean, mean - half, mean + half, p, deviation, blocks, "student")
        return estimate, factor, freedom


def fit_block_design(values: Floats) -> BlockMeans | None:
    """Fit the means of the treatments; None if the reference is in no block with another one.

    ``values`` have the shape (blocks, treatments, copies), NaN where one is missing; the first
    treatment is the reference.
    """
    # Every treatment needs a block with the reference.
    values = values[np.isfinite(values[:, 0]).any(axis=1)]
    measured = np.flatnonzero(np.isfinite(values).any(axis=(0, 2)))
    if len(measured) < 2:
        return None
    values = values[:, measured]
    there = np.isfinite(values)
    counts = there.sum(axis=2).astype(np.float64)
    sizes = counts.sum(axis=1)
    centred = np.where(
        there, values - np.nansum(values, axis=(1, 2), keepdims=True) / sizes[:, None, None], 0.0
    )
    # Normal equations after the blocks are eliminated, relative to the reference.
    normal = np.diag(counts.sum(axis=0)) - counts.T @ (counts / sizes[:, None])
    covariance = np.zeros(normal.shape)
    covariance[1:, 1:] = np.linalg.inv(normal[1:, 1:])
    means = covariance @ centred.sum(axis=(0, 2))
    fitted = means[None, :] - (counts @ means / sizes)[:, None]
    residuals = np.where(there, centred - fitted[:, :, None], 0.0)
    variances, freedom = _moderate(residuals, counts, covariance)
    compared = (counts[:, 1:] > 0).any(axis=1).sum()
    return BlockMeans(
        measured=tuple(measured.tolist()),
        means=means,
        covariance=covariance,
        counts=counts,
        variances=variances if compared > 1 else None,
        freedom=freedom,
    )


def _moderate(
    residuals: Floats, counts: Floats, covariance: Floats
) -> tuple[Floats | None, Floats]:
    """Estimate the variance of one value of each treatment, and its degrees of freedom."""
    sizes = counts.sum(axis=1)
    # Leverage of a value: 1/n of its block, and the variance of its treatment's mean less the
    # block's mean of them.
    shares = counts / sizes[:, None]
    own = np.diag(covariance)[None, :] - 2 * shares @ covariance
    block = np.einsum("bs,st,bt->b", shares, covariance, shares)
    leverage = 1 / sizes[:, None] + own + block[:, None]
    degrees = (counts * (1 - leverage)).sum(axis=0)
    total = float(degrees.sum())
    squares = (residuals**2).sum(axis=(0, 2))
    if total < _LEAST_FREEDOM:
        return None, degrees
    prior = min(_PRIOR_FREEDOM, total)
    freedom = degrees + prior
    return (squares + prior * squares.sum() / total) / freedom, freedom
