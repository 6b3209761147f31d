"""The words and light features of many questions as matrices, for fitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.routing.accuracy.features import FEATURE_NAMES, compute_features
from etui.routing.signals.question_words import BUCKETS, QuestionText, count_terms

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats

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
    import numpy as np
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
    import numpy as np

    inside = counts[used]
    with_bucket = np.asarray((inside > 0).sum(axis=0)).ravel()
    return np.asarray(np.log((1 + inside.shape[0]) / (1 + with_bucket)) + 1.0)


def compute_tf_idf(counts: Any, idf: Floats) -> Any:
    """Compute ``question_words.tf_idf`` of every row, sparse."""
    import numpy as np
    from scipy import sparse

    matrix = counts.copy()
    matrix.data = 1 + np.log(matrix.data)
    matrix = matrix @ sparse.diags(idf)
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(
        sparse.diags(np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)) @ matrix
    )


def compute_centroids(words: Any, subjects: Sequence[str], used: Flags) -> tuple[list[str], Any]:
    """Compute the names of the bands and their centroids (bands, buckets), each of length 1.

    A centroid keeps its ``CENTROID_WORDS`` heaviest buckets.
    """
    import numpy as np
    from scipy import sparse

    names = sorted({s for s, u in zip(subjects, used.tolist(), strict=True) if u})
    index = {name: at for at, name in enumerate(names)}
    rows = [at for at, held in enumerate(used.tolist()) if held]
    member = sparse.csr_matrix(
        (np.ones(len(rows)), ([index[subjects[at]] for at in rows], range(len(rows)))),
        shape=(len(names), len(rows)),
    )
    dense = np.asarray((member @ words[rows]).todense())
    if dense.shape[1] > CENTROID_WORDS and len(names):
        cut = np.partition(dense, -CENTROID_WORDS, axis=1)[:, -CENTROID_WORDS][:, None]
        dense = np.where(dense >= cut, dense, 0.0)
    length = np.sqrt((dense**2).sum(axis=1, keepdims=True))
    return names, np.divide(dense, length, out=np.zeros_like(dense), where=length > 0)


def compute_band_shares(words: Any, centroids: Floats) -> Floats:
    """Compute the probability of each band for each question, shape (questions, bands)."""
    import numpy as np

    cosine = np.asarray(words @ centroids.T) * SHARPNESS
    cosine -= cosine.max(axis=1, keepdims=True)
    raised = np.exp(cosine)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
