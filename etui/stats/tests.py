"""Tests and intervals of shares, paired differences and bounded values.

All intervals are at 95 %. They cover the choice of questions, not the wording of a prompt or
decoding with other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from etui.stats.distributions import binomial_two_sided, t_p_value, t_quantile

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
"""p-value, adjusted for its family, below which a difference is claimed."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval at 95 %.

    An unknown end is None (one question; joules per correct answer if a sample might have none).
    """

    value: float
    low: float | None
    high: float | None
    method: str | None  # `wilson`, `bootstrap` or `student`; None without an interval

    @property
    def half_width(self) -> float | None:
        """The larger half of the interval; None if an end is unknown."""
        if self.low is None or self.high is None:
            return None
        return max(self.value - self.low, self.high - self.value)


def wilson(successes: int, trials: int) -> Interval:
    """Compute a share of successes and its score interval (Wilson, JASA 22, 1927)."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError("a share needs at least one trial, and no more successes than trials")
    share = successes / trials
    low, high = _score_ends(share, trials, NormalDist().inv_cdf((1 + CONFIDENCE) / 2))
    low, high = 0.0 if successes == 0 else low, 1.0 if successes == trials else high
    return Interval(share, low, high, "wilson")


def wilson_low(p: float, n: float, confidence: float) -> float:
    """Compute the lower end of the one-sided interval for a share of n answers; 0 for none."""
    return min(max(_score_ends(p, n, _quantile(confidence))[0], 0.0), 1.0) if n > 0 else 0.0


def _score_ends(share: float, trials: float, z: float) -> tuple[float, float]:
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    whole = 1 + z * z / trials
    return (centre - half) / whole, (centre + half) / whole


@lru_cache(maxsize=64)
def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(min(max(confidence, 1e-9), 1 - 1e-9))


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test (Psychometrika 12, 1947).

    It is the probability, if both were equally good, of a split at least as uneven among these
    questions; 1 if there are none.
    """
    discordant = only_first + only_second
    return binomial_two_sided(only_first, discordant) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons, in their order (Holm, Scand. J. Stat. 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted


@dataclass(frozen=True, slots=True)
class PairedMean:
    """A mean of paired differences."""

    value: float  # The mean, in [-1, 1]
    low: float  # Ends of the adjusted interval at 95 %, which contain the mean
    high: float
    deviation: float  # Standard deviation of the differences, adjusted
    p: float  # Two-sided p-value of a mean of 0


_ADDED = 2
"""Questions that are added: one with a difference of 1, one with -1."""


def estimate_paired_mean(differences: Floats) -> PairedMean:
    """Estimate the mean of paired differences in [-1, 1], with an interval that holds for few.

    A resample of a handful of disagreements has too little spread, and none at all if all of them
    favour one side. Adding one question to each side makes the interval conservative there and
    changes nothing for many questions (Bonett and Price, Journal of Educational and Behavioral
    Statistics 37, 2012, for differences of -1, 0 and 1; here for any differences).
    """
    count = len(differences) + _ADDED
    total, squares = float(differences.sum()), float((differences**2).sum())
    centre = total / count
    variance = max(0.0, (squares + _ADDED) / count - centre**2)
    error = math.sqrt(variance / count)
    half = t_quantile((1 - CONFIDENCE) / 2, count - 1) * error
    value = total / len(differences)
    return PairedMean(
        value,
        max(-1.0, min(value, centre - half)),
        min(1.0, max(value, centre + half)),
        math.sqrt(variance),
        t_p_value(centre / error, count - 1),
    )


def count_questions_needed(deviation: float, difference: float, looks: int = 1) -> int:
    """Return how many questions show a difference, above 0, with a probability of 80 %.

    The significance is divided among ``looks`` comparisons.
    """
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - SIGNIFICANCE / 2 / max(looks, 1)) + normal.inv_cdf(0.8)
    return math.ceil((quantiles * deviation / difference) ** 2)


STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares that are staked, each with a fifth of the capital: no one of them has to be the best."""


def compute_capital(values: Iterable[float]) -> float:
    """Compute the greatest capital that betting on positive values has reached.

    A gambler with a capital of 1 stakes a share of it on each value before it is known. If no value
    has a positive mean given those before it, the probability that the capital ever reaches
    1 / level is at most the level (Ville, 1939; Waudby-Smith and Ramdas, JRSS B 86, 2024). So one
    may test after each value, without a number of values fixed before. A capital of 20 rejects a
    mean of at most 0 at the level of 5 %.
    """
    capitals, most = [1.0] * len(STAKES), 1.0
    for value in values:
        if not -1.0 <= value <= 1.0:
            raise ValueError(f"{value} is not in [-1, 1]")
        # A bound keeps thousands of values from overflowing; far above any level, it is no loss.
        capitals = [
            min(capital * (1 + stake * value), 1e300)
            for capital, stake in zip(capitals, STAKES, strict=True)
        ]
        most = max(most, sum(capital / len(capitals) for capital in capitals))
    return most
