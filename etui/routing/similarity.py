"""Find earlier questions similar to this one, and count their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from etui.routing.text_measures import BUCKETS, count_terms, split_question

if TYPE_CHECKING:
    from etui.stats.arrays import Floats, Whole

_LOOKED_AT = 4000
"""Characters of a text that are compared; later ones seldom change its topic."""


class EarlierQuestion(NamedTuple):
    """An earlier question: a named tuple, since every decision after a turn makes 2,000."""

    text: str
    arm: str
    correct: bool | None = None  # Whether it was right; None if it was not graded


class SimilarityIndex:
    """An index of texts by tf-idf."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        self._size = len(texts)
        found = [weigh_terms(text) for text in texts]
        lengths = np.fromiter((len(buckets) for buckets, _ in found), np.int64, self._size)
        rows = np.repeat(np.arange(self._size), lengths)
        buckets = np.concatenate([np.zeros(0, np.int64), *(each for each, _ in found)])
        weights = np.concatenate([np.zeros(0), *(each for _, each in found)])
        spread = np.bincount(buckets, minlength=BUCKETS)
        self._idf = np.log((1 + self._size) / (1 + spread)) + 1
        values = weights * self._idf[buckets]
        squares = np.bincount(rows, values * values, minlength=self._size)
        values /= np.sqrt(squares)[rows]
        order = np.argsort(buckets, kind="stable")
        self._ends = np.cumsum(spread)
        self._rows = rows[order]
        self._values = values[order].astype(np.float32)

    def nearest(self, text: str, k: int) -> list[int]:
        """Return the indexes of the k most similar texts that share a word, best first."""
        import numpy as np

        scores = np.zeros(self._size, dtype=np.float32)
        buckets, weights = weigh_terms(text)
        values = weights * self._idf[buckets]
        values /= max(float(np.sqrt(values @ values)), 1e-300)
        for bucket, value in zip(buckets, values, strict=True):
            end = self._ends[bucket]
            start = self._ends[bucket - 1] if bucket else 0
            scores[self._rows[start:end]] += np.float32(value) * self._values[start:end]
        best = np.argsort(-scores, kind="stable")[:k]
        return [int(index) for index in best if scores[index] > 0]


class EarlierQuestions:
    """Earlier questions by similarity, those of the log newest first; indexed on first use."""

    def __init__(
        self,
        log: Sequence[EarlierQuestion] = (),
        runs: Sequence[EarlierQuestion] = (),
    ) -> None:
        self._known = {"log": log, "runs": runs}
        self._tables: dict[
            tuple[str, str | None], tuple[tuple[EarlierQuestion, ...], SimilarityIndex]
        ] = {}

    def tally(self, asked: NeighbourQuery, text: str) -> NeighbourTally | None:
        """Count among the nearest earlier questions; None if there are no earlier questions."""
        only = asked.by if asked.of == "runs" else None
        key = (asked.of, only)
        if key not in self._tables:
            rows = tuple(row for row in self._known[asked.of] if only in (None, row.arm))
            self._tables[key] = (rows, SimilarityIndex([row.text for row in rows]))
        rows, index = self._tables[key]
        if not rows:
            return None
        counted = [_is_counted(asked, row) for row in rows]
        nearest = index.nearest(text, asked.k)
        hits = sum(counted[index] for index in nearest)
        return NeighbourTally(hits, len(nearest), sum(counted) / len(rows), len(rows))


def _is_counted(asked: NeighbourQuery, row: EarlierQuestion) -> bool:
    if asked.of == "log":
        return row.arm == asked.by
    return row.correct is (asked.was == "correct")


@lru_cache(maxsize=8192)
def weigh_terms(text: str) -> tuple[Whole, Floats]:
    """Return the buckets of the words of a text, ascending, and 1 + ln(count) of each.

    Results are kept: an index of 2,000 new questions takes 0.2 s, of known ones milliseconds.
    """
    import numpy as np

    counts = count_terms(split_question(text[:_LOOKED_AT]))
    buckets = np.array(sorted(counts), dtype=np.int64)
    number = np.array([counts[bucket] for bucket in sorted(counts)], dtype=np.float64)
    return buckets, 1 + np.log(number)


PRIOR_WEIGHT = 10.0
"""Weight of the share in the whole table, in questions, in the share of the nearest."""


@dataclass(frozen=True, slots=True)
class NeighbourQuery:
    """Which earlier questions are searched, and which of them are counted."""

    of: Literal["log", "runs"]
    """``log`` (answered turns) or ``runs`` (graded answers of bench runs)."""
    by: str | None
    """Name of an arm. With ``log`` its answers are counted; with ``runs`` only its answers are
    searched, and None searches those of every arm."""
    was: Literal["correct", "wrong"] | None
    """With ``runs``, the answers that are counted; None for the log."""
    k: int = 50  # Number of most similar questions to look at


@dataclass(frozen=True, slots=True)
class NeighbourTally:
    """How many of the nearest earlier questions are counted."""

    hits: int  # Number of counted questions among the nearest
    n: int  # Number of nearest questions: at most k, each shares a word with the question
    base: float  # Share of counted questions in the whole table
    size: int  # Number of questions in the whole table


def smoothed_share(tally: NeighbourTally) -> float:
    """Compute (hits + m*base) / (n + m) with m = ``PRIOR_WEIGHT``: few neighbours weigh little."""
    return (tally.hits + PRIOR_WEIGHT * tally.base) / (tally.n + PRIOR_WEIGHT)
