"""Fit what ``etui.learning.predictor`` predicts with: heads of arms, and curves of confidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from etui.errors import UsageError
from etui.learning._joint import STRETCH, JointFit, QuestionColumns, fit_joint
from etui.learning.features import FEATURE_NAMES, LEAF, VALUE_STEPS, WORD_ZERO, load_classifier
from etui.learning.fitted_file import (
    FITTED_VERSION,
    AgreementHead,
    ArmHead,
    Bands,
    ConfidenceCurve,
    FittedModel,
    JointPart,
    NeedHead,
    Provenance,
    Quality,
    Rate,
    Share,
    pack,
)
from etui.learning.graded import ArmFacts, Graded, assign_folds, same_questions
from etui.learning.predictor import compute_both
from etui.learning.regressions import (
    DIGITS,
    FOLDS,
    SHARPNESS,
    Corpus,
    Design,
    build_corpus,
    build_design,
    build_sparse,
    compute_smoothed_rate,
)
from etui.stats.arrays import Flags, Floats, Whole
from etui.stats.tests import wilson_low
from etui.units import count_text

LEAST_QUESTIONS = 20


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the enclosed fits to one thread, which on small matrices is 10x as fast as several."""
    import importlib

    from threadpoolctl import threadpool_limits

    for name in ("scipy.linalg", "scipy.optimize", "sklearn.ensemble", "sklearn.linear_model"):
        importlib.import_module(name)

    with threadpool_limits(1):
        yield


@one_thread()
def fit_accuracy(
    graded: Graded,
    provenance: Provenance,
    *,
    seed: int = 0,
    agreements: Sequence[tuple[str, ...]] | None = None,
) -> FittedModel:
    """Fit the model of a table of graded answers; UsageError for fewer than ``LEAST_QUESTIONS``.

    ``agreements`` are sets of arms whose agreement is fitted; None fits each two arms.
    """
    if graded.question_count < LEAST_QUESTIONS:
        raise UsageError(
            f"{count_text(graded.question_count, 'graded question')}: too few to fit anything",
            f"provide at least {LEAST_QUESTIONS}; a useful prediction needs a few hundred",
        )
    corpus = build_corpus(graded.questions, len(graded))
    design = build_design(graded, corpus, seed)
    folds = assign_folds(graded, FOLDS, seed)
    joint = _fit_jointly(graded, corpus, design, seed)
    # Either way each question is predicted by folds without it.
    crossed = 1 / (1 + np.exp(-design.band_logits)) if joint is None else joint.left_out
    arms = {
        name: _fit_arm_head(graded, at, design, folds, crossed[:, at])
        for at, name in enumerate(graded.arms)
    }
    together = [
        fit_agreement(graded, names, folds) for names in choose_agreements(graded, agreements)
    ]
    return FittedModel(
        version=FITTED_VERSION,
        features=FEATURE_NAMES,
        idf=_row(design.idf, DIGITS),
        bands=Bands(
            centroids={
                name: build_sparse(design.centroids[at])
                for at, name in enumerate(design.bands)
                if design.source == "words"
            },
            source=design.source,
            fields_sha256=load_classifier().sha256 if design.source == "fields" else "",
            sharpness=SHARPNESS,
        ),
        arms=arms,
        joint=None if joint is None else export_joint(joint, graded.arms, design.bands),
        needs=tuple(_fit_need(graded, pair, crossed) for pair in find_pairs(graded)),
        provenance=provenance,
        agreements=tuple(head for head in together if head is not None),
    )


def _fit_jointly(graded: Graded, corpus: Corpus, design: Design, seed: int) -> JointFit | None:
    columns = QuestionColumns(corpus.features, design.words, (design.shares,))
    inner = assign_folds(graded, FOLDS, seed + 1)
    correct, weights = _join_labels(graded)
    return fit_joint(correct, columns, inner, weights=weights, seed=seed)


def _join_labels(graded: Graded) -> tuple[Floats, Floats | None]:
    """Return one label of each question and arm, and how much it counts.

    A probable label is in two rows of its question, right and wrong. The joint model weighs whole
    rows, so each row gets the probability in their place.
    """
    correct = graded.correct.astype(np.float64)
    if graded.weights is None:
        return correct, None
    groups = same_questions(graded)
    shape = (int(groups.max()) + 1, correct.shape[1])
    right, total = np.zeros(shape), np.zeros(shape)
    np.add.at(right, groups, correct * graded.weights)
    np.add.at(total, groups, graded.weights)
    p = np.divide(right, total, out=np.zeros(shape), where=total > 0)
    return p[groups], np.minimum(total, 1.0)[groups]


def _fit_arm_head(
    graded: Graded,
    at: int,
    design: Design,
    folds: Whole,
    crossed: Floats,
) -> ArmHead:
    right = graded.correct[:, at]
    facts = graded.facts.get(graded.arms[at], ArmFacts())
    heavy = graded.label_weights[:, at]
    rate = float(compute_smoothed_rate(right, heavy))
    counts = _count_by_band(graded, design, heavy)
    return ArmHead(
        model=facts.model,
        reasoning=facts.reasoning,
        n=max(1, round(float(heavy.sum()))),
        rate=rate,
        rates={
            name: Rate(p=float(design.rates[band, at]), n=int(counts[band]))
            for band, name in enumerate(design.bands)
        },
        quality=compute_quality(crossed, right, heavy),
        curves=_fit_curves(graded, at, folds),
    )


def _count_by_band(graded: Graded, design: Design, heavy: Floats) -> Floats:
    if design.source == "fields":
        return np.asarray(np.round(design.shares.T @ heavy))
    total = dict.fromkeys(design.bands, 0.0)
    for subject, weight in zip(graded.subjects, heavy.tolist(), strict=True):
        if subject in total:
            total[subject] += weight
    return np.asarray([total[band] for band in design.bands])


def _fit_curves(graded: Graded, at: int, folds: Whole) -> tuple[ConfidenceCurve, ...]:
    # A curve has no weights: it takes the labels that are known for certain.
    sure = graded.label_weights[:, at] >= 1
    found = [
        fit_curve(of, values[sure, at], graded.correct[sure, at], folds[sure])
        for of, values in graded.list_certainties()
    ]
    return tuple(curve for curve in found if curve is not None)


Pair = tuple[Literal["reasoning", "larger_model"], int, int]


def find_pairs(graded: Graded) -> list[Pair]:
    """Find pairs of arms that differ in one respect, the cheaper arm first.

    ``reasoning``: a direct arm and one that thinks or votes, of the same model. ``larger_model``:
    the same reasoning method on two models, the smaller file first; if sizes are unknown, the arm
    that is right less often first.
    """
    found: list[Pair] = []
    facts = [graded.facts.get(name, ArmFacts()) for name in graded.arms]
    right = compute_smoothed_rate(graded.correct, graded.label_weights)
    for one, other in combinations(range(len(graded.arms)), 2):
        a, b = facts[one], facts[other]
        models = (a.model or a.asked, b.model or b.asked)
        same_model = models[0] is not None and models[0] == models[1]
        ways = {a.reasoning, b.reasoning}
        if same_model and None not in ways and "direct" in ways and len(ways) == 2:
            direct = one if a.reasoning == "direct" else other
            found.append(("reasoning", direct, other if direct == one else one))
        elif not same_model and a.reasoning == b.reasoning:
            sizes = (a.file_bytes, b.file_bytes)
            if sizes[0] is not None and sizes[1] is not None:
                swap = sizes[0] > sizes[1]
            else:
                swap = bool(right[one] > right[other])
            found.append(("larger_model", *((other, one) if swap else (one, other))))
    return found


def _fit_need(graded: Graded, pair: Pair, crossed: Floats) -> NeedHead:
    """Fit how far both arms of a pair are right together, beyond what is predicted of each."""
    need, *columns = pair
    right, p = graded.correct[:, columns], crossed[:, columns]
    # A question counts for both arms as its less certain label does.
    heavy = graded.label_weights[:, columns].min(axis=1)
    most = (heavy * np.sqrt((p * (1 - p)).prod(axis=1))).sum()
    rest = (heavy * (right - p).prod(axis=1)).sum()
    together = float(np.clip(rest / most, -1, 1)) if most > 0 else 0.0
    gained = [other - compute_both(base, other, together) for base, other in p.tolist()]
    base, other = columns
    return NeedHead(
        need=need,
        base=graded.arms[base],
        other=graded.arms[other],
        together=round(together, DIGITS),
        n=max(1, round(float(heavy.sum()))),
        auc=compute_auc(np.asarray(gained), right[:, 1] & ~right[:, 0], heavy),
    )


_DIGITS = 7


def export_joint(fit: JointFit, arms: Sequence[str], bands: Sequence[str]) -> JointPart:
    """Convert a fit, with one way to divide questions into bands, to a part of the file."""
    (rates,) = fit.rates
    count = len(FEATURE_NAMES)
    scale = fit.ridge.scale
    raw = fit.ridge.weights[:count] * scale.factor[:, None]
    component_step, components = _count_steps(fit.directions)
    word_step, linear = _count_steps(fit.ridge.weights[count + len(bands) :])
    words = np.column_stack([components, linear]) + WORD_ZERO
    roots, column, threshold, child, values = _flatten(
        [tree.tree_ for forest in fit.forests for tree in forest.estimators_]
    )
    return JointPart(
        arms=tuple(arms),
        bands=tuple(bands),
        rates=_rows(rates),
        overall=_row(fit.overall),
        start=_row(fit.ridge.start - scale.mean @ raw),
        features=_rows(raw),
        band_weights=_rows(fit.ridge.weights[count : count + len(bands)]),
        words=pack("H", words.astype("<u2").tobytes()),
        component_step=component_step,
        word_step=word_step,
        roots=tuple(roots),
        column=pack("B", np.asarray(column, dtype="<u1").tobytes()),
        threshold=pack("f", np.asarray(threshold, dtype="<f4").tobytes()),
        child=pack("I", np.asarray(child, dtype="<u4").tobytes()),
        values=pack("h", np.asarray(values, dtype="<i2").tobytes()),
        stretch=STRETCH,
        slope=_row(fit.calibration.slope),
        spread=round(fit.calibration.spread, _DIGITS),
        band_mean=round(fit.calibration.band_mean, _DIGITS),
        band_spread=round(fit.calibration.band_spread, _DIGITS),
        offset=_row(fit.calibration.offset),
    )


def _flatten(trees: Sequence[Any]) -> tuple[list[int], Floats, Floats, Floats, Floats]:
    """Put the nodes of all trees in one row: the left child is the next node, as in sklearn."""
    roots, columns, thresholds, children, values = [], [], [], [], []
    start = rows = 0
    total = sum(tree.node_count for tree in trees)
    for tree in trees:
        is_leaf = tree.children_left < 0
        at = np.arange(tree.node_count)
        assert (tree.children_left[~is_leaf] == at[~is_leaf] + 1).all()
        roots.append(start)
        columns.append(np.where(is_leaf, LEAF, tree.feature))
        # The largest single below the threshold: it separates the same singles.
        near = tree.threshold.astype(np.float32)
        lower = np.nextafter(near, np.float32(-np.inf))
        thresholds.append(np.where(near > tree.threshold, lower, near))
        number = np.cumsum(is_leaf) - 1
        children.append(np.where(is_leaf, total + rows + number, start + tree.children_right))
        leaves = tree.value[is_leaf, :, 0]
        values.append(np.round(leaves * VALUE_STEPS))
        start += tree.node_count
        rows += len(leaves)
    return (
        roots,
        np.concatenate(columns),
        np.concatenate(thresholds),
        np.concatenate(children),
        np.concatenate(values),
    )


def _count_steps(weights: Floats) -> tuple[float, Floats]:
    step = float(np.abs(weights).max(initial=0.0)) / 32_000 or 1.0
    return step, np.round(weights / step)


def _row(values: Floats, digits: int = _DIGITS) -> tuple[float, ...]:
    return tuple(round(float(value), digits) for value in values)


def _rows(values: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in values)


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
    """Find the questions on which arms agree; one arm agrees if all of its votes are the same."""
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
    """Compute a share with its interval at 95 %; without any question it is 0 to 1: unknown."""
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
    """Compute the quality of cross-fitted predictions, of which labels of weight 0 are left out."""
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
_CURVE_DIGITS = 6


def fit_curve(
    of: Literal["margin", "confidence"], raw: Floats, right: Flags, folds: Whole
) -> ConfidenceCurve | None:
    """Fit the curve of one arm; None if too few answers have the value (NaN if it has none).

    It is an isotonic regression, or Platt's sigmoid below ``PLATT_BELOW`` answers.
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
        x=_row(found.X_thresholds_, _CURVE_DIGITS),
        p=_row(found.y_thresholds_, _CURVE_DIGITS),
        n=len(raw),
        ece=ece,
    )
