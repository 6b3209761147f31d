"""Build the matrices of a fit: words, features and rates of bands; fit a regression to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from etui.learning.features import FEATURE_NAMES, compute_features, load_classifier, predict_fields
from etui.learning.fitted_file import Logistic, Sparse
from etui.learning.graded import Graded, assign_folds
from etui.routing.question_text import BUCKETS, QuestionText, count_terms
from etui.stats.arrays import Flags, Floats, Whole

FOLDS = 5

DIGITS = 5
"""Decimal places of the numbers in the fitted file."""


@dataclass(frozen=True, slots=True)
class Design:
    """Columns of all questions, computed from the questions used for fitting."""

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
    rates: Floats  # Shrunken rates, (bands, arms)
    band_logits: Floats
    """Expected logit of the band's rate, (questions, arms). For a question used for fitting it is
    computed from the other folds, so its own answer is not in it."""


def build_design(graded: Graded, corpus: Corpus, used: Flags, seed: int = 0) -> Design:
    """Build the columns of all questions from the used ones alone."""
    from scipy import sparse

    idf = compute_idf(corpus.counts, used)
    words = compute_tf_idf(corpus.counts, idf)
    scale = fit_scale(corpus.features, used)
    columns = sparse.hstack([sparse.csr_matrix(scale.apply(corpus.features)), words]).tocsr()
    names, number = number_bands(graded.subjects)
    nothing = np.zeros((0, 0))
    if corpus.empty:
        rates = _compute_shrunken_rates(graded, number, len(names), used)
        overall = compute_smoothed_rate(graded.correct[used], graded.label_weights[used])
        overall = logits(overall[None, :])
        band = np.repeat(overall, len(graded), axis=0)
        shares = np.zeros((len(graded), 0))
        return Design(idf, words, scale, columns, [], "words", shares, nothing, rates, band)
    if _has_fields(names):
        fields = list(load_classifier().names)
        shares = predict_fields(graded.questions)
        rates, band = _compute_field_rates(graded, shares, used, seed)
        return Design(idf, words, scale, columns, fields, "fields", shares, nothing, rates, band)

    def expected(part: Flags) -> tuple[Floats, Floats, Floats]:
        rates = _compute_shrunken_rates(graded, number, len(names), part)
        present, centroids = _compute_centroids(words, number, part)
        shares = np.zeros((len(graded), len(names)))
        shares[:, present] = _compute_band_shares(words, centroids)
        return shares @ logits(rates), shares, rates

    band, shares, rates = expected(used)
    for held, others in _list_inner_folds(graded, used, seed):
        inner_band, inner_shares, _ = expected(others)
        band[held], shares[held] = inner_band[held], inner_shares[held]
    present, centroids = _compute_centroids(words, number, used)
    kept = [names[at] for at in present]
    shares, rates = shares[:, present], rates[present]
    return Design(idf, words, scale, columns, kept, "words", shares, centroids, rates, band)


def _has_fields(names: Sequence[str]) -> bool:
    """Check whether the classifier of fields knows the subjects, or there are none to compare."""
    known = set(load_classifier().names)
    return len(names) < 2 or sum(name in known for name in names) > len(names) / 2


def _compute_field_rates(
    graded: Graded, shares: Floats, used: Flags, seed: int
) -> tuple[Floats, Floats]:
    """Compute the rates of the fields, and the expected logit of each question."""

    def rates_of(part: Flags) -> Floats:
        return compute_soft_rates(graded.correct[part], shares[part], graded.label_weights[part])[0]

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
    rounded = np.round(values, DIGITS)
    at = np.flatnonzero(rounded)
    return Sparse(at=tuple(int(i) for i in at), value=tuple(float(v) for v in rounded[at]))


STRENGTHS = (0.03, 0.1, 0.3, 1.0)

LEAST = 100
"""Number of answers needed to fit more than the rate, a tenth of them of either outcome."""

DENSE_SCALE = 0.3
"""Standard deviation to which dense columns are scaled, so that the penalty treats light features
and words alike."""


@dataclass(frozen=True, slots=True)
class Linear:
    """ln(p / (1-p)) = intercept + weights . column; ``c`` is None where only a rate was fitted."""

    intercept: float
    weights: Floats
    c: float | None

    def probability(self, columns: Any) -> Floats:
        """Compute p of each row."""
        from scipy.special import expit

        return np.asarray(expit(np.asarray(columns @ self.weights).ravel() + self.intercept))


@dataclass(frozen=True, slots=True)
class Scale:
    """Scales dense columns to mean 0 and standard deviation ``DENSE_SCALE``."""

    mean: Floats
    factor: Floats

    def apply(self, dense: Floats) -> Floats:
        """Scale columns."""
        return (dense - self.mean) * self.factor


def fit_scale(dense: Floats, used: Flags) -> Scale:
    """Compute the scale from the rows used; a constant column becomes 0."""
    inside = dense[used]
    spread = inside.std(axis=0)
    factor = np.divide(DENSE_SCALE, spread, out=np.zeros_like(spread), where=spread > 1e-9)
    return Scale(inside.mean(axis=0), factor)


def has_enough(right: Flags | Floats, weights: Floats | None = None) -> bool:
    """Check whether there are enough answers, by their weights, to fit more than a rate."""
    total = float(len(right) if weights is None else weights.sum())
    ones = float(right.sum() if weights is None else (weights * right).sum())
    return total >= LEAST and min(ones, total - ones) >= LEAST / 10


def cross_predict(
    columns: Any, right: Flags, strength: float | None, folds: Whole, weights: Floats
) -> Floats:
    """Predict each answer by a regression that was fitted on the other folds."""
    p = np.empty(len(right))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        linear = fit_linear(columns[~held], right[~held], strength, weights[~held])
        p[held] = linear.probability(columns[held])
    return p


def choose_strength(
    columns: Any, right: Flags, groups: Any, seed: int, weights: Floats
) -> float | None:
    """Choose the strength with the lowest log loss over three folds; None if data is too scarce."""
    from sklearn.metrics import log_loss

    if not has_enough(right, weights):
        return None
    known = weights > 0  # answers without a label have no fold
    columns, right = columns[known], right[known]
    groups, weights = groups[known], weights[known]
    different = int(groups.max()) + 1
    fold = (np.random.default_rng(seed).permutation(different) % 3)[groups]
    losses = []
    for strength in STRENGTHS:
        p = cross_predict(columns, right, strength, fold, weights)
        losses.append(log_loss(right, p, labels=[False, True], sample_weight=weights))
    return STRENGTHS[int(np.argmin(losses))]


def fit_linear(
    columns: Any, right: Flags, c: float | None, weights: Floats | None = None
) -> Linear:
    """Fit a regression with strength ``c``.

    The result is the smoothed rate if ``c`` is None, or if all answers were right or all wrong.
    Answers of weight 0 have no influence.
    """
    from sklearn.linear_model import LogisticRegression

    if weights is None:
        weights = np.ones(len(right))
    known = weights > 0
    columns, right, weights = columns[known], right[known], weights[known]
    count, ones = float(weights.sum()), float((weights * right).sum())
    if c is None or bool(right.all()) or not bool(right.any()):
        p = (ones + 1) / (count + 2)
        return Linear(float(np.log(p / (1 - p))), np.zeros(columns.shape[1]), None)
    found = LogisticRegression(C=c, max_iter=400).fit(columns, right, sample_weight=weights)
    return Linear(float(found.intercept_[0]), found.coef_[0], c)


PRIOR_WEIGHT = 10.0
"""Weight of the overall share, in answers, in the share of a band (m)."""


def number_bands(subjects: Sequence[str]) -> tuple[list[str], Whole]:
    """Return the sorted names of the bands, and the index of each question's band."""
    names = sorted(set(subjects))
    index = {name: at for at, name in enumerate(names)}
    return names, np.fromiter((index[s] for s in subjects), np.int64, len(subjects))


def _compute_shrunken_rates(graded: Graded, band: Whole, bands: int, used: Flags) -> Floats:
    """Compute (s + m*p0) / (n + m) for each band and arm."""
    inside, heavy, at = graded.correct[used], graded.label_weights[used], band[used]
    right, total = np.zeros((2, bands, inside.shape[1]))
    np.add.at(right, at, inside * heavy)
    np.add.at(total, at, heavy)
    overall = compute_smoothed_rate(inside, heavy)
    return np.asarray((right + PRIOR_WEIGHT * overall) / (total + PRIOR_WEIGHT))


def compute_soft_rates(
    correct: Flags | Floats, shares: Floats, heavy: Floats
) -> tuple[Floats, Floats]:
    """Compute the shrunken rates of bands of which each question has a share.

    Args:
        shares: Probability of each band, shape (questions, bands).
    """
    m, overall = PRIOR_WEIGHT, np.asarray(compute_smoothed_rate(correct, heavy))
    return (shares.T @ (heavy * correct) + m * overall) / (shares.T @ heavy + m), overall


def expect_rates(shares: Floats, rates: Floats, overall: Floats) -> Floats:
    """Compute the expected rate of each question, (questions, arms); overall without bands."""
    if not shares.shape[1]:
        return np.repeat(overall[None, :], len(shares), axis=0)
    return np.asarray(shares @ rates)


def logits(p: Floats, least: float = 1e-4) -> Floats:
    """Compute ln(p / (1-p)), with p kept some way from 0 and 1."""
    inside = np.clip(p, least, 1 - least)
    return np.asarray(np.log(inside / (1 - inside)))


def compute_smoothed_rate(correct: Flags | Floats, weights: Floats) -> Any:
    """Compute (s + 1) / (n + 2) for each arm, of which s and n are sums of weights."""
    return ((correct * weights).sum(axis=0) + 1) / (weights.sum(axis=0) + 2)


CENTROID_WORDS = 80
SHARPNESS = 20.0
"""Sharpness of the softmax over bands: at 20 the band with the largest cosine gets most of the
mass, and a question between two bands belongs to both."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Matrices of a set of questions."""

    features: Floats  # Light features, (questions, features)
    counts: Any  # Counts of words, sparse (questions, buckets)

    @property
    def empty(self) -> bool:
        """Whether the questions have no text at all."""
        return not self.counts.nnz


def build_corpus(questions: Sequence[QuestionText], rows: int) -> Corpus:
    """Build the matrices of the questions; all zero for ``rows`` questions without text."""
    from scipy import sparse

    if not questions:
        nothing = sparse.csr_matrix((rows, BUCKETS))
        return Corpus(np.zeros((rows, len(FEATURE_NAMES))), nothing)
    found = [count_terms(question) for question in questions]
    lengths = [len(counts) for counts in found]
    counts = sparse.csr_matrix(
        (
            np.fromiter((n for counts in found for n in counts.values()), np.float64),
            np.fromiter((at for counts in found for at in counts), np.int64),
            np.concatenate([[0], np.cumsum(lengths)]),
        ),
        shape=(len(found), BUCKETS),
    )
    return Corpus(np.asarray([compute_features(question) for question in questions]), counts)


def compute_idf(counts: Any, used: Flags) -> Floats:
    """Compute ln((1 + n) / (1 + n with the bucket)) + 1 over the questions used."""
    inside = counts[used]
    with_bucket = np.asarray((inside > 0).sum(axis=0)).ravel()
    return np.asarray(np.log((1 + inside.shape[0]) / (1 + with_bucket)) + 1.0)


def compute_tf_idf(counts: Any, idf: Floats) -> Any:
    """Compute ``question_words.tf_idf`` of every row, sparse."""
    from scipy import sparse

    matrix = counts.copy()
    matrix.data = 1 + np.log(matrix.data)
    matrix = matrix @ sparse.diags(idf)
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(
        sparse.diags(np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)) @ matrix
    )


def _compute_centroids(words: Any, band: Whole, used: Flags) -> tuple[Whole, Floats]:
    """Compute the numbers of the bands used and their centroids (bands, buckets), of length 1.

    A centroid keeps its ``CENTROID_WORDS`` heaviest buckets.
    """
    from scipy import sparse

    present, at = np.unique(band[used], return_inverse=True)
    member = sparse.csr_matrix(
        (np.ones(len(at)), (at, range(len(at)))), shape=(len(present), len(at))
    )
    dense = np.asarray((member @ words[np.flatnonzero(used)]).todense())
    if dense.shape[1] > CENTROID_WORDS and len(present):
        cut = np.partition(dense, -CENTROID_WORDS, axis=1)[:, -CENTROID_WORDS][:, None]
        dense = np.where(dense >= cut, dense, 0.0)
    length = np.sqrt((dense**2).sum(axis=1, keepdims=True))
    return present, np.divide(dense, length, out=np.zeros_like(dense), where=length > 0)


def _compute_band_shares(words: Any, centroids: Floats) -> Floats:
    """Compute the probability of each band for each question, shape (questions, bands)."""
    cosine = np.asarray(words @ centroids.T) * SHARPNESS
    cosine -= cosine.max(axis=1, keepdims=True)
    raised = np.exp(cosine)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
