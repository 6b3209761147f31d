"""Mean log cost of every setting from blocks in which not all settings are measured.

The model is that of a randomised block design, ``log cost = block + setting + noise``, fitted by
least squares, so that a setting that was dropped early is compared through the blocks it was in
(Cochran and Cox, Experimental Designs, 1957, chapter 4). The random order of the visits in a block
is what makes their noise exchangeable.

A setting that was dropped after one round has two visits, which say next to nothing of its noise,
and two blocks are too few to draw resamples from. But some settings are noisier than others. So the
variance of each setting is that of its own residuals, averaged with the variance pooled over all
settings, which counts as much as four visits (moderated variances: Smyth, Stat. Appl. Genet. Mol.
Biol. 3, 2004); degrees of freedom follow Satterthwaite (Biometrics Bulletin 2, 1946).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.stats.small_samples import MeanEstimate
from etui.stats.student_t import t_p_value, t_quantile
from etui.stats.tests import CONFIDENCE
from etui.sweep.analysis.costs import read_logs
from etui.sweep.blocks import Block, Figure

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

_LEAST_FREEDOM = 2
"""Fewest degrees of freedom of all residuals for an interval."""
_PRIOR_FREEDOM = 4.0
"""Degrees of freedom that the pooled variance counts for. It fits settings whose noise varies by a
factor of 1.5 (the variance of the log of a variance is trigamma(2) = 0.64)."""
_NO_WEIGHT = 1e-12


@dataclass(frozen=True, slots=True)
class SettingMeans:
    """Fitted log costs."""

    keys: tuple[str, ...]
    """The settings that were measured in a block with others; the baseline is the first."""
    logs: Floats  # Log cost relative to the baseline, shape (settings,)
    covariance: Floats  # Their covariance in variances of one visit, shape (settings, settings)
    counts: Floats  # Visits, shape (blocks, settings)
    variances: Floats | None
    """Variance of the log of one visit of each setting, shape (settings,); None if the visits are
    too few."""
    freedom: Floats  # Degrees of freedom of each variance, shape (settings,)

    def estimate(self, weights: Floats) -> tuple[MeanEstimate, float, float]:
        """Estimate a contrast.

        Args:
            weights: Of the settings, shape (settings,), with the sum 0.

        Returns:
            The contrast with its interval (none where the visits are too few), its variance in
            variances of one visit, and its degrees of freedom.
        """
        mean = float(weights @ self.logs)
        gains = weights @ self.covariance
        # The estimate is a weighted sum over visits; these are the squares of their weights.
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


def fit_setting_means(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure
) -> SettingMeans | None:
    """Fit the log costs of the settings.

    Returns:
        None if the baseline was never measured together with another setting.
    """
    import numpy as np

    logs = read_logs(blocks, keys, figure)
    # Every setting needs a block with the baseline, which is in all of them.
    logs = logs[np.isfinite(logs[:, 0]).any(axis=1)]
    measured = np.flatnonzero(np.isfinite(logs).any(axis=(0, 2)))
    if len(measured) < 2:
        return None
    logs = logs[:, measured]
    there = np.isfinite(logs)
    counts = there.sum(axis=2).astype(np.float64)
    visits = counts.sum(axis=1)
    centred = np.where(
        there, logs - np.nansum(logs, axis=(1, 2), keepdims=True) / visits[:, None, None], 0.0
    )
    # Normal equations after the blocks are eliminated, relative to the baseline.
    normal = np.diag(counts.sum(axis=0)) - counts.T @ (counts / visits[:, None])
    covariance = np.zeros(normal.shape)
    covariance[1:, 1:] = np.linalg.inv(normal[1:, 1:])
    means = covariance @ centred.sum(axis=(0, 2))
    fitted = means[None, :] - (counts @ means / visits)[:, None]
    residuals = np.where(there, centred - fitted[:, :, None], 0.0)
    variances, freedom = _moderate(residuals, counts, covariance)
    compared = (counts[:, 1:] > 0).any(axis=1).sum()
    return SettingMeans(
        keys=tuple(keys[at] for at in measured.tolist()),
        logs=means,
        covariance=covariance,
        counts=counts,
        variances=variances if compared > 1 else None,
        freedom=freedom,
    )


def _moderate(
    residuals: Floats, counts: Floats, covariance: Floats
) -> tuple[Floats | None, Floats]:
    """Estimate the variance of one visit of each setting, and its degrees of freedom."""
    import numpy as np

    visits = counts.sum(axis=1)
    # Leverage of a visit: 1/n of its block, and the variance of its setting's mean less the
    # block's mean of them.
    shares = counts / visits[:, None]
    own = np.diag(covariance)[None, :] - 2 * shares @ covariance
    block = np.einsum("bs,st,bt->b", shares, covariance, shares)
    leverage = 1 / visits[:, None] + own + block[:, None]
    degrees = (counts * (1 - leverage)).sum(axis=0)
    total = float(degrees.sum())
    squares = (residuals**2).sum(axis=(0, 2))
    if total < _LEAST_FREEDOM:
        return None, degrees
    prior = min(_PRIOR_FREEDOM, total)
    freedom = degrees + prior
    return (squares + prior * squares.sum() / total) / freedom, freedom
