"""How good predicted probabilities are: Brier score, calibration error, area under the curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.routing.accuracy.fitted_file import Quality

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats

BINS = 10


def calibration_error(p: Floats, right: Flags, bins: int = BINS) -> float:
    """ECE: mean of |share right - mean p| over bins of equal size, weighted by size.

    (Naeini et al., AAAI 2015, with bins of equal size instead of equal width: predictions crowd
    together, and an empty bin says nothing.)
    """
    import numpy as np

    if not len(p):
        return 0.0
    order = np.argsort(p, kind="stable")
    gaps = [
        len(part) * abs(float(right[part].mean()) - float(p[part].mean()))
        for part in np.array_split(order, min(bins, len(p)))
    ]
    return float(sum(gaps) / len(p))


def area_under(p: Floats, right: Flags) -> float | None:
    """Area under the ROC curve; None where all answers were alike."""
    from sklearn.metrics import roc_auc_score

    if not len(right) or bool(right.all()) or not bool(right.any()):
        return None
    return float(roc_auc_score(right, p))


def quality_of(p: Floats, right: Flags) -> Quality:
    """The quality of cross-fitted predictions."""
    rate = float(right.mean())
    return Quality(
        brier=float(((p - right) ** 2).mean()),
        brier_rate=rate * (1 - rate),
        ece=calibration_error(p, right),
        auc=area_under(p, right),
    )
