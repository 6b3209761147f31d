"""Fit the heads of every arm, with which ``etui.learning.predictor`` predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, Literal

import numpy as np

from etui.errors import UsageError
from etui.learning._joint import (
    STRETCH,
    JointFit,
    QuestionColumns,
    fit_joint,
)
from etui.learning.confidence import (
    choose_agreements,
    compute_auc,
    compute_quality,
    fit_agreement,
    fit_curve,
)
from etui.learning.features import FEATURE_NAMES, LEAF, VALUE_STEPS, WORD_ZERO, load_classifier
from etui.learning.fitted_file import (
    FITTED_VERSION,
    ArmHead,
    Bands,
    ConfidenceCurve,
    FittedModel,
    JointPart,
    NeedHead,
    Provenance,
    Rate,
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
from etui.stats.arrays import Floats, Whole
from etui.units import count_text

LEAST_QUESTIONS = 20


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the enclosed fits to one thread, which on small matrices is 10x as fast as several.

    Each library brings its own thread pool, and only pools of loaded libraries can be limited.
    """
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
    """Fit the model of a table of graded answers.

    Args:
        agreements: Sets of arms whose agreement is fitted; None fits each two arms.

    Raises:
        UsageError: There are fewer than ``LEAST_QUESTIONS`` questions.
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
        idf=_round_values(design.idf),
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
    """Fit the model of all arms; None if the questions are too few for it."""
    columns = QuestionColumns(corpus.features, design.words, (design.shares,))
    inner = assign_folds(graded, FOLDS, seed + 1)
    correct, weights = _join_labels(graded)
    return fit_joint(correct, columns, inner, weights=weights, seed=seed)


def _join_labels(graded: Graded) -> tuple[Floats, Floats | None]:
    """Return the labels of each question and arm as one, and how much it counts.

    A probable label is in two rows of its question, right and wrong, with weights that differ from
    arm to arm. The joint model weighs whole rows, so each row gets the probability in their place.
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
    """Sum the weights of an arm's labels in each band of the design."""
    if design.source == "fields":
        return np.asarray(np.round(design.shares.T @ heavy))
    total = dict.fromkeys(design.bands, 0.0)
    for subject, weight in zip(graded.subjects, heavy.tolist(), strict=True):
        if subject in total:
            total[subject] += weight
    return np.asarray([total[band] for band in design.bands])


def _fit_curves(graded: Graded, at: int, folds: Whole) -> tuple[ConfidenceCurve, ...]:
    """Fit the confidence curves of one arm, that of the margin first."""
    # A curve has no weights: it takes the labels that are known for certain.
    sure = graded.label_weights[:, at] >= 1
    found = [
        fit_curve(of, values[sure, at], graded.correct[sure, at], folds[sure])
        for of, values in graded.list_certainties()
    ]
    return tuple(curve for curve in found if curve is not None)


def _round_values(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in values)


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
    """Convert a fit to a part of the file.

    Args:
        fit: The joint model, with one way to divide questions into bands.
    """
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
    """Put the nodes of all trees in one row, each tree in the order of a walk to the left.

    sklearn numbers nodes in that order, so the left child of a node is the next one.
    """
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
    """Return the size of a 16-bit step, and weights in such steps."""
    step = float(np.abs(weights).max(initial=0.0)) / 32_000 or 1.0
    return step, np.round(weights / step)


def _row(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), _DIGITS) for value in values)


def _rows(values: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in values)
