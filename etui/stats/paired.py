"""Paired differences of few questions: intervals that hold where the bootstrap is too narrow.

A resample of a handful of disagreements has too little spread, and none at all if all of them
favour one side. Adding one question to each side makes the interval conservative there and changes
nothing for many questions (Bonett and Price, Journal of Educational and Behavioral Statistics 37,
2012, for differences of -1, 0 and 1; the same two questions are added here to any differences).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.stats.student_t import t_p_value, t_quantile
from etui.stats.tests import CONFIDENCE, SIGNIFICANCE

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

_ADDED = 2
"""Questions that are added: one with a difference of 1, one with -1."""


@dataclass(frozen=True, slots=True)
class PairedMean:
    """A mean of paired differences.

    Attributes:
        low, high: Ends of the adjusted interval at 95 %; they contain the mean.
    """

    value: float  # The mean, in [-1, 1]
    low: float
    high: float
    deviation: float  # Standard deviation of the differences, adjusted
    p: float  # Two-sided p-value of a mean of 0


def estimate_paired_mean(differences: Floats) -> PairedMean:
    """Estimate the mean of paired differences.

    Args:
        differences: Values in [-1, 1], shape (questions,), at least one.
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
    """Return how many questions show a difference with a probability of 80 %.

    Args:
        deviation: Standard deviation of the paired differences.
        difference: The difference to be shown, above 0.
        looks: Number of comparisons among which the significance is divided.
    """
    from scipy.special import ndtri

    quantiles = float(ndtri(1 - SIGNIFICANCE / 2 / max(looks, 1)) + ndtri(0.8))
    return math.ceil((quantiles * deviation / difference) ** 2)


def choose_testable(counts: Sequence[int]) -> list[bool]:
    """Choose the comparisons that could show something, of many looked at together.

    Of n questions that all favour one side, McNemar's test gives p = 2^(1-n). A comparison whose
    smallest possible p-value stays above the corrected significance says nothing, whatever comes
    out, so it does not have to count as a look. The choice depends on the numbers of questions
    alone and not on the answers (as Tarone's, Biometrics 46, 1990, does on the margins).

    Args:
        counts: Number of questions of each comparison.

    Returns:
        Whether each comparison belongs to the largest family that can show something.
    """
    family = 0
    for rank, count in enumerate(sorted(counts, reverse=True), 1):
        if 2.0 ** (1 - count) <= SIGNIFICANCE / rank:
            family = rank
    least = sorted(counts, reverse=True)[family - 1] if family else math.inf
    chosen = [count >= least for count in counts]
    return chosen if sum(chosen) == family else [count > least for count in counts]


def least_testable(comparisons: int) -> int:
    """Return the fewest questions with which each of some comparisons could show something."""
    return math.ceil(1 + math.log2(max(comparisons, 1) / SIGNIFICANCE))


def compute_equality_p(values: Sequence[float], errors: Sequence[float]) -> float:
    """Compute the p-value of equal means: Cochran's Q (Biometrics 10, 1954).

    Args:
        errors: Their standard errors, above 0.
    """
    from scipy.special import chdtrc

    if len(values) < 2:
        return 1.0
    weights = [error**-2 for error in errors]
    pooled = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
    spread = math.fsum(w * (v - pooled) ** 2 for w, v in zip(weights, values, strict=True))
    return float(chdtrc(len(values) - 1, spread))
