"""Fits the heads of every arm: what ``etui.routing.accuracy.predictor`` predicts with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from etui.errors import UsageError
from etui.routing.accuracy.blas_threads import one_thread
from etui.routing.accuracy.confidence import fit_curve
from etui.routing.accuracy.design import DIGITS, FOLDS, Design, design_of, exported, sparse_of
from etui.routing.accuracy.features import FEATURE_NAMES
from etui.routing.accuracy.fitted_file import (
    ArmHead,
    Bands,
    ConfidenceCurve,
    FittedModel,
    Logistic,
    Provenance,
    Quality,
    Rate,
)
from etui.routing.accuracy.logistic import choose_strength, fit_linear
from etui.routing.accuracy.metrics import quality_of
from etui.routing.accuracy.needs import fit_needs
from etui.routing.accuracy.rates import smoothed_rate
from etui.routing.accuracy.table import ArmFacts, Graded, folds_of, same_questions
from etui.routing.accuracy.words import SHARPNESS, Corpus, corpus_of

if TYPE_CHECKING:
    from etui.stats.arrays import Floats, Whole

LEAST_QUESTIONS = 20


def fit_heads(
    graded: Graded,
    provenance: Provenance,
    *,
    seed: int = 0,
    assess: bool = True,
) -> FittedModel:
    """The model of a table of graded answers.

    Args:
        graded: The answers.
        provenance: Where they are from.
        seed: Of the folds.
        assess: Whether to measure the quality by five folds; a fit inside a fold does without.

    Raises:
        UsageError: There are too few questions.
    """
    if len(graded) < LEAST_QUESTIONS:
        raise UsageError(
            f"{len(graded)} graded questions are too few to fit anything",
            f"give at least {LEAST_QUESTIONS}; a few hundred make a prediction worth having",
        )
    with one_thread():
        return _fit_heads(graded, provenance, seed, assess)


def _fit_heads(graded: Graded, provenance: Provenance, seed: int, assess: bool) -> FittedModel:
    import numpy as np

    everything = np.ones(len(graded), dtype=bool)
    groups = same_questions(graded)
    corpus = corpus_of(graded.questions, len(graded))
    design = design_of(graded, corpus, everything, seed)
    strengths = [
        choose_strength(arm_columns(design, at), graded.correct[:, at], groups, seed)
        for at in range(len(graded.arms))
    ]
    folds = folds_of(graded, FOLDS, seed)
    crossed = _crossed(graded, corpus, folds, strengths, seed) if assess else None
    arms = {
        name: _arm_head(graded, at, design, strengths[at], folds, crossed)
        for at, name in enumerate(graded.arms)
    }
    return FittedModel(
        version=1,
        features=FEATURE_NAMES,
        idf=_short(design.idf),
        bands=Bands(
            centroids={
                name: sparse_of(design.centroids[at]) for at, name in enumerate(design.bands)
            },
            sharpness=SHARPNESS,
        ),
        arms=arms,
        needs=fit_needs(graded, design, groups, folds if assess else None, seed),
        provenance=provenance,
    )


def arm_columns(design: Design, arm: int) -> Any:
    """The columns of one arm's head: the logit of its band's rate, the features, the words."""
    from scipy import sparse

    return sparse.hstack([sparse.csr_matrix(design.band_logits[:, [arm]]), design.columns]).tocsr()


def _crossed(
    graded: Graded, corpus: Corpus, folds: Whole, strengths: Sequence[float | None], seed: int
) -> Floats:
    """Predictions of each arm for questions that had no part in their fit."""
    import numpy as np

    p = np.empty(graded.correct.shape)
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        design = design_of(graded, corpus, ~held, seed)
        for at, strength in enumerate(strengths):
            if strength is None:
                p[held, at] = 1 / (1 + np.exp(-design.band_logits[held, at]))
                continue
            columns = arm_columns(design, at)
            linear = fit_linear(columns[~held], graded.correct[~held, at], strength)
            p[held, at] = linear.probability(columns[held])
    return p


def _arm_head(
    graded: Graded,
    at: int,
    design: Design,
    strength: float | None,
    folds: Whole,
    crossed: Floats | None,
) -> ArmHead:
    right = graded.correct[:, at]
    facts = graded.facts.get(graded.arms[at], ArmFacts())
    rate = float(smoothed_rate(right))
    if strength is None:
        logistic = Logistic(intercept=0.0, features=(0.0,) * len(FEATURE_NAMES), band=1.0)
    else:
        linear = fit_linear(arm_columns(design, at), right, strength)
        logistic = exported(linear, design.scale, band=True)
    quality = (
        quality_of(crossed[:, at], right)
        if crossed is not None
        else Quality(brier=rate * (1 - rate), brier_rate=rate * (1 - rate), ece=0.0, auc=None)
    )
    return ArmHead(
        model=facts.model,
        reasoning=facts.reasoning,
        n=len(graded),
        rate=rate,
        rates={
            name: Rate(p=float(design.rates[band, at]), n=int(design.counts[band]))
            for band, name in enumerate(design.bands)
        },
        logistic=logistic,
        quality=quality,
        curves=curves_of(graded, at, folds),
    )


def curves_of(graded: Graded, at: int, folds: Whole) -> tuple[ConfidenceCurve, ...]:
    """The curves of one arm, that of the margin first."""
    sources: tuple[tuple[Literal["margin", "confidence"], Floats | None], ...] = (
        ("margin", graded.margin),
        ("confidence", graded.confidence),
    )
    found = [
        fit_curve(of, values[:, at], graded.correct[:, at], folds)
        for of, values in sources
        if values is not None
    ]
    return tuple(curve for curve in found if curve is not None)


def _short(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) for value in values)
