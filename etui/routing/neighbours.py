"""What became of earlier questions that are like this one: a share, smoothed and honest about n.

The log is read by the front end, which hands a ``Neighbours`` to the decision; here is only what is
counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

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
class Tally:
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

    def tally(self, asked: Asked, text: str) -> Tally | None:
        """The nearest ones counted; None where there is nothing to look at."""


def smoothed_share(tally: Tally) -> float:
    """(hits + m*base) / (n + m) with m = ``PRIOR_WEIGHT``: few neighbours say little."""
    return (tally.hits + PRIOR_WEIGHT * tally.base) / (tally.n + PRIOR_WEIGHT)
