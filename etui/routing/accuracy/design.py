"""The questions of a fit as columns, and a regression over them as the file holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.routing.accuracy.features import FEATURE_NAMES
from etui.routing.accuracy.fitted_file import Logistic, Sparse
from etui.routing.accuracy.logistic import Linear, Scale, scale_of
from etui.routing.accuracy.rates import logits, numbered, shrunken_rates, smoothed_rate
from etui.routing.accuracy.table import folds_of
from etui.routing.accuracy.words import Corpus, band_shares, centroids_of, idf_of, tf_idf_matrix

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
from etui.stats.arrays import Flags, Floats, Whole

FOLDS = 5
DIGITS = 5
"""Decimal places of what the file holds."""


@dataclass(frozen=True, slots=True)
class Design:
    """The questions as columns, by what one part of them says.

    Attributes:
        idf: Of the buckets.
        words: tf-idf of all questions, sparse (questions, buckets).
        scale: Of the features.
        columns: Scaled features beside tf-idf, sparse, all questions.
        bands: Names of the bands; fewer than two are none.
        centroids: Of the bands, (bands, buckets).
        rates, counts: Shrunken rates (bands, arms) and answers of each band.
        band_logits: Expected logit of the band's rate, (questions, arms). Of a question that was
            used, from the others: its own answer has no part in it.
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


def design_of(graded: Graded, corpus: Corpus, used: Flags, seed: int = 0) -> Design:
    """The design of all questions, made from those used alone."""
    import numpy as np
    from scipy import sparse

    idf = idf_of(corpus.counts, used)
    words = tf_idf_matrix(corpus.counts, idf)
    scale = scale_of(corpus.features, used)
    columns = sparse.hstack([sparse.csr_matrix(scale.of(corpus.features)), words]).tocsr()
    names, number = numbered(graded.subjects)
    several = len(names) > 1 and not corpus.empty

    def expected(part: Flags) -> tuple[Floats, Floats, Whole, Floats]:
        rates, counts = shrunken_rates(graded.correct, number, len(names), part)
        _, centroids = centroids_of(words, graded.subjects, part)
        present = [at for at, name in enumerate(names) if counts[at]]
        shares = band_shares(words, centroids)
        return shares @ logits(rates[present]), rates, counts, centroids

    if not several:
        rates, counts = shrunken_rates(graded.correct, number, len(names), used)
        overall = logits(smoothed_rate(graded.correct[used])[None, :])
        band = np.repeat(overall, len(graded), axis=0)
        return Design(idf, words, scale, columns, [], np.zeros((0, 0)), rates, counts, band)
    band, rates, counts, centroids = expected(used)
    inner = folds_of(graded, FOLDS, seed + 1)
    for fold in range(int(inner.max()) + 1):
        held = used & (inner == fold)
        rest = used & (inner != fold)
        if held.any() and rest.any():
            band[held] = expected(rest)[0][held]
    present = [name for at, name in enumerate(names) if counts[at]]
    kept = counts > 0
    return Design(idf, words, scale, columns, present, centroids, rates[kept], counts[kept], band)


def exported(linear: Linear, scale: Scale, *, band: bool) -> Logistic:
    """The regression over raw features, as the file holds it."""
    import numpy as np

    weights = linear.weights
    own = float(weights[0]) if band else 0.0
    rest = weights[1:] if band else weights
    count = len(FEATURE_NAMES)
    raw = rest[:count] * scale.factor
    return Logistic(
        intercept=float(linear.intercept - np.dot(raw, scale.mean)),
        features=tuple(float(value) for value in raw),
        band=own,
        words=sparse_of(rest[count:]),
        c=linear.c,
    )


def sparse_of(values: Floats) -> Sparse:
    """The values that are not zero once they are rounded."""
    import numpy as np

    rounded = np.round(values, DIGITS)
    at = np.flatnonzero(rounded)
    return Sparse(at=tuple(int(i) for i in at), value=tuple(float(v) for v in rounded[at]))
