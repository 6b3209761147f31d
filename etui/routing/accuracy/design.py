"""Build the feature columns of a fit, and convert a regression to the form of the fitted file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from etui.routing.accuracy.features import FEATURE_NAMES
from etui.routing.accuracy.fields import load_classifier, predict_fields
from etui.routing.accuracy.fitted_file import Logistic, Sparse
from etui.routing.accuracy.logistic import Linear, Scale, fit_scale
from etui.routing.accuracy.rates import (
    compute_shrunken_rates,
    compute_smoothed_rate,
    compute_soft_rates,
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
        rates, counts: Shrunken rates (bands, arms) and number of answers of each band.
    """

    idf: Floats  # Inverse document frequency of each bucket
    words: Any  # Tf-idf of all questions, sparse (questions, buckets)
    scale: Scale
    columns: Any  # Scaled features and tf-idf of all questions, sparse
    bands: list[str]  # Names of the bands; empty if there are none
    source: Literal["words", "fields"]
    """Where the bands of a question come from: ``words`` compares them with centroids, ``fields``
    asks the classifier that ships with etui."""
    shares: Floats
    """Probability of each band, (questions, bands); by centroids, those of a question used for
    fitting are computed from the other folds."""
    centroids: Floats  # Centroid of each band, (bands, buckets); empty for fields
    rates: Floats
    counts: Whole
    band_logits: Floats
    """Expected logit of the band's rate, (questions, arms). For a question used for fitting it is
    computed from the other folds, so its own answer is not in it."""


def build_design(graded: Graded, corpus: Corpus, used: Flags, seed: int = 0) -> Design:
    """Build the columns of all questions from the used ones alone."""
    import numpy as np
    from scipy import sparse

    idf = compute_idf(corpus.counts, used)
    words = compute_tf_idf(corpus.counts, idf)
    scale = fit_scale(corpus.features, used)
    columns = sparse.hstack([sparse.csr_matrix(scale.apply(corpus.features)), words]).tocsr()
    names, number = number_bands(graded.subjects)
    nothing = np.zeros((0, 0))
    if corpus.empty:
        rates, counts = compute_shrunken_rates(
            graded.correct, number, len(names), used, weights=graded.weights
        )
        heavy = None if graded.weights is None else graded.weights[used]
        overall = logits(compute_smoothed_rate(graded.correct[used], heavy)[None, :])
        band = np.repeat(overall, len(graded), axis=0)
        shares = np.zeros((len(graded), 0))
        return Design(idf, words, scale, columns, [], "words", shares, nothing, rates, counts, band)
    if _has_fields(names):
        fields = list(load_classifier().names)
        shares = predict_fields(graded.questions)
        rates, band = _compute_field_rates(graded, shares, used, seed)
        counts = np.round(shares[used].sum(axis=0)).astype(np.int64)
        return Design(
            idf, words, scale, columns, fields, "fields", shares, nothing, rates, counts, band
        )

    def expected(part: Flags) -> tuple[Floats, Floats, Whole, Floats, Floats]:
        rates, counts = compute_shrunken_rates(
            graded.correct, number, len(names), part, weights=graded.weights
        )
        _, centroids = compute_centroids(words, graded.subjects, part)
        present = [at for at, name in enumerate(names) if counts[at]]
        shares = np.zeros((len(graded), len(names)))
        shares[:, present] = compute_band_shares(words, centroids)
        return shares @ logits(rates), rates, counts, centroids, shares

    band, rates, counts, centroids, shares = expected(used)
    for held, others in _list_inner_folds(graded, used, seed):
        inner_band, *_, inner_shares = expected(others)
        band[held], shares[held] = inner_band[held], inner_shares[held]
    present = [name for at, name in enumerate(names) if counts[at]]
    kept = counts > 0
    return Design(
        idf,
        words,
        scale,
        columns,
        present,
        "words",
        shares[:, kept],
        centroids,
        rates[kept],
        counts[kept],
        band,
    )


def _has_fields(names: Sequence[str]) -> bool:
    """Check whether the classifier of fields knows the subjects, or there are none to compare."""
    known = set(load_classifier().names)
    return len(names) < 2 or sum(name in known for name in names) > len(names) / 2


def _compute_field_rates(
    graded: Graded, shares: Floats, used: Flags, seed: int
) -> tuple[Floats, Floats]:
    """Compute the rates of the fields, and the expected logit of each question."""

    def rates_of(part: Flags) -> Floats:
        heavy = None if graded.weights is None else graded.weights[part]
        return compute_soft_rates(graded.correct[part], shares[part], heavy)[0]

    rates = rates_of(used)
    band = shares @ logits(rates)
    for held, others in _list_inner_folds(graded, used, seed):
        band[held] = shares[held] @ logits(rates_of(others))
    return rates, band


def _list_inner_folds(graded: Graded, used: Flags, seed: int) -> Iterator[tuple[Flags, Flags]]:
    """Yield the questions of each inner fold that are used, and the other used ones."""
    inner = assign_folds(graded, FOLDS, seed + 1)
    for fold in range(int(inner.max()) + 1):
        held, others = used & (inner == fold), used & (inner != fold)
        if held.any() and others.any():
            yield held, others


def export_logistic(linear: Linear, scale: Scale, *, band: bool) -> Logistic:
    """Convert a regression over scaled features to one over raw features, as the file holds it.

    Args:
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
