"""Compute a router's curve of cost and accuracy, its area (APGR) and the costs it needs (CPT).

Shapes: ``correct`` and ``cost`` are (questions, arms), ``chosen`` is (questions,) of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from etui.stats.arrays import Flags, Floats, Whole
from etui.stats.bootstrap import PLAIN_REPLICATES, compute_replicates, multinomial_draw, percentiles
from etui.stats.tests import Interval

PARTS = 250
"""Number of points on the curve of a router over three or more arms."""


@dataclass(frozen=True, slots=True)
class RouterCurve:
    """A router's operating points, cheapest first."""

    cost: Floats  # Mean cost per question of each point, never falling
    accuracy: Floats  # Share of right answers
    price: Floats  # Accuracy per cost (lambda) from which the point applies


@dataclass(frozen=True, slots=True)
class Ends:
    """The two arms between which a router's gain is counted.

    Attributes:
        weak, strong: Columns of the cheapest arm, and of the most accurate among the other
            arms.
        low, high: Their mean costs.
    """

    weak: int
    strong: int
    low: float
    high: float
    weak_accuracy: float
    strong_accuracy: float

    @property
    def gain(self) -> float:
        """Accuracy of the strong arm minus that of the weak; a router can gain only above 0."""
        return self.strong_accuracy - self.weak_accuracy


def find_ends(correct: Flags, cost: Floats) -> Ends:
    """Find the weak and the strong arm."""
    costs, right = cost.mean(axis=0), correct.mean(axis=0)
    order = sorted(range(len(costs)), key=lambda at: (costs[at], -right[at]))
    weak = order[0]
    strong = max(order[1:], key=lambda at: (right[at], -costs[at]), default=weak)
    return Ends(
        weak,
        strong,
        float(costs[weak]),
        float(costs[strong]),
        float(right[weak]),
        float(right[strong]),
    )


def compute_curve(p: Floats, expected: Floats, correct: Flags, cost: Floats) -> RouterCurve:
    """Compute the curve of the router argmax(p - price * expected cost) over all prices.

    For two arms the curve has every point: one for each question that changes sides, with those of
    equal score together. For more arms it has ``PARTS`` prices, spread over those at which choices
    change.

    Args:
        p: Predicted probability of a right answer, shape (questions, arms).
    """
    return (
        _compute_two_arm_curve(p, expected, correct, cost)
        if p.shape[1] == 2
        else _compute_many_arm_curve(p, expected, correct, cost)
    )


def oracle_curve(correct: Flags, cost: Floats) -> RouterCurve:
    """Compute the curve of the oracle argmax(correct - price * expected cost) over all prices.

    The oracle is the router whose p is the outcome itself; its area is an upper bound for APGR.
    """
    return compute_curve(correct.astype(np.float64), cost.mean(axis=0), correct, cost)


def choices_at(p: Floats, expected: Floats, price: float) -> Whole:
    """Choose the arm of each question at a price; the cheaper one if two are equal."""
    order = np.argsort(expected, kind="stable")
    best = p[:, order[0]] - price * expected[order[0]]
    chosen = np.full(len(p), order[0])
    for arm in order[1:]:  # arm by arm: much faster than argmax along a short axis
        value = p[:, arm] - price * expected[arm]
        better = value > best
        best, chosen = np.where(better, value, best), np.where(better, arm, chosen)
    return np.asarray(chosen)


def choose_within(p: Floats, curve: RouterCurve, expected: Floats, budget: float) -> Whole:
    """Choose the arm of each question at the lowest price whose mean cost is within a budget."""
    within = np.flatnonzero(curve.cost <= budget * (1 + 1e-9))
    price = float(curve.price[within[-1]]) if len(within) else float("inf")
    return choices_at(p, expected, min(price, 1e300))


def _compute_two_arm_curve(
    p: Floats, expected: Floats, correct: Flags, cost: Floats
) -> RouterCurve:
    cheap, costly = np.argsort(expected, kind="stable")
    extra = max(float(expected[costly] - expected[cheap]), 1e-300)
    price = (p[:, costly] - p[:, cheap]) / extra
    order = np.argsort(-price, kind="stable")
    price, n = price[order], len(price)
    more = (cost[:, costly] - cost[:, cheap])[order]
    better = (correct[:, costly].astype(float) - correct[:, cheap])[order]
    last = np.append(price[1:] != price[:-1], True)
    # A question may cost less on the costlier arm: keep the cost of the curve from falling.
    mean_cost = np.maximum.accumulate(np.append(0.0, np.cumsum(more)[last])) / n
    mean_cost += cost[:, cheap].mean()
    right = np.append(0.0, np.cumsum(better)[last]) / n + correct[:, cheap].mean()
    return RouterCurve(mean_cost, right, np.append(np.inf, price[last]))


def _compute_many_arm_curve(
    p: Floats, expected: Floats, correct: Flags, cost: Floats
) -> RouterCurve:
    crossings = []
    arms = p.shape[1]
    for one in range(arms):
        for other in range(one + 1, arms):
            difference = expected[one] - expected[other]
            if difference:
                crossings.append((p[:, one] - p[:, other]) / difference)
    prices = np.concatenate(crossings) if crossings else np.zeros(1)
    prices = (
        np.unique(np.quantile(prices[prices > 0], np.linspace(0, 1, PARTS)))[::-1]
        if (prices > 0).any()
        else np.zeros(0)
    )
    prices = np.concatenate([[np.inf], prices * (1 + 1e-12), [0.0]])
    rows = np.arange(len(p))
    points = []
    p = np.asfortranarray(p)
    for price in prices:
        chosen = (
            np.full(len(p), int(np.argmin(expected)))
            if np.isinf(price)
            else choices_at(p, expected, float(price))
        )
        points.append((cost[rows, chosen].mean(), correct[rows, chosen].mean()))
    costs, right = np.asarray(points).T
    order = np.argsort(costs, kind="stable")
    return RouterCurve(costs[order], right[order], prices[order])


def gain_curve(curve: RouterCurve, ends: Ends) -> tuple[Floats, Floats]:
    """Normalise the cost and accuracy of a curve: x and PGR, from (0, 0) to (1, 1).

    x = (cost - weak's) / (strong's - weak's): for two arms of fixed cost, the share of questions
    that the strong one gets. PGR = (accuracy - weak's) / (strong's - weak's). (Ong et al.,
    RouteLLM, 2024.)
    """
    x = (curve.cost - ends.low) / (ends.high - ends.low)
    pgr = (curve.accuracy - ends.weak_accuracy) / ends.gain
    inside = (x > 0) & (x < 1)
    return np.concatenate([[0.0], x[inside], [1.0]]), np.concatenate([[0.0], pgr[inside], [1.0]])


def apgr(x: Floats, pgr: Floats) -> float:
    """Compute APGR, the mean PGR over the normalised cost, by trapezoids over every point.

    RouteLLM uses ten thresholds instead; its figure for random routing is then below 0.5.
    """
    return float(np.trapezoid(pgr, x))


def apgr_interval(
    score: Floats,
    weak: Flags,
    strong: Flags,
    seed: int,
    replicates: int = PLAIN_REPLICATES,
    bins: int = 200,
) -> Interval:
    """Compute APGR of two arms of fixed cost, with a bootstrap interval over the questions.

    Questions are sorted by score once and grouped in ``bins`` of neighbours, in which their order
    is ignored: the area changes by less than 1e-3.

    Args:
        score: Score of each question; the highest go to the strong arm first, shape (questions,).
    """
    order = np.argsort(-score, kind="stable")
    at = np.empty(len(score), dtype=np.int64)
    at[order] = np.arange(len(score)) * bins // len(score)
    kind = (strong.astype(np.int64) - weak.astype(np.int64)) + 1
    counts = np.bincount(at * 3 + kind, minlength=3 * bins)
    draw = multinomial_draw(np.random.default_rng(seed), counts)
    areas = compute_replicates(
        draw, lambda drawn: _compute_areas(drawn.reshape(-1, bins, 3)), replicates
    )
    value = float(_compute_areas(counts.reshape(1, bins, 3))[0])
    return Interval(value, *percentiles(areas, "nearest"), "bootstrap")


def _compute_areas(counts: Any) -> Any:
    """Compute APGR of counts, shape (k, bins, loses/equal/gains); infinite without a gain."""
    share = counts.sum(axis=2)
    share = share / share.sum(axis=1, keepdims=True)
    gain = np.cumsum(counts[:, :, 2] - counts[:, :, 0], axis=1).astype(np.float64)
    total = gain[:, -1:]
    pgr = np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)
    before = np.concatenate([np.zeros((len(pgr), 1)), pgr[:, :-1]], axis=1)
    area = (share * (before + pgr) / 2).sum(axis=1)
    return np.where(total[:, 0] > 0, area, np.inf)  # no gain, no area


def cost_for(x: Floats, pgr: Floats, target: float) -> float | None:
    """Compute CPT: the least normalised cost at which PGR reaches ``target``; None if never."""
    reached = np.flatnonzero(pgr >= target - 1e-12)
    return float(x[reached[0]]) if len(reached) else None


def accuracy_at(curve: RouterCurve, cost: float) -> float:
    """Interpolate the accuracy of a curve at a cost, linearly between its points."""
    return float(np.interp(cost, curve.cost, curve.accuracy))


def cost_at(curve: RouterCurve, accuracy: float) -> float | None:
    """Compute the least cost at which a curve reaches an accuracy; None if it never does."""
    reached = np.flatnonzero(curve.accuracy >= accuracy - 1e-12)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(curve.cost[0])
    (x0, x1), (y0, y1) = curve.cost[at - 1 : at + 1], curve.accuracy[at - 1 : at + 1]
    return float(x1 if y1 <= y0 else x0 + (x1 - x0) * max(0.0, (accuracy - y0) / (y1 - y0)))
