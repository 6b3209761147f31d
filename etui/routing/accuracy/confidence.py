"""Fit curves from the raw confidence of an answer to the probability that it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from etui.routing.accuracy.fitted_file import ConfidenceCurve
from etui.routing.accuracy.metrics import calibration_error

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole

PLATT_BELOW = 200
"""Number of answers below which a two-parameter sigmoid replaces isotonic regression."""

LEAST = 20
_DIGITS = 6


def fit_curve(
    of: Literal["margin", "confidence"], raw: Floats, right: Flags, folds: Whole
) -> ConfidenceCurve | None:
    """Fit the curve of one arm; None if too few answers have the value.

    The curve is an isotonic regression, or Platt's sigmoid below ``PLATT_BELOW`` answers.

    Args:
        of: The kind of the raw value.
        raw: The value of each answer, NaN if it has none.
        folds: Fold of each answer, for the cross-validated calibration error.
    """
    import numpy as np

    known = np.isfinite(raw)
    raw, right, folds = raw[known], right[known], folds[known]
    if len(raw) < LEAST or right.all() or not right.any():
        return None
    p = np.empty(len(raw))
    for fold in np.unique(folds):
        held = folds == fold
        inside = right[~held]
        if not len(inside) or inside.all() or not inside.any():
            p[held] = (inside.sum() + 1) / (len(inside) + 2)
            continue
        p[held] = evaluate_curve_array(_fit(of, raw[~held], inside, 0.0), raw[held])
    return _fit(of, raw, right, calibration_error(p, right))


def evaluate_curve_array(curve: ConfidenceCurve, raw: Floats) -> Floats:
    """Evaluate a curve at many values, like ``predictor.evaluate_curve``; NaN gives NaN."""
    import numpy as np
    from scipy.special import expit

    if curve.kind == "platt":
        return np.asarray(expit(curve.a * raw + curve.b))
    # np.interp takes the first of equal knots from below and the last from above, as bisect does.
    return np.where(np.isfinite(raw), np.interp(raw, curve.x, curve.p), np.nan)


def _fit(
    of: Literal["margin", "confidence"], raw: Floats, right: Flags, ece: float
) -> ConfidenceCurve:
    return (
        _fit_platt(of, raw, right, ece)
        if len(raw) < PLATT_BELOW
        else _fit_isotonic(of, raw, right, ece)
    )


def _fit_isotonic(
    of: Literal["margin", "confidence"], raw: Floats, right: Flags, ece: float
) -> ConfidenceCurve:
    """Fit an isotonic regression.

    An artificial right answer at the lower end and a wrong one at the upper end keep p away from
    0 and 1.
    """
    import numpy as np
    from sklearn.isotonic import IsotonicRegression

    x = np.concatenate([raw, [raw.min(), raw.max()]])
    y = np.concatenate([right.astype(np.float64), [1.0, 0.0]])
    found = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(x, y)
    return ConfidenceCurve(
        of=of,
        kind="isotonic",
        x=tuple(round(float(v), _DIGITS) for v in found.X_thresholds_),
        p=tuple(round(float(v), _DIGITS) for v in found.y_thresholds_),
        n=len(raw),
        ece=ece,
    )


def _fit_platt(
    of: Literal["margin", "confidence"], raw: Floats, right: Flags, ece: float
) -> ConfidenceCurve:
    """Fit Platt's sigmoid, with a slope that is not negative.

    Higher confidence therefore never lowers the probability.
    """
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=1.0, max_iter=400).fit(raw[:, None], right)
    slope, start = float(found.coef_[0][0]), float(found.intercept_[0])
    if slope < 0:
        share = (float(right.sum()) + 1) / (len(right) + 2)
        import math

        slope, start = 0.0, math.log(share / (1 - share))
    return ConfidenceCurve(of=of, kind="platt", a=slope, b=start, n=len(raw), ece=ece)
