"""Shares of right answers by band, drawn towards the share of all where there are few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole

PRIOR_WEIGHT = 10.0
"""Answers that the share of all counts as in the share of a band (m)."""


def numbered(subjects: Sequence[str]) -> tuple[list[str], Whole]:
    """Names of the bands, sorted, and the number of each question's band."""
    import numpy as np

    names = sorted(set(subjects))
    index = {name: at for at, name in enumerate(names)}
    return names, np.fromiter((index[s] for s in subjects), np.int64, len(subjects))


def shrunken_rates(
    correct: Flags | Floats, band: Whole, bands: int, used: Flags, m: float = PRIOR_WEIGHT
) -> tuple[Floats, Whole]:
    """(s + m*p0) / (n + m) for each band and arm, and n.

    Args:
        correct: Shape (questions, arms).
        band: Number of each question's band.
        bands: How many there are.
        used: Questions that count.
        m: Answers that p0, the share over all of them, counts as.

    Returns:
        Rates (bands, arms) and counts (bands,).
    """
    import numpy as np

    inside = np.asarray(correct, dtype=np.float64)[used]
    at = band[used]
    n = np.bincount(at, minlength=bands)
    right = np.zeros((bands, inside.shape[1]))
    np.add.at(right, at, inside)
    p0 = smoothed_rate(inside)
    return (right + m * p0) / (n[:, None] + m), n.astype(np.int64)


def logits(p: Floats) -> Floats:
    """ln(p / (1-p)), within 1e-4 of the ends."""
    import numpy as np

    inside = np.clip(p, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(inside / (1 - inside)))


def smoothed_rate(correct: Flags | Floats) -> Any:
    """Return (s + 1) / (n + 2), by arm."""
    return (correct.sum(axis=0) + 1) / (correct.shape[0] + 2)
