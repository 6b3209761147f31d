"""Find earlier questions similar to this one, and what their answers were worth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from etui.routing.signals.question_words import BUCKETS, split_question, term_counts, tf_idf

_LOOKED_AT = 4000
"""Characters of a text; what stands behind them seldom changes what it is about."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier question.

    Attributes:
        text: The question.
        arm: Name of the arm that answered.
        correct: Whether it was right; None where nobody graded it.
    """

    text: str
    arm: str
    correct: bool | None = None


class Likeness:
    """An index of texts; building one of 2,000 questions takes about 0.2 s."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        counted = [_counts(text) for text in texts]
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
        """Indexes of the k texts most like it, best first; only those that share a word.

        Of equals the earlier one goes first.
        """
        import numpy as np

        scores = np.zeros(self._size, dtype=np.float32)
        for bucket, value in tf_idf(_counts(text), self._idf).items():
            if bucket in self._rows:
                scores[self._rows[bucket]] += value * self._values[bucket]
        best = np.argsort(-scores, kind="stable")[:k]
        return [int(index) for index in best if scores[index] > 0]


class EarlierQuestions:
    """Earlier questions by likeness (see ``neighbours.Neighbours``); indexed when first asked for.

    Args:
        log: Turns that were answered, newest first.
        runs: Graded answers of bench runs.
    """

    def __init__(self, log: Sequence[Earlier] = (), runs: Sequence[Earlier] = ()) -> None:
        self._known = {"log": log, "runs": runs}
        self._tables: dict[tuple[str, str | None], tuple[tuple[Earlier, ...], Likeness]] = {}

    def tally(self, asked: Asked, text: str) -> NeighbourTally | None:
        """The nearest ones counted; None where there is none."""
        only = asked.by if asked.of == "runs" else None
        key = (asked.of, only)
        if key not in self._tables:
            rows = tuple(row for row in self._known[asked.of] if only in (None, row.arm))
            self._tables[key] = (rows, Likeness([row.text for row in rows]))
        rows, likeness = self._tables[key]
        if not rows:
            return None
        counted = [_counts_as(asked, row) for row in rows]
        nearest = likeness.nearest(text, asked.k)
        hits = sum(counted[index] for index in nearest)
        return NeighbourTally(hits, len(nearest), sum(counted) / len(rows), len(rows))


def _counts_as(asked: Asked, row: Earlier) -> bool:
    if asked.of == "log":
        return row.arm == asked.by
    return row.correct is (asked.was == "correct")


def _counts(text: str) -> dict[int, int]:
    return term_counts(split_question(text[:_LOOKED_AT]))


PRIOR_WEIGHT = 10.0
"""Questions that the share of the whole table counts as, in the share of the nearest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which earlier questions are looked at, and which of them are counted.

    Attributes:
        of: ``log`` (turns that were answered) or ``runs`` (graded answers of bench runs).
        by: Name of an arm. Of the log its answers are counted; of runs only its answers are looked
            at, None looks at those of every arm.
        was: Of runs, the answers counted; None for the log.
        k: Most similar questions looked at.
    """

    of: Literal["log", "runs"]
    by: str | None
    was: Literal["correct", "wrong"] | None
    k: int = 50


@dataclass(frozen=True, slots=True)
class NeighbourTally:
    """How many of the nearest earlier questions count.

    Attributes:
        hits: Those that count among the nearest.
        n: The nearest: at most k, and only those that share a word with the question.
        base: Share that counts in the whole table.
        size: Questions in the whole table.
    """

    hits: int
    n: int
    base: float
    size: int


class Neighbours(Protocol):
    """Earlier questions by likeness."""

    def tally(self, asked: Asked, text: str) -> NeighbourTally | None:
        """The nearest ones counted; None where there is nothing to look at."""


def smoothed_share(tally: NeighbourTally) -> float:
    """(hits + m*base) / (n + m) with m = ``PRIOR_WEIGHT``: few neighbours say little."""
    return (tally.hits + PRIOR_WEIGHT * tally.base) / (tally.n + PRIOR_WEIGHT)
