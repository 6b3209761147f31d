"""Build the feature columns of a fit, and convert a regression to the form of the fitted file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.routing.accuracy.features import FEATURE_NAMES
from etui.routing.accuracy.fitted_file import Logistic, Sparse
from etui.routing.accuracy.logistic import Linear, Scale, fit_scale
from etui.routing.accuracy.rates import (
    compute_shrunken_rates,
    compute_smoothed_rate,
    logits,
    number_bands,
)
from etui.routing.accuracy.table import assign_folds
from etui.routing.accuracy.words import (
    Corpus,
    compute_band_shares,
    compute_centroids,
    compute_idf,
    compute_tf_idf,
)

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
from etui.stats.arrays import Flags, Floats, Whole

FOLDS = 5
DIGITS = 5
"""Decimal places of the numbers in the fitted file."""


@dataclass(frozen=True, slots=True)
class Design:
    """Columns of all questions, computed from the questions used for fitting.

    Attributes:
        idf: Inverse document frequency of each bucket.
        words: tf-idf of all questions, sparse (questions, buckets).
        scale: Scale of the features.
        columns: Scaled features and tf-idf of all questions, sparse.
        bands: Names of the bands; empty if there are fewer than two.
        centroids: Centroid of each band, (bands, buckets).
        rates, counts: Shrunken rates (bands, arms) and number of answers of each band.
        band_logits: Expected logit of the band's rate, (questions, arms). For a question used for
            fitting it is computed from the other folds, so its own answer is not in it.
    """

    idf: Floats
    words: Any
    scale: Scale
    columns: Any
    bands: list[str]
    centroids: Floats
    rates: Floats
    counts: Whole
    band_logits: Floats


def build_design(graded: Graded, corpus: Corpus, used: Flags, seed: int = 0) -> Design:
    """Build the columns of all questions from the used ones alone."""
    import numpy as np
    from scipy import sparse

    idf = compute_idf(corpus.counts, used)
    words = compute_tf_idf(corpus.counts, idf)
    scale = fit_scale(corpus.features, used)
    columns = sparse.hstack([sparse.csr_matrix(scale.apply(corpus.features)), words]).tocsr()
    names, number = number_bands(graded.subjects)
    several = len(names) > 1 and not corpus.empty

    def expected(part: Flags) -> tuple[Floats, Floats, Whole, Floats]:
        rates, counts = compute_shrunken_rates(
            graded.correct, number, len(names), part, weights=graded.weights
        )
        _, centroids = compute_centroids(words, graded.subjects, part)
        present = [at for at, name in enumerate(names) if counts[at]]
        shares = compute_band_shares(words, centroids)
        return shares @ logits(rates[present]), rates, counts, centroids

    if not several:
        rates, counts = compute_shrunken_rates(
            graded.correct, number, len(names), used, weights=graded.weights
        )
        heavy = None if graded.weights is None else graded.weights[used]
        overall = logits(compute_smoothed_rate(graded.correct[used], heavy)[None, :])
        band = np.repeat(overall, len(graded), axis=0)
        return Design(idf, words, scale, columns, [], np.zeros((0, 0)), rates, counts, band)
    band, rates, counts, centroids = expected(used)
    inner = assign_folds(graded, FOLDS, seed + 1)
    for fold in range(int(inner.max()) + 1):
        held = used & (inner == fold)
        others = used & (inner != fold)
        if held.any() and others.any():
            band[held] = expected(others)[0][held]
    present = [name for at, name in enumerate(names) if counts[at]]
    kept = counts > 0
    return Design(idf, words, scale, columns, present, centroids, rates[kept], counts[kept], band)


def export_logistic(linear: Linear, scale: Scale, *, band: bool) -> Logistic:
    """Convert a regression over scaled features to one over raw features, as the file holds it.

    Args:
        linear: The regression.
        scale: The scale of its features.
        band: Whether its first column is the logit of the band's rate.
    """
    import numpy as np

    weights = linear.weights
    band_weight = float(weights[0]) if band else 0.0
    others = weights[1:] if band else weights
    count = len(FEATURE_NAMES)
    raw = others[:count] * scale.factor
    return Logistic(
        intercept=float(linear.intercept - np.dot(raw, scale.mean)),
        features=tuple(float(value) for value in raw),
        band=band_weight,
        words=build_sparse(others[count:]),
        c=linear.c,
    )


def build_sparse(values: Floats) -> Sparse:
    """Round values and keep those that are not zero."""
    import numpy as np

    rounded = np.round(values, DIGITS)
    at = np.flatnonzero(rounded)
    return Sparse(at=tuple(int(i) for i in at), value=tuple(float(v) for v in rounded[at]))
