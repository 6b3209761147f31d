"""The detection floor: the smallest difference that a sweep can show on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.stats.small_samples import count_freedom, estimate_means
from etui.stats.student_t import t_quantile
from etui.stats.tests import SIGNIFICANCE
from etui.sweep.analysis.costs import drop_missing, joules, read_logs, seconds, to_percent
from etui.sweep.blocks import Block, Figure
from etui.sweep.result import DetectionFloor

_POWER = 0.8
BASELINE_COPIES = 2
"""Visits of the baseline in a block, whose mean is the reference of all differences."""


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Noise of a figure of one visit, from the baseline against itself in the same block (A/A)."""

    deviation: float | None
    """Standard deviation of the log of a visit's figure; None with fewer than two blocks."""
    difference: float | None
    """Mean log ratio of the second copy to the first, which should be about 0; None without a
    block."""
    p: float | None  # P-value of that difference; None with fewer than two blocks
    blocks: int  # Number of blocks with both copies

    def floor(self, variance_factor: float, freedom: float) -> float | None:
        """Return the smallest log ratio that an estimate can show.

        A two-sided test at 5 % finds a true difference of this size with 80 % probability:
        ``(t(0.975) + t(0.8)) s sqrt(v)`` (Lachin, Controlled Clinical Trials 2, 1981, with t in
        place of the normal quantiles, as the noise is estimated). It is at least the difference
        that the A/A comparison itself has found.

        Args:
            variance_factor: Variance of the estimate in variances of one visit. For a setting
                against the mean of two copies of the baseline over n blocks it is 1.5 / n.
            freedom: Degrees of freedom of the estimate.

        Returns:
            A log ratio above 0; None if the noise is unknown.
        """
        if self.deviation is None or self.difference is None:
            return None
        known = min(freedom, float(count_freedom(self.blocks)))
        quantiles = t_quantile(SIGNIFICANCE / 2, known) + t_quantile(1 - _POWER, known)
        return max(quantiles * self.deviation * math.sqrt(variance_factor), abs(self.difference))

    def floor_of_blocks(self, blocks: int) -> float | None:
        """Return the smallest log ratio to the baseline that some blocks can show.

        Args:
            blocks: Number of blocks; None is returned for fewer than two.
        """
        if blocks < 2:
            return None
        return self.floor(compute_variance_factor(blocks), count_freedom(blocks))


@dataclass(frozen=True, slots=True)
class SweepRepeatability:
    """Noise of one visit's joules, and of its seconds."""

    joules: Repeatability
    seconds: Repeatability


def compute_variance_factor(blocks: int) -> float:
    """Return the variance of a mean difference to the baseline, in variances of one visit."""
    # Trimmed means weigh the values that are left in: close to 1/n for normal noise.
    return (1 + 1 / BASELINE_COPIES) / blocks


def measure_repeatability(
    blocks: Sequence[Block], baseline: str, figure: Figure, seed: int
) -> Repeatability:
    """Compare both copies of the baseline in every block that has them."""
    logs = read_logs(blocks, [baseline], figure)[:, 0, :]
    differences = drop_missing(logs[:, 1] - logs[:, 0])
    if not len(differences):
        return Repeatability(None, None, None, 0)
    found = estimate_means([differences], seed)[0]
    # A difference of two visits has twice the variance of one.
    deviation = None if found.deviation is None else found.deviation / math.sqrt(2)
    return Repeatability(deviation, found.mean, found.p, found.values)


def measure_both(blocks: Sequence[Block], baseline: str, seed: int) -> SweepRepeatability:
    """Compare both copies of the baseline by joules and by seconds."""
    return SweepRepeatability(
        measure_repeatability(blocks, baseline, joules, seed),
        measure_repeatability(blocks, baseline, seconds, seed),
    )


def build_floor(noise: SweepRepeatability, claim_blocks: int) -> DetectionFloor | None:
    """Build the detection floor; None before the first block with both copies.

    Args:
        claim_blocks: Number of blocks behind the claims.
    """
    if not noise.seconds.blocks:
        return None
    return DetectionFloor(
        joules_percent=_percent(noise.joules.floor_of_blocks(claim_blocks)),
        seconds_percent=_percent(noise.seconds.floor_of_blocks(claim_blocks)),
        measured_joules_percent=_percent(noise.joules.difference),
        measured_seconds_percent=_percent(noise.seconds.difference),
        blocks=noise.seconds.blocks,
        claim_blocks=claim_blocks,
    )


def _percent(log_ratio: float | None) -> float | None:
    return None if log_ratio is None else to_percent(log_ratio)
