"""Fit curves from the raw confidence of an answer to the probability that it is right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from etui.learning.fitted_file import AgreementHead, ConfidenceCurve, Quality, Share
from etui.learning.graded import ArmFacts, Graded
from etui.stats.arrays import Flags, Floats, Whole
from etui.stats.tests import wilson_low

MOST_PAIRED_ARMS = 6
"""Number of arms above which a fit without a policy leaves out the agreement of each two."""

_ONE_SIDED = 0.975
"""Confidence of each end of an interval at 95 %."""

_WHOLE = 1.0 - 1e-9
"""Share of the votes from which all of them agree."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """Which questions several arms agree on."""

    agree: Flags  # They gave the same answer, shape (questions,)
    differ: Flags
    """They gave different answers, or one gave none. Neither is set where it is unknown."""

    @property
    def known(self) -> bool:
        """Whether agreement is known for every question."""
        return bool((self.agree | self.differ).all())


def find_agreed(graded: Graded, arms: Sequence[str]) -> Agreed:
    """Find the questions on which arms of a table agree.

    A single arm agrees with itself where all of its votes are for one answer.
    """
    columns = [graded.arms.index(arm) for arm in arms]
    agree: Flags
    if len(columns) == 1:
        if graded.confidence is None:
            unknown = np.zeros(len(graded), dtype=bool)
            return Agreed(unknown, unknown)
        agree = np.asarray(graded.confidence[:, columns[0]] >= _WHOLE, dtype=bool)
        return Agreed(agree, np.logical_not(agree))
    if graded.answers is not None:
        given = graded.answers[:, columns]
        agree = np.asarray((given[:, :1] == given).all(axis=1) & (given[:, 0] >= 0), dtype=bool)
        return Agreed(agree, np.logical_not(agree))
    right = graded.correct[:, columns]
    agree = np.asarray(right.all(axis=1), dtype=bool)
    return Agreed(agree, np.asarray(right.any(axis=1), dtype=bool) & np.logical_not(agree))


def choose_agreements(
    graded: Graded, stated: Sequence[tuple[str, ...]] | None
) -> Iterator[tuple[str, ...]]:
    """Yield the sets of arms to fit: those of a policy that the table has, or each two arms."""
    if stated is None:
        if len(graded.arms) <= MOST_PAIRED_ARMS:
            yield from combinations(graded.arms, 2)
        return
    yield from (arms for arms in stated if set(arms) <= set(graded.arms))


def fit_agreement(graded: Graded, arms: tuple[str, ...], folds: Whole) -> AgreementHead | None:
    """Fit one set of arms; None if it is not known for any question whether they agree."""
    columns = [graded.arms.index(arm) for arm in arms]
    if graded.weights is not None:  # labels that are known for certain, as for a curve
        certain: Flags = np.asarray((graded.weights[:, columns] >= 1).all(axis=1), dtype=bool)
        graded, folds = graded.take(certain), folds[certain]
    found = find_agreed(graded, arms)
    if not found.agree.any() and not found.differ.any():
        return None
    right = graded.correct[:, columns]
    unknown = ~(found.agree | found.differ)
    facts = [graded.facts.get(arm, ArmFacts()) for arm in arms]
    return AgreementHead(
        arms=arms,
        models=tuple(each.model for each in facts),
        n=len(graded),
        known=found.known,
        agreed=_compute_share(right[:, 0] & found.agree, found.agree | unknown),
        apart=tuple(
            _compute_share(right[:, at] & found.differ, found.differ | unknown)
            for at in range(len(arms))
        ),
        curve=_fit_curve(graded, arms, found.agree, folds) if found.known else None,
    )


def _compute_share(right: Flags, of: Flags) -> Share:
    """Compute a share with its interval at 95 %; without any question it is unknown: 0 to 1."""
    n = int(of.sum())
    if n == 0:
        return Share(p=0.5, low=0.0, high=1.0, n=0)
    count = int(right.sum())
    low = wilson_low(count / n, n, _ONE_SIDED)
    high = 1 - wilson_low(1 - count / n, n, _ONE_SIDED)
    # Towards one half by one answer each way, so that few answers are never certain.
    return Share(p=(count + 1) / (n + 2), low=low, high=high, n=n)


def _fit_curve(
    graded: Graded, arms: tuple[str, ...], agree: Flags, folds: Whole
) -> ConfidenceCurve | None:
    """Fit the curve of the agreed answers over the mean margin of the arms, else confidence."""
    if len(arms) == 1:
        return None  # votes that all agree have one margin
    columns = [graded.arms.index(arm) for arm in arms]
    for of, values in graded.list_certainties():
        raw: Any = values[:, columns].mean(axis=1)[agree]
        curve = fit_curve(of, raw, graded.correct[agree][:, columns[0]], folds[agree])
        if curve is not None:
            return curve
    return None


BINS = 10
"""Bins of the calibration error."""


def calibration_error(p: Floats, right: Flags, weights: Floats | None = None) -> float:
    """Compute the ECE: mean of |share right - mean p| over bins of equal size, weighted by size.

    (Naeini et al., AAAI 2015, with bins of equal size instead of equal width: predictions cluster,
    and an empty bin carries no information.)
    """
    if not len(p):
        return 0.0
    heavy = np.ones(len(p)) if weights is None else weights
    order = np.argsort(p, kind="stable")
    gaps = [
        abs(float((heavy[part] * (right[part] - p[part])).sum()))
        for part in np.array_split(order, min(BINS, len(p)))
    ]
    return float(sum(gaps) / heavy.sum())


def compute_auc(p: Floats, right: Flags, weights: Floats | None = None) -> float | None:
    """Compute the area under the ROC curve; None if all answers were right, or all wrong."""
    from sklearn.metrics import roc_auc_score

    if weights is not None:
        p, right, weights = p[weights > 0], right[weights > 0], weights[weights > 0]
    if not len(right) or bool(right.all()) or not bool(right.any()):
        return None
    return float(roc_auc_score(right, p, sample_weight=weights))


def compute_quality(p: Floats, right: Flags, weights: Floats | None = None) -> Quality:
    """Compute the quality of cross-fitted predictions.

    Labels of weight 0 are left out. A label of which only a probability is known is in two rows,
    which all scores count by their weights.
    """
    weights = np.ones(len(p)) if weights is None else weights
    known = weights > 0
    p, right, weights = p[known], right[known], weights[known]
    if not len(p):
        return Quality(brier=0.25, brier_rate=0.25, ece=0.0, auc=None)
    rate = float(np.average(right, weights=weights))
    return Quality(
        brier=float(np.average((p - right) ** 2, weights=weights)),
        brier_rate=rate * (1 - rate),
        ece=calibration_error(p, right, weights),
        auc=compute_auc(p, right, weights),
    )


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
        raw: The value of each answer, NaN if it has none.
        folds: Fold of each answer, for the cross-validated calibration error.
    """
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
    from scipy.special import expit

    if curve.kind == "platt":
        return np.asarray(expit(curve.a * raw + curve.b))
    # np.interp takes the first of equal knots from below and the last from above, as bisect does.
    return np.where(np.isfinite(raw), np.interp(raw, curve.x, curve.p), np.nan)


def _fit(
    of: Literal["margin", "confidence"], raw: Floats, right: Flags, ece: float
) -> ConfidenceCurve:
    """Fit Platt's sigmoid to few answers, else an isotonic regression.

    The slope of the sigmoid is not negative, so that higher confidence never lowers the
    probability. For the regression an artificial right answer at the lower end and a wrong one at
    the upper end keep p away from 0 and 1.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if len(raw) < PLATT_BELOW:
        fitted = LogisticRegression(C=1.0, max_iter=400).fit(raw[:, None], right)
        slope, start = float(fitted.coef_[0][0]), float(fitted.intercept_[0])
        if slope < 0:
            share = (float(right.sum()) + 1) / (len(right) + 2)
            slope, start = 0.0, math.log(share / (1 - share))
        return ConfidenceCurve(of=of, kind="platt", a=slope, b=start, n=len(raw), ece=ece)
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
