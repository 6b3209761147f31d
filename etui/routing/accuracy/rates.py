"""Shares of right answers by band, shrunk towards the overall share where answers are few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole

PRIOR_WEIGHT = 10.0
"""Weight of the overall share, in answers, in the share of a band (m)."""


def number_bands(subjects: Sequence[str]) -> tuple[list[str], Whole]:
    """Return the sorted names of the bands, and the index of each question's band."""
    import numpy as np

    names = sorted(set(subjects))
    index = {name: at for at, name in enumerate(names)}
    return names, np.fromiter((index[s] for s in subjects), np.int64, len(subjects))


def compute_shrunken_rates(
    correct: Flags | Floats,
    band: Whole,
    bands: int,
    used: Flags,
    m: float = PRIOR_WEIGHT,
    weights: Floats | None = None,
) -> tuple[Floats, Whole]:
    """Compute (s + m*p0) / (n + m) for each band and arm, and the questions of each band.

    Args:
        correct: Whether each answer was right, shape (questions, arms).
        band: Index of each question's band.
        m: Weight of p0, the share over all bands, in answers.
        weights: Weight of each answer, same shape as ``correct``; None is 1 for all.

    Returns:
        Rates (bands, arms) and counts (bands,).
    """
    import numpy as np

    inside = np.asarray(correct, dtype=np.float64)[used]
    at = band[used]
    n = np.bincount(at, minlength=bands)
    right = np.zeros((bands, inside.shape[1]))
    if weights is None:
        np.add.at(right, at, inside)
        return (right + m * compute_smoothed_rate(inside)) / (n[:, None] + m), n.astype(np.int64)
    heavy = np.asarray(weights, dtype=np.float64)[used]
    total = np.zeros_like(right)
    np.add.at(right, at, inside * heavy)
    np.add.at(total, at, heavy)
    return (right + m * compute_smoothed_rate(inside, heavy)) / (total + m), n.astype(np.int64)


def compute_soft_rates(
    correct: Flags | Floats, shares: Floats, weights: Floats | None = None, m: float = PRIOR_WEIGHT
) -> tuple[Floats, Floats]:
    """Compute the shrunken rates of bands of which each question has a share.

    Args:
        correct: Whether each answer was right, shape (questions, arms).
        shares: Probability of each band, shape (questions, bands).
        weights: Weight of each answer, same shape as ``correct``; None is 1 for all.
        m: Weight of the share over all bands, in answers.

    Returns:
        Rates (bands, arms), and the smoothed rate over all bands (arms,).
    """
    import numpy as np

    right = np.asarray(correct, dtype=np.float64)
    heavy = np.ones_like(right) if weights is None else weights
    overall = np.asarray(compute_smoothed_rate(right, heavy))
    return (shares.T @ (heavy * right) + m * overall) / (shares.T @ heavy + m), overall


def expect_rates(shares: Floats, rates: Floats, overall: Floats) -> Floats:
    """Compute the expected rate of each question, (questions, arms); overall without bands."""
    import numpy as np

    if not shares.shape[1]:
        return np.repeat(overall[None, :], len(shares), axis=0)
    return np.asarray(shares @ rates)


def logits(p: Floats) -> Floats:
    """Compute ln(p / (1-p)), with p kept at least 1e-4 away from 0 and 1."""
    import numpy as np

    inside = np.clip(p, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(inside / (1 - inside)))


def compute_smoothed_rate(correct: Flags | Floats, weights: Floats | None = None) -> Any:
    """Compute (s + 1) / (n + 2) for each arm; with weights s and n are sums of them."""
    if weights is not None:
        return ((correct * weights).sum(axis=0) + 1) / (weights.sum(axis=0) + 2)
    return (correct.sum(axis=0) + 1) / (correct.shape[0] + 2)
