"""Quality of predicted probabilities: Brier score, calibration error, area under the curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.routing.accuracy.fitted_file import Quality

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats

BINS = 10


def calibration_error(
    p: Floats, right: Flags, bins: int = BINS, weights: Floats | None = None
) -> float:
    """Compute the ECE: mean of |share right - mean p| over bins of equal size, weighted by size.

    (Naeini et al., AAAI 2015, with bins of equal size instead of equal width: predictions cluster,
    and an empty bin carries no information.)
    """
    import numpy as np

    if not len(p):
        return 0.0
    heavy = np.ones(len(p)) if weights is None else weights
    order = np.argsort(p, kind="stable")
    gaps = [
        abs(float((heavy[part] * (right[part] - p[part])).sum()))
        for part in np.array_split(order, min(bins, len(p)))
    ]
    return float(sum(gaps) / heavy.sum())


def compute_auc(p: Floats, right: Flags, weights: Floats | None = None) -> float | None:
    """Compute the area under the ROC curve; None if all answers were right, or all wrong."""
    from sklearn.metrics import roc_auc_score

    if not len(right) or bool(right.all()) or not bool(right.any()):
        return None
    return float(roc_auc_score(right, p, sample_weight=weights))


def compute_quality(p: Floats, right: Flags, weights: Floats | None = None) -> Quality:
    """Compute the quality of cross-fitted predictions.

    Labels of weight 0 are left out. A label of which only a probability is known is in two rows,
    which all scores count by their weights.
    """
    if weights is not None:
        import numpy as np

        known = weights > 0
        p, right, weights = p[known], right[known], weights[known]
        if not len(p):
            return Quality(brier=0.25, brier_rate=0.25, ece=0.0, auc=None)
        rate = float(np.average(right, weights=weights))
        return Quality(
            brier=float(np.average((p - right) ** 2, weights=weights)),
            brier_rate=rate * (1 - rate),
            ece=calibration_error(p, right, weights=weights),
            auc=compute_auc(p, right, weights),
        )
    rate = float(right.mean())
    return Quality(
        brier=float(((p - right) ** 2).mean()),
        brier_rate=rate * (1 - rate),
        ece=calibration_error(p, right),
        auc=compute_auc(p, right),
    )
