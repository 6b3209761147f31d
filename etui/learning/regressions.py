"""Build the matrices of a fit: words, features and rates of bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from etui.learning.features import FEATURE_NAMES, compute_features, load_classifier, predict_fields
from etui.learning.fitted_file import Sparse
from etui.learning.graded import Graded, assign_folds
from etui.routing.text_measures import BUCKETS, QuestionText, count_terms
from etui.stats.arrays import Flags, Floats, Whole

FOLDS = 5

DIGITS = 5
"""Decimal places of the numbers in the fitted file."""


@dataclass(frozen=True, slots=True)
class Design:
    """Columns of the questions of a fit."""

    idf: Floats  # Inverse document frequency of each bucket
    words: Any  # Tf-idf of all questions, sparse (questions, buckets)
    bands: list[str]  # Names of the bands; empty if there are none
    source: Literal["words", "fields"]
    """Where the bands of a question come from: ``words`` compares them with centroids, ``fields``
    asks the classifier that ships with etui."""
    shares: Floats
    """Probability of each band, (questions, bands); by centroids, computed from the other folds."""
    centroids: Floats  # Centroid of each band, (bands, buckets); empty for fields
    rates: Floats  # Shrunken rates, (bands, arms)
    band_logits: Floats
    """Expected logit of the band's rate, (questions, arms), computed from the other folds, so the
    question's own answer is not in it."""


def build_design(graded: Graded, corpus: Corpus, seed: int = 0) -> Design:
    """Build the columns of all questions."""
    everything = np.ones(len(graded), dtype=bool)
    idf = compute_idf(corpus.counts, everything)
    words = compute_tf_idf(corpus.counts, idf)
    names, number = number_bands(graded.subjects)
    member = np.asarray(number[:, None] == np.arange(len(names)), dtype=np.float64)
    centroids = np.zeros((0, 0))

    def rates_of(part: Flags) -> Floats:
        return compute_soft_rates(graded.correct[part], member[part], graded.label_weights[part])[0]

    if corpus.empty:
        overall = logits(compute_smoothed_rate(graded.correct, graded.label_weights)[None, :])
        band, shares = np.repeat(overall, len(graded), axis=0), np.zeros((len(graded), 0))
        return Design(idf, words, [], "words", shares, centroids, rates_of(everything), band)
    by_fields = _has_fields(names)
    if by_fields:
        names, member = list(load_classifier().names), predict_fields(graded.questions)
    else:
        centroids = _compute_centroids(words, number, everything)[1]

    def expect(part: Flags) -> tuple[Floats, Floats]:
        shares = member.copy()
        if not by_fields:
            present, near = _compute_centroids(words, number, part)
            shares[:] = 0.0
            shares[:, present] = _compute_band_shares(words, near)
        return shares, shares @ logits(rates_of(part))

    shares, band = expect(everything)
    inner = assign_folds(graded, FOLDS, seed + 1)
    for fold in range(int(inner.max()) + 1):
        held = inner == fold
        if not held.all():
            inside, logit = expect(~held)
            shares[held], band[held] = inside[held], logit[held]
    source: Literal["words", "fields"] = "fields" if by_fields else "words"
    return Design(idf, words, names, source, shares, centroids, rates_of(everything), band)


def _has_fields(names: Sequence[str]) -> bool:
    """Check whether the classifier of fields knows the subjects, or there are none to compare."""
    known = set(load_classifier().names)
    return len(names) < 2 or sum(name in known for name in names) > len(names) / 2


def build_sparse(values: Floats) -> Sparse:
    """Round values and keep those that are not zero."""
    rounded = np.round(values, DIGITS)
    at = np.flatnonzero(rounded)
    return Sparse(at=tuple(int(i) for i in at), value=tuple(float(v) for v in rounded[at]))


DENSE_SCALE = 0.3
"""Standard deviation to which dense columns are scaled, so that the penalty treats light features
and words alike."""


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


PRIOR_WEIGHT = 10.0
"""Weight of the overall share, in answers, in the share of a band (m)."""


def number_bands(subjects: Sequence[str]) -> tuple[list[str], Whole]:
    """Return the sorted names of the bands, and the index of each question's band."""
    names = sorted(set(subjects))
    index = {name: at for at, name in enumerate(names)}
    return names, np.fromiter((index[s] for s in subjects), np.int64, len(subjects))


def compute_soft_rates(
    correct: Flags | Floats, shares: Floats, heavy: Floats
) -> tuple[Floats, Floats]:
    """Compute the shrunken rates of bands, of which each question has a share, and of all."""
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
    """Compute the bands used, and their centroids of length 1 with ``CENTROID_WORDS`` buckets."""
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
    cosine = np.asarray(words @ centroids.T) * SHARPNESS
    cosine -= cosine.max(axis=1, keepdims=True)
    raised = np.exp(cosine)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
