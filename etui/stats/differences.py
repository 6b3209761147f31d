"""Relative differences that are claimed, and the smallest one that could have been found.

A difference is a mean of log ratios of pairs that were measured side by side, so that what both
have in common (temperature, background load) cancels.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from etui.stats.distributions import t_quantile
from etui.stats.small_samples import MeanEstimate
from etui.stats.tests import SIGNIFICANCE, holm

K = TypeVar("K", bound=Hashable)

LARGEST_LOG = 500.0
"""Log of the largest factor: 1e217."""
_POWER = 0.8


def to_percent(log_ratio: float) -> float:
    """Turn a log ratio into percent of the reference."""
    return 100 * math.expm1(min(log_ratio, LARGEST_LOG))


def to_percent_or_none(log_ratio: float | None) -> float | None:
    """Turn a log ratio into percent of the reference; None stays None."""
    return None if log_ratio is None else to_percent(log_ratio)


@dataclass(frozen=True, slots=True)
class Difference:
    """A relative difference to a reference, from measurements side by side."""

    percent: float  # Mean difference; -18 is 18 % less than the reference
    low: float | None  # Ends of the interval at 95 %; None with one block
    high: float | None
    p: float | None  # P-value, adjusted by Holm over the family; None without one
    blocks: int
    is_claimed: bool
    """Whether the difference is beyond noise (p below 0.05, an interval without 0) and not below
    the detection floor."""

    @property
    def is_saving(self) -> bool:
        """Whether it is claimed to be less than the reference."""
        return self.is_claimed and self.percent < 0


@dataclass(frozen=True, slots=True)
class LogDifference:
    """A log ratio to a reference that is not yet judged."""

    estimate: MeanEstimate  # The log ratio with its interval
    floor: float | None  # Smallest log ratio that is claimed; None if it is unknown


def compute_floor(error: float, freedom: float, level: float = SIGNIFICANCE) -> float:
    """Compute the smallest difference that a two-sided test finds with 80 % probability.

    At 5 % it is ``(t(0.975) + t(0.8)) s`` for a standard error s with its degrees of freedom
    (Lachin, Controlled Clinical Trials 2, 1981, with t in place of the normal quantiles, as the
    noise is estimated).
    """
    quantiles = t_quantile(level / 2, freedom) + t_quantile(1 - _POWER, freedom)
    return quantiles * error


def judge(
    differences: Mapping[K, LogDifference], level: float = SIGNIFICANCE
) -> dict[K, Difference]:
    """Adjust the p-values of a family by Holm, and decide what is claimed.

    A difference is claimed if its adjusted p-value is below the level, its interval excludes 0, and
    it is not below the detection floor. So a family of equal settings has a false claim in at most
    that share of sweeps.
    """
    tested = {key: one.estimate.p for key, one in differences.items() if one.estimate.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    judged = {}
    for key, one in differences.items():
        estimate, p = one.estimate, adjusted.get(key)
        low, high = estimate.low, estimate.high
        excludes_zero = low is not None and high is not None and (low > 0 or high < 0)
        is_shown = one.floor is not None and abs(estimate.mean) >= one.floor
        judged[key] = Difference(
            percent=to_percent(estimate.mean),
            low=to_percent_or_none(low),
            high=to_percent_or_none(high),
            p=p,
            blocks=estimate.values,
            is_claimed=p is not None and p < level and excludes_zero and is_shown,
        )
    return judged
