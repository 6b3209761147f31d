"""Compute a router's curve of cost and accuracy, its area (APGR) and the costs it needs (CPT).

Shapes: ``correct`` and ``cost`` are (questions, arms), ``chosen`` is (questions,) of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.stats.bootstrap import PLAIN_REPLICATES, multinomial_draw, percentiles, replicated
from etui.stats.tests import Interval

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole

PARTS = 250
"""Points of the curve of a router over three arms or more."""


@dataclass(frozen=True, slots=True)
class RouterCurve:
    """A router's operating points, cheapest first.

    Attributes:
        cost: Mean cost a question of each point, never falling.
        accuracy: Share right.
        price: Accuracy per cost (lambda) from which on the point is taken.
    """

    cost: Floats
    accuracy: Floats
    price: Floats


@dataclass(frozen=True, slots=True)
class Ends:
    """Between which arms a router's gain is counted.

    Attributes:
        weak, strong: Columns of the cheapest arm, and of the most accurate one among the dearer.
        low, high: Their mean costs.
        weak_accuracy, strong_accuracy: Their shares right.
    """

    weak: int
    strong: int
    low: float
    high: float
    weak_accuracy: float
    strong_accuracy: float

    @property
    def gain(self) -> float:
        """What the strong arm is right more often; a router has room only above 0."""
        return self.strong_accuracy - self.weak_accuracy


def ends_of(correct: Flags, cost: Floats) -> Ends:
    """The ends among the single arms."""
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


def curve_of(p: Floats, expected: Floats, correct: Flags, cost: Floats) -> RouterCurve:
    """The curve of the router that takes argmax p - price * expected cost, over all prices.

    Of two arms every point there is: one for each question that changes sides, those of equal
    score together. Of more, ``PARTS`` prices spread over those at which choices change.

    Args:
        p: Predicted probability of a right answer.
        expected: Predicted cost of each arm, shape (arms,).
        correct, cost: What came of it.
    """
    return (
        _two_arms(p, expected, correct, cost)
        if p.shape[1] == 2
        else _many_arms(p, expected, correct, cost)
    )


def oracle_curve(correct: Flags, cost: Floats) -> RouterCurve:
    """Compute the oracle's curve: argmax correct - price * expected cost, over all prices.

    The oracle is the router whose p is the answer itself; its area is the most that any APGR can
    be.

    Args:
        correct, cost: Of each answer, shape (questions, arms).
    """
    import numpy as np

    return curve_of(correct.astype(np.float64), cost.mean(axis=0), correct, cost)


def choices_at(p: Floats, expected: Floats, price: float) -> Whole:
    """The arm of each question at a price; the cheaper one where two are equal."""
    import numpy as np

    order = np.argsort(expected, kind="stable")
    best = p[:, order[0]] - price * expected[order[0]]
    chosen = np.full(len(p), order[0])
    for arm in order[1:]:  # arm by arm: far quicker than argmax along a short axis
        worth = p[:, arm] - price * expected[arm]
        better = worth > best
        best, chosen = np.where(better, worth, best), np.where(better, arm, chosen)
    return np.asarray(chosen)


def _two_arms(p: Floats, expected: Floats, correct: Flags, cost: Floats) -> RouterCurve:
    import numpy as np

    cheap, dear = np.argsort(expected, kind="stable")
    extra = max(float(expected[dear] - expected[cheap]), 1e-300)
    price = (p[:, dear] - p[:, cheap]) / extra
    order = np.argsort(-price, kind="stable")
    price, n = price[order], len(price)
    more = (cost[:, dear] - cost[:, cheap])[order]
    better = (correct[:, dear].astype(float) - correct[:, cheap])[order]
    last = np.append(price[1:] != price[:-1], True)
    # A question may be cheaper on the dearer arm; the curve is kept from running backwards.
    mean_cost = np.maximum.accumulate(np.append(0.0, np.cumsum(more)[last])) / n
    mean_cost += cost[:, cheap].mean()
    right = np.append(0.0, np.cumsum(better)[last]) / n + correct[:, cheap].mean()
    return RouterCurve(mean_cost, right, np.append(np.inf, price[last]))


def _many_arms(p: Floats, expected: Floats, correct: Flags, cost: Floats) -> RouterCurve:
    import numpy as np

    turning = []
    arms = p.shape[1]
    for one in range(arms):
        for other in range(one + 1, arms):
            apart = expected[one] - expected[other]
            if apart:
                turning.append((p[:, one] - p[:, other]) / apart)
    prices = np.concatenate(turning) if turning else np.zeros(1)
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
    """Normalised cost and PGR of a curve, from (0, 0) to (1, 1).

    x = (cost - weak's) / (strong's - weak's): of two arms of fixed cost the share of questions the
    strong one gets. PGR = (accuracy - weak's) / (strong's - weak's). (Ong et al., RouteLLM, 2024.)
    """
    import numpy as np

    x = (curve.cost - ends.low) / (ends.high - ends.low)
    pgr = (curve.accuracy - ends.weak_accuracy) / ends.gain
    inside = (x > 0) & (x < 1)
    return np.concatenate([[0.0], x[inside], [1.0]]), np.concatenate([[0.0], pgr[inside], [1.0]])


def apgr(x: Floats, pgr: Floats) -> float:
    """Mean PGR over the normalised cost: the exact area (trapezoids over every point).

    RouteLLM takes ten thresholds instead; its figure for random routing is then below 0.5.
    """
    import numpy as np

    return float(np.trapezoid(pgr, x))


def apgr_interval(
    score: Floats,
    weak: Flags,
    strong: Flags,
    seed: int,
    replicates: int = PLAIN_REPLICATES,
    bins: int = 200,
) -> Interval:
    """Compute APGR of two arms of fixed cost, with its interval by resamples of the questions.

    Questions are sorted by score once and taken together in ``bins`` of neighbours, in which their
    order no longer matters: the area changes by less than 1e-3.

    Args:
        score: What the router sorts by, highest to the strong arm first, shape (questions,).
        weak, strong: Whether each arm is right, shape (questions,).
        seed: Of the draws.
        replicates: Resamples drawn.
        bins: Bins of neighbours.
    """
    import numpy as np

    order = np.argsort(-score, kind="stable")
    at = np.empty(len(score), dtype=np.int64)
    at[order] = np.arange(len(score)) * bins // len(score)
    kind = (strong.astype(np.int64) - weak.astype(np.int64)) + 1
    counts = np.bincount(at * 3 + kind, minlength=3 * bins)
    draw = multinomial_draw(np.random.default_rng(seed), counts)
    areas = replicated(draw, lambda drawn: _areas(drawn.reshape(-1, bins, 3)), replicates)
    value = float(_areas(counts.reshape(1, bins, 3))[0])
    return Interval(value, *percentiles(areas, "nearest"), "bootstrap")


def _areas(counts: Any) -> Any:
    """Compute APGR of counts, shape (k, bins, loses/equal/gains); infinite without a gain."""
    import numpy as np

    share = counts.sum(axis=2)
    share = share / share.sum(axis=1, keepdims=True)
    gain = np.cumsum(counts[:, :, 2] - counts[:, :, 0], axis=1).astype(np.float64)
    total = gain[:, -1:]
    pgr = np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)
    before = np.concatenate([np.zeros((len(pgr), 1)), pgr[:, :-1]], axis=1)
    area = (share * (before + pgr) / 2).sum(axis=1)
    return np.where(total[:, 0] > 0, area, np.inf)  # where the strong arm is none, there is no area


def cost_for(x: Floats, pgr: Floats, wanted: float) -> float | None:
    """CPT: the least normalised cost from which PGR reaches ``wanted``; None if it never does."""
    import numpy as np

    reached = np.flatnonzero(pgr >= wanted - 1e-12)
    return float(x[reached[0]]) if len(reached) else None


def accuracy_at(curve: RouterCurve, cost: float) -> float:
    """Accuracy of a curve at a cost, linear between its points."""
    import numpy as np

    return float(np.interp(cost, curve.cost, curve.accuracy))


def cost_at(curve: RouterCurve, accuracy: float) -> float | None:
    """The least cost at which a curve reaches an accuracy; None if it never does."""
    import numpy as np

    reached = np.flatnonzero(curve.accuracy >= accuracy - 1e-12)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(curve.cost[0])
    (x0, x1), (y0, y1) = curve.cost[at - 1 : at + 1], curve.accuracy[at - 1 : at + 1]
    return float(x1 if y1 <= y0 else x0 + (x1 - x0) * max(0.0, (accuracy - y0) / (y1 - y0)))
