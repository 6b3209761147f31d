"""Quality of predicted probabilities: Brier score, calibration error, area under the curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.routing.accuracy.fitted_file import Quality

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats

BINS = 10


def calibration_error(p: Floats, right: Flags, bins: int = BINS) -> float:
    """Compute the ECE: mean of |share right - mean p| over bins of equal size, weighted by size.

    (Naeini et al., AAAI 2015, with bins of equal size instead of equal width: predictions cluster,
    and an empty bin carries no information.)
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


def compute_auc(p: Floats, right: Flags) -> float | None:
    """Compute the area under the ROC curve; None if all answers were right, or all wrong."""
    from sklearn.metrics import roc_auc_score

    if not len(right) or bool(right.all()) or not bool(right.any()):
        return None
    return float(roc_auc_score(right, p))


def compute_quality(p: Floats, right: Flags) -> Quality:
    """Compute the quality of cross-fitted predictions."""
    rate = float(right.mean())
    return Quality(
        brier=float(((p - right) ** 2).mean()),
        brier_rate=rate * (1 - rate),
        ece=calibration_error(p, right),
        auc=compute_auc(p, right),
    )
