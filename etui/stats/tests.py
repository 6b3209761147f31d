"""Statistical tests: Wilson's interval, McNemar's test, Holm's adjustment.

All intervals are at 95 %. They cover the choice of questions, not the wording of a prompt or
decoding with other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
"""p-value, adjusted for its family, below which a difference is claimed."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval at 95 %.

    Attributes:
        low, high: Ends of the interval; None if an end is unknown (one question; joules per
            correct answer if another sample might have none).
    """

    value: float
    low: float | None
    high: float | None
    method: str | None  # `wilson`, `bootstrap` or `student`; None without an interval


def wilson(successes: int, trials: int) -> Interval:
    """Compute a share of successes and its score interval (Wilson, JASA 22, 1927).

    Args:
        successes: Number of successes, at most ``trials``.
        trials: Number of trials, at least one.

    Returns:
        The share, in [0, 1], and both ends.

    Raises:
        ValueError: No trials, or more successes than trials.
    """
    from scipy.stats import binomtest

    if trials < 1:
        raise ValueError("a share needs at least one trial")
    found = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high), "wilson")


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test (Psychometrika 12, 1947).

    Args:
        only_first: Questions that only the first got right.
        only_second: Questions that only the second got right.

    Returns:
        The probability, if both were equally good, of a split at least as uneven among these
        questions; 1 if there are none.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons, in their order (Holm, Scand. J. Stat. 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted
