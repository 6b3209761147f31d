"""Leads: accuracy of thinking beyond what the same joules buy from direct answers.

A random choice between the direct answers of a small and a large model reaches every point between
them. Thinking pays only if it is above that line; left of it or below it, the joules are better
spent on the large model for some of the questions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etui.design.analysis.intervals import compute_difference
from etui.design.analysis.multiples import JOULES, RIGHT_MEASURED, Resampled
from etui.design.analysis.strategies import Strategy
from etui.stats.frontier import hull, mixture_accuracies
from etui.stats.tests import Interval, holm

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


@dataclass(frozen=True, slots=True)
class Lead:
    """One thinking arm against the direct answers for the same joules."""

    strategy: Strategy
    directs: tuple[Strategy, ...]  # The direct answers of the best mixture, cheapest first
    lead: Interval
    """Accuracy of the arm minus that of the mixture that costs as much, or of the most accurate
    direct answer if all cost less."""
    deviation: float  # Standard deviation of the difference of a question
    costs_more: bool
    """Whether the arm costs more than this mixture, which is then one direct answer."""
    p_holm: float  # Two-sided p-value of no lead, adjusted for the thinking arms of the model


def compute_leads(resampled: Resampled) -> tuple[Lead, ...]:
    """Compute the lead of every metered thinking arm over the metered direct answers.

    Every resample has its own mixture. Empty if no direct answer is metered.
    """
    paired = resampled.paired
    metered = [
        one for one, has in zip(paired.layout.strategies, paired.metered, strict=True) if has
    ]
    directs = [one for one in metered if not one.thinks]
    if not directs or not paired.measured.any():
        return ()
    found = [_compute_lead(resampled, one, directs) for one in metered if one.thinks]
    adjusted: dict[str, Lead] = {}
    for role in paired.layout.roles:
        inside = [one for one in found if one.strategy.role == role]
        for one, p in zip(inside, holm([one.p_holm for one in inside]), strict=True):
            adjusted[one.strategy.arm] = replace(one, p_holm=p)
    return tuple(adjusted[one.strategy.arm] for one in found)


def _compute_lead(resampled: Resampled, strategy: Strategy, directs: list[Strategy]) -> Lead:
    import numpy as np

    paired = resampled.paired
    measured = paired.measured
    count = int(measured.sum())

    def gather(column: int) -> tuple[Floats, Floats]:
        sums = [resampled.sums(one, column) for one in directs]
        return (
            np.array([[total for total, _ in sums]]) / count,
            np.column_stack([drawn for _, drawn in sums]) / count,
        )

    (cost, drawn_cost), (right, drawn_right) = gather(JOULES), gather(RIGHT_MEASURED)
    ours, our_right = resampled.sums(strategy, JOULES), resampled.sums(strategy, RIGHT_MEASURED)
    mixed = mixture_accuracies(drawn_cost, drawn_right, ours[1] / count)
    weights = _find_weights(cost[0], right[0], ours[0] / count)
    correct = paired.correct[measured]
    columns = [paired.index(one) for one in directs]
    differences = correct[:, paired.index(strategy)] - correct[:, columns] @ weights
    lead, p_value, deviation = compute_difference(differences, our_right[1] / count - mixed)
    return Lead(
        strategy,
        tuple(one for one, weight in zip(directs, weights.tolist(), strict=True) if weight > 0),
        lead,
        deviation,
        bool(ours[0] / count > cost[0] @ weights + 1e-9),
        p_value,
    )


def _find_weights(cost: Floats, accuracy: Floats, at: float) -> Floats:
    """Return the share of each direct answer in the best mixture of a mean cost."""
    import numpy as np

    weights = np.zeros(len(cost))
    corners = hull(dict(enumerate(zip(cost.tolist(), accuracy.tolist(), strict=True))))
    below = [k for k in corners if cost[k] <= at]
    if not below:
        weights[corners[0]] = 1.0
        return weights
    left = below[-1]
    weights[left] = 1.0
    above = [k for k in corners if cost[k] > at]
    if above:
        share = (at - cost[left]) / (cost[above[0]] - cost[left])
        weights[left], weights[above[0]] = 1 - share, share
    return weights
