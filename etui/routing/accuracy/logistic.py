"""Logistic regression with an L2 penalty whose strength is chosen by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats

STRENGTHS = (0.03, 0.1, 0.3, 1.0)
LEAST = 100
"""Number of answers needed to fit more than the rate, a tenth of them of either outcome."""

DENSE_SCALE = 0.3
"""Standard deviation to which dense columns are scaled, so that the penalty treats light features
and words alike."""


@dataclass(frozen=True, slots=True)
class Linear:
    """ln(p / (1-p)) = intercept + weights . column; ``c`` is None where only a rate was fitted."""

    intercept: float
    weights: Floats
    c: float | None

    def probability(self, columns: Any) -> Floats:
        """Compute p of each row."""
        import numpy as np
        from scipy.special import expit

        return np.asarray(expit(np.asarray(columns @ self.weights).ravel() + self.intercept))


@dataclass(frozen=True, slots=True)
class Scale:
    """Scales dense columns to mean 0 and standard deviation ``DENSE_SCALE``."""

    mean: Floats
    factor: Floats

    def apply(self, dense: Floats) -> Floats:
        """Scale columns."""
        return (dense - self.mean) * self.factor


def fit_scale(dense: Floats, used: Flags) -> Scale:
    """Compute the scale from the rows used; a constant column becomes 0."""
    import numpy as np

    inside = dense[used]
    spread = inside.std(axis=0)
    factor = np.divide(DENSE_SCALE, spread, out=np.zeros_like(spread), where=spread > 1e-9)
    return Scale(inside.mean(axis=0), factor)


def has_enough(right: Flags | Floats, weights: Floats | None = None) -> bool:
    """Check whether there are enough answers, by their weights, to fit more than a rate."""
    if weights is not None:
        total, ones = float(weights.sum()), float((weights * right).sum())
        return total >= LEAST and min(ones, total - ones) >= LEAST / 10
    share = float(right.mean()) if len(right) else 0.0
    return len(right) >= LEAST and min(share, 1 - share) * len(right) >= LEAST / 10


def choose_strength(
    columns: Any, right: Flags, groups: Any, seed: int = 0, weights: Floats | None = None
) -> float | None:
    """Choose the strength with the lowest log loss over three folds; None if data is too scarce."""
    import numpy as np
    from sklearn.metrics import log_loss

    if not has_enough(right, weights):
        return None
    if weights is not None:  # answers without a label have no fold
        known = weights > 0
        columns, right, groups, weights = (
            columns[known],
            right[known],
            groups[known],
            weights[known],
        )
    different = int(groups.max()) + 1
    fold = (np.random.default_rng(seed).permutation(different) % 3)[groups]
    losses = []
    for strength in STRENGTHS:
        p = np.empty(len(right))
        for at in range(3):
            held = fold == at
            inside = None if weights is None else weights[~held]
            linear = fit_linear(columns[~held], right[~held], strength, inside)
            p[held] = linear.probability(columns[held])
        losses.append(log_loss(right, p, labels=[False, True], sample_weight=weights))
    return STRENGTHS[int(np.argmin(losses))]


def fit_linear(
    columns: Any, right: Flags, c: float | None, weights: Floats | None = None
) -> Linear:
    """Fit a regression with strength ``c``.

    The result is the smoothed rate if ``c`` is None, or if all answers were right or all wrong.
    Answers of weight 0 have no influence.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    if weights is not None:
        known = weights > 0
        columns, right, weights = columns[known], right[known], weights[known]
    count = len(right) if weights is None else float(weights.sum())
    ones = int(right.sum()) if weights is None else float((weights * right).sum())
    if c is None or bool(right.all()) or not bool(right.any()):
        p = (ones + 1) / (count + 2)
        return Linear(float(np.log(p / (1 - p))), np.zeros(columns.shape[1]), None)
    found = LogisticRegression(C=c, max_iter=400).fit(columns, right, sample_weight=weights)
    return Linear(float(found.intercept_[0]), found.coef_[0], c)
