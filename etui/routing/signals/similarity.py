"""Find earlier questions similar to this one, and count their answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from etui.routing.signals.question_words import BUCKETS, count_terms, split_question, tf_idf

_LOOKED_AT = 4000
"""Characters of a text that are compared; later ones seldom change its topic."""


@dataclass(frozen=True, slots=True)
class EarlierQuestion:
    """An earlier question.

    Attributes:
        text: The question.
        arm: Name of the arm that answered.
        correct: Whether it was right; None if it was not graded.
    """

    text: str
    arm: str
    correct: bool | None = None


class SimilarityIndex:
    """An index of texts by tf-idf; building one of 2,000 questions takes about 0.2 s."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        counted = [_count_text_terms(text) for text in texts]
        spread = Counter(bucket for counts in counted for bucket in counts)
        self._size = len(texts)
        self._idf = [
            math.log((1 + self._size) / (1 + spread[bucket])) + 1 for bucket in range(BUCKETS)
        ]
        rows: dict[int, list[int]] = {}
        values: dict[int, list[float]] = {}
        for row, counts in enumerate(counted):
            for bucket, value in tf_idf(counts, self._idf).items():
                rows.setdefault(bucket, []).append(row)
                values.setdefault(bucket, []).append(value)
        self._rows: dict[int, Any] = {bucket: np.array(found) for bucket, found in rows.items()}
        self._values: dict[int, Any] = {
            bucket: np.array(found, dtype=np.float32) for bucket, found in values.items()
        }

    def nearest(self, text: str, k: int) -> list[int]:
        """Return the indexes of the k most similar texts, best first, ties in order of the texts.

        Texts that share no word with ``text`` are left out.
        """
        import numpy as np

        scores = np.zeros(self._size, dtype=np.float32)
        for bucket, value in tf_idf(_count_text_terms(text), self._idf).items():
            if bucket in self._rows:
                scores[self._rows[bucket]] += value * self._values[bucket]
        best = np.argsort(-scores, kind="stable")[:k]
        return [int(index) for index in best if scores[index] > 0]


class EarlierQuestions:
    """Earlier questions by similarity (implements ``Neighbours``); indexed on first use.

    Args:
        log: Turns that were answered, newest first.
        runs: Graded answers of bench runs.
    """

    def __init__(
        self, log: Sequence[EarlierQuestion] = (), runs: Sequence[EarlierQuestion] = ()
    ) -> None:
        self._known = {"log": log, "runs": runs}
        self._tables: dict[
            tuple[str, str | None], tuple[tuple[EarlierQuestion, ...], SimilarityIndex]
        ] = {}

    def tally(self, asked: NeighbourQuery, text: str) -> NeighbourTally | None:
        """Count among the nearest earlier questions; None if there are no earlier questions.

        Args:
            asked: Which earlier questions to search, and which to count.
            text: The question.
        """
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


def _count_text_terms(text: str) -> dict[int, int]:
    return count_terms(split_question(text[:_LOOKED_AT]))


PRIOR_WEIGHT = 10.0
"""Weight of the share in the whole table, in questions, in the share of the nearest."""


@dataclass(frozen=True, slots=True)
class NeighbourQuery:
    """Which earlier questions are searched, and which of them are counted.

    Attributes:
        of: ``log`` (answered turns) or ``runs`` (graded answers of bench runs).
        by: Name of an arm. With ``log`` its answers are counted; with ``runs`` only its answers
            are searched, and None searches those of every arm.
        was: With ``runs``, the answers that are counted; None for the log.
        k: Number of most similar questions to look at.
    """

    of: Literal["log", "runs"]
    by: str | None
    was: Literal["correct", "wrong"] | None
    k: int = 50


@dataclass(frozen=True, slots=True)
class NeighbourTally:
    """How many of the nearest earlier questions are counted.

    Attributes:
        hits: Number of counted questions among the nearest.
        n: Number of nearest questions: at most k, each shares a word with the question.
        base: Share of counted questions in the whole table.
        size: Number of questions in the whole table.
    """

    hits: int
    n: int
    base: float
    size: int


class Neighbours(Protocol):
    """Earlier questions by similarity."""

    def tally(self, asked: NeighbourQuery, text: str) -> NeighbourTally | None:
        """Count among the nearest earlier questions; None if there are no earlier questions."""


def smoothed_share(tally: NeighbourTally) -> float:
    """Compute (hits + m*base) / (n + m) with m = ``PRIOR_WEIGHT``: few neighbours weigh little."""
    return (tally.hits + PRIOR_WEIGHT * tally.base) / (tally.n + PRIOR_WEIGHT)
