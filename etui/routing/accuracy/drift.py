"""Judge the fit of an arm by labels that came after it, with a bounded error.

The fit predicts each question; the arm's rate alone predicts the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.stats.betting import compute_capital

LEVEL = 0.05
"""Probability of setting aside a fit that is not worse than its rates, however often one looks."""

NEWEST = 200
"""Number of the last labels over which a fit must be worse too."""


@dataclass(frozen=True, slots=True)
class ArmHealth:
    """The fit of one arm against the labels since then.

    Attributes:
        predicted, observed: Mean predicted accuracy, and mean of the labels; None without any.
    """

    arm: str
    labels: int  # Number of labels since the fit
    predicted: float | None
    observed: float | None
    excess: float | None
    """Mean squared error of the fit minus that of the rate, over the last labels."""
    set_aside: bool  # Whether the rate predicts in place of the fit
    drifted: bool  # Whether the arm is right more, or less, often than predicted


def judge_arm(arm: str, rate: float, pairs: Sequence[tuple[float, float]]) -> ArmHealth:
    """Judge the fit of an arm.

    Args:
        rate: Its overall rate, which is what it would predict without a fit.
        pairs: (predicted, label) since the fit, oldest first; both in [0, 1].
    """
    if not pairs:
        return ArmHealth(arm, 0, None, None, None, set_aside=False, drifted=False)
    excess = [(p - y) ** 2 - (rate - y) ** 2 for p, y in pairs]
    mean = _mean(excess[-NEWEST:])
    worse = compute_capital(excess) >= 1 / LEVEL and mean > 0
    ahead = compute_capital(y - p for p, y in pairs)
    behind = compute_capital(p - y for p, y in pairs)
    return ArmHealth(
        arm=arm,
        labels=len(pairs),
        predicted=_mean([p for p, _ in pairs]),
        observed=_mean([y for _, y in pairs]),
        excess=mean,
        set_aside=worse,
        drifted=max(ahead, behind) >= 2 / LEVEL,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
