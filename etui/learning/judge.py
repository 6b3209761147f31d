"""Judge single arms, routers and policies over one table of answers, as a document.

A router has a curve of cost and accuracy, its area (APGR) and the costs it needs (CPT). Shapes:
``correct`` and ``cost`` are (questions, arms), ``chosen`` is (questions,) of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any, Literal

import numpy as np

from etui.learning.fit import calibration_error
from etui.learning.graded import Graded
from etui.learning.policy_replay import Routed
from etui.stats.arrays import Flags, Floats, Whole
from etui.stats.bootstrap import (
    compute_interval,
    percentiles,
    resample_means,
)
from etui.stats.frontier import Point, cheapest_correct, hull, mixture_accuracies, mixture_costs
from etui.stats.tests import Interval, mcnemar, wilson

PARTS = 250
"""Number of points on the curve of a router over three or more arms."""
AREA_POINTS = 60
"""Number of points on the curve of a resample."""
AREA_REPLICATES = 2000


@dataclass(frozen=True, slots=True)
class RouterCurve:
    """A router's operating points, cheapest first."""

    cost: Floats  # Mean cost per question of each point, never falling
    accuracy: Floats  # Share of right answers
    price: Floats  # Accuracy per cost (lambda) from which the point applies


@dataclass(frozen=True, slots=True)
class Ends:
    """The arms between which a router's gain is counted: the cheapest, and the best of the others.

    ``weak`` and ``strong`` are their columns, ``low`` and ``high`` their mean costs.
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
    """
    return (
        _compute_two_arm_curve(p, expected, correct, cost)
        if p.shape[1] == 2
        else _compute_many_arm_curve(p, expected, correct, cost)
    )


def oracle_curve(correct: Flags, cost: Floats) -> RouterCurve:
    """Compute the curve of the router whose p is the outcome itself: an upper bound for APGR."""
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


@dataclass(frozen=True, slots=True)
class AreaIntervals:
    """APGR of a router, and how much larger it is than that of the mixture of the hull."""

    apgr: Interval
    over_mixture: Interval


def compute_area_intervals(
    p: Floats, correct: Flags, cost: Floats, seed: int, replicates: int = AREA_REPLICATES
) -> AreaIntervals:
    """Compute APGR of a router over any number of arms, with bootstrap intervals over questions.

    Which arms are weak and strong stays. A resample has ``AREA_POINTS`` prices, and its ends are
    moved by what the area under so few of them differs from that under all.
    """
    ends, expected = find_ends(correct, cost), cost.mean(axis=0)
    curve = compute_curve(p, expected, correct, cost)
    near = np.unique(np.linspace(0, len(curve.price) - 1, AREA_POINTS).round().astype(int))
    chosen = [choices_at(p, expected, min(float(curve.price[at]), 1e300)) for at in near]
    rows, arms = np.arange(len(p)), p.shape[1]
    parts = [each[rows, column] for each in (cost, correct) for column in chosen]
    columns = np.column_stack([cost, correct, *parts]).astype(np.float64)

    def compute_areas(means: Floats) -> tuple[Floats, Floats]:
        costs, right = means[:, :arms], means[:, arms : 2 * arms]
        spent, found = np.split(means[:, 2 * arms :], 2, axis=1)
        corners = np.sort(costs, axis=1)
        mixed = np.column_stack([mixture_accuracies(costs, right, at) for at in corners.T])
        weak, strong = (np.stack([costs, right])[:, :, [at]] for at in (ends.weak, ends.strong))
        return (
            _compute_area(np.stack([spent, found]), weak, strong),
            _compute_area(np.stack([corners, mixed]), weak, strong),
        )

    (value, mixture) = (float(area[0]) for area in compute_areas(columns.mean(axis=0)[None, :]))
    drawn, mixed = compute_areas(resample_means(columns, seed, replicates))
    exact = apgr(*gain_curve(curve, ends))

    def build(exact: float, near: float, drawn: Floats) -> Interval:
        return Interval(exact, *percentiles(drawn + (exact - near), "nearest"), "bootstrap")

    without_gain = np.full_like(drawn, np.inf)
    over = np.subtract(drawn, mixed, out=without_gain, where=np.isfinite(drawn))
    return AreaIntervals(build(exact, value, drawn), build(exact - mixture, value - mixture, over))


def _compute_area(points: Floats, weak: Floats, strong: Floats) -> Floats:
    """Compute APGR of many curves; infinite where the strong arm has no gain.

    ``points`` are costs and accuracies, (2, curves, points), those of an arm (2, curves, 1).
    """
    width, gain = strong - weak
    x = (points[0] - weak[0]) / width
    pgr = np.divide(points[1] - weak[1], gain, out=np.zeros_like(x), where=gain > 0)
    pgr = np.where(x <= 0, 0.0, np.where(x >= 1, 1.0, pgr))
    ends = ((0, 0), (1, 1))
    x, pgr = (np.pad(each, ends, constant_values=(0, 1)) for each in (np.clip(x, 0, 1), pgr))
    area = np.trapezoid(pgr, x)
    return np.asarray(np.where(gain[:, 0] > 0, area, np.inf))


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


TARGETS = (0.5, 0.8, 0.95)
BUDGETS = (0.25, 0.5, 0.75)
_CURVE_POINTS = 101
_OF_BEST = ("apgr", "apgr_interval", "over_mixture", "cpt50", "cpt80", "cpt95", "energy")

Document = dict[str, Any]
"""A replay as plain JSON values, or a part of it.

The figures at the top are those of the best ``router``. A difference or a saving has its ``value``
and the ends of its 95 % interval, ``low`` and ``high``: None for an infinite end. ``saved`` is None
if no mixture is as accurate, ``cost_per_correct`` without a right answer, ``reproducible`` without
a second run. A router has only ``apgr``, ``ece`` and its ``curve`` if no arm gains over the
cheapest; the keys of ``cost_at_pgr`` are percent of the gain. ``random`` mixes the weak arm with
the strong one, ``mixture`` is that of the hull, ``over_mixture`` the APGR above the mixture's.
"""


@dataclass(frozen=True, slots=True)
class ReplayTable:
    """Input of a replay."""

    graded: Graded
    cost: Floats  # Cost of each answer, (questions, arms)
    unit: str = ""  # `J`, or empty for stated costs
    kinds: tuple[str, ...] = ()  # How the joules were measured
    repeats: Graded | None = None
    """The same questions answered a second time; None if they were not."""


def judge(
    table: ReplayTable,
    routers: Mapping[str, Floats],
    policies: Sequence[Routed] = (),
    seed: int = 0,
) -> Document:
    """Build the document of a replay, of plain JSON values, by each router's cross-fitted p."""
    graded, cost = table.graded, table.cost
    ends = find_ends(graded.correct, cost)
    judged = {name: _judge_router(p, table, ends, seed) for name, p in routers.items()}
    best = list(routers)[-1] if routers else None
    best_router = judged.get(best or "", {})
    names = graded.arms
    points = dict(
        enumerate(zip(cost.mean(0).tolist(), graded.correct.mean(0).tolist(), strict=True))
    )
    return {
        "n": len(graded),
        "unit": table.unit or "cost",
        "kinds": list(table.kinds),
        "arms": {name: _judge_arm(table, column) for column, name in enumerate(names)},
        "weak": names[ends.weak],
        "strong": names[ends.strong],
        "hull": [
            {"arm": names[column], "cost": points[column][0], "accuracy": points[column][1]}
            for column in hull(points)
        ],
        "random": {"apgr": 0.5, "cpt50": 0.5, "cpt80": 0.8, "cpt95": 0.95},
        "mixture": _judge_mixture(table),
        "oracle": _judge_oracle(table, ends),
        "router": best,
        **{key: best_router.get(key) for key in _OF_BEST},
        "routers": judged,
        "policies": {routed.name: _judge_policy(routed, table, seed) for routed in policies},
    }


def _judge_arm(table: ReplayTable, column: int) -> Document:
    right, cost = table.graded.correct[:, column], float(table.cost[:, column].mean())
    share = wilson(int(right.sum()), len(right))
    assert share.low is not None
    assert share.high is not None
    return {
        "accuracy": share.value,
        "accuracy_interval": [share.low, share.high],
        "cost": cost,
        "cost_per_correct": cost / share.value if share.value else None,
    }


def _judge_oracle(table: ReplayTable, ends: Ends) -> Document:
    graded, cost = table.graded, table.cost
    choices = cheapest_correct(graded.correct, cost)
    rows = np.arange(len(graded))
    second: Document | None = None
    if table.repeats is not None:
        second = {
            "accuracy": float(table.repeats.correct[rows, choices].mean()),
            "cost": float(cost[rows, choices].mean()),
        }
    area = None
    if ends.gain > 0:
        area = apgr(*gain_curve(oracle_curve(graded.correct, cost), ends))
    return {
        "accuracy": float(graded.correct.any(axis=1).mean()),
        "cost": float(cost[rows, choices].mean()),
        "shares": _compute_shares(graded, choices),
        "apgr": area,
        "reproducible": second,
    }


@dataclass(frozen=True, slots=True)
class HullPlace:
    """A cost at which a router is compared with the mixture of the hull."""

    kind: Literal["corner", "middle"]
    """``corner`` is the cost of an arm on the hull, ``middle`` the geometric mean of the costs of
    two neighbours on it."""
    arms: tuple[int, ...]  # Columns of the corner's arm, or of the two neighbours, cheaper first
    cost: float


def list_hull_places(costs: Sequence[float], accuracies: Sequence[float]) -> list[HullPlace]:
    """List the corners of the hull and the geometric middles between neighbours, cheapest first."""
    points: dict[int, Point] = dict(enumerate(zip(costs, accuracies, strict=True)))
    corners = hull(points)
    places = [HullPlace("corner", (column,), points[column][0]) for column in corners[:1]]
    for left, right in pairwise(corners):
        middle = sqrt(points[left][0] * points[right][0])
        places.append(HullPlace("middle", (left, right), middle))
        places.append(HullPlace("corner", (right,), points[right][0]))
    return places


def against_mixture(
    choices: Sequence[tuple[Flags, Floats]], graded: Graded, cost: Floats, seed: int
) -> list[Document]:
    """Compare choices, right or wrong, and their costs with the best random mixtures of arms."""
    arms = len(graded.arms)
    choice_columns = [part for right, spent in choices for part in (right, spent)]
    stacked = [cost, graded.correct, *choice_columns]
    columns = np.column_stack(stacked).astype(np.float64)
    replicates = resample_means(columns, seed)
    return [
        _compare_choice(
            columns, replicates, arms, 2 * arms + 2 * index, _compare_with_arms(right, graded)
        )
        for index, (right, _) in enumerate(choices)
    ]


def _compare_choice(
    columns: Floats, replicates: Floats, arms: int, column: int, tests: dict[str, Document]
) -> Document:
    """Compare the choices with accuracy in ``column`` and cost in ``column + 1``."""

    def mixed(means: Any) -> Any:
        return mixture_accuracies(means[:, :arms], means[:, arms : 2 * arms], means[:, column + 1])

    def saved(means: Any) -> Any:
        equal = mixture_costs(means[:, :arms], means[:, arms : 2 * arms], means[:, column])
        return np.where(np.isfinite(equal), 1 - means[:, column + 1] / equal, np.inf)

    mean = columns.mean(axis=0)[None, :]
    accuracy, spent = float(mean[0, column]), float(mean[0, column + 1])
    reached = bool(np.isfinite(saved(mean)[0]))
    difference = compute_interval(
        columns, replicates, lambda means: means[:, column] - mixed(means)
    )
    return {
        "accuracy": accuracy,
        "cost": spent,
        "cost_per_correct": spent / accuracy if accuracy else None,
        "mixture_accuracy": float(mixed(mean)[0]),
        "difference": _build_spread(difference),
        "saved": _build_spread(compute_interval(columns, replicates, saved)) if reached else None,
        "mcnemar": tests,
    }


def _build_spread(interval: Interval) -> Document:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _compare_with_arms(right: Flags, graded: Graded) -> dict[str, Document]:
    return {
        name: {
            "only_this": (gained := int((right & ~other).sum())),
            "only_arm": (lost := int((other & ~right).sum())),
            "p_value": mcnemar(gained, lost),
        }
        for name, other in zip(graded.arms, graded.correct.T, strict=True)
    }


def _compute_shares(graded: Graded, choices: Any) -> dict[str, float]:
    counts = np.bincount(choices, minlength=len(graded.arms)) / max(1, len(choices))
    return {name: float(counts[column]) for column, name in enumerate(graded.arms)}


def _judge_router(p: Floats, table: ReplayTable, ends: Ends, seed: int) -> Document:
    graded, cost = table.graded, table.cost
    expected = cost.mean(axis=0)
    curve = compute_curve(p, expected, graded.correct, cost)
    ece = {
        name: calibration_error(p[:, column], graded.correct[:, column])
        for column, name in enumerate(graded.arms)
    }
    grid = np.linspace(float(curve.cost[0]), float(curve.cost[-1]), _CURVE_POINTS)
    points = [[float(c), accuracy_at(curve, float(c))] for c in grid]
    if ends.gain <= 0:
        return {"apgr": None, "ece": ece, "curve": points}
    counted = _count_calls(table.cost)
    ends_counted = find_ends(graded.correct, counted)
    x, pgr = gain_curve(
        compute_curve(p, counted.mean(axis=0), graded.correct, counted), ends_counted
    )
    found = compute_area_intervals(p, graded.correct, counted, seed)
    half, most, nearly_all = (cost_for(x, pgr, target) for target in TARGETS)
    return {
        "apgr": found.apgr.value,
        "ece": ece,
        "apgr_interval": [found.apgr.low, found.apgr.high],
        "over_mixture": _build_spread(found.over_mixture),
        "cpt50": half,
        "cpt80": most,
        "cpt95": nearly_all,
        "energy": _judge_energy(p, curve, table, ends, seed),
        "curve": points,
    }


def _count_calls(cost: Floats) -> Floats:
    """Return what APGR counts: of two arms the calls of the costlier one, of more the cost."""
    if cost.shape[1] != 2:
        return cost
    costly = np.argsort(cost.mean(axis=0), kind="stable")[1]
    return np.asarray(np.tile(np.arange(2) == costly, (len(cost), 1)), dtype=np.float64)


def _judge_mixture(table: ReplayTable) -> Document | None:
    correct, cost = table.graded.correct, _count_calls(table.cost)
    ends = find_ends(correct, cost)
    if ends.gain <= 0:
        return None
    points = dict(enumerate(zip(cost.mean(0).tolist(), correct.mean(0).tolist(), strict=True)))
    corners = np.asarray([points[column] for column in hull(points)])
    x, pgr = gain_curve(RouterCurve(corners[:, 0], corners[:, 1], np.zeros(len(corners))), ends)
    line = RouterCurve(x, pgr, np.zeros(len(x)))
    return {"apgr": apgr(x, pgr), **{f"cpt{round(100 * t)}": cost_at(line, t) for t in TARGETS}}


def _judge_energy(
    p: Floats, curve: RouterCurve, table: ReplayTable, ends: Ends, seed: int
) -> Document:
    x, pgr = gain_curve(curve, ends)
    names, cost = table.graded.arms, table.cost
    places = list_hull_places(
        cost.mean(axis=0).tolist(), table.graded.correct.mean(axis=0).tolist()
    )
    budgets = [ends.low + share * (ends.high - ends.low) for share in BUDGETS]
    costs = [*budgets, *(place.cost for place in places)]
    chosen = [choose_within(p, curve, cost.mean(axis=0), budget) for budget in costs]
    rows = np.arange(len(table.graded))
    choices = [(table.graded.correct[rows, column], cost[rows, column]) for column in chosen]
    found = against_mixture(choices, table.graded, cost, seed)
    shares = [_compute_shares(table.graded, column) for column in chosen]
    targets = {
        f"{round(100 * t)}": cost_at(curve, ends.weak_accuracy + t * ends.gain) for t in TARGETS
    }
    first = len(BUDGETS)
    return {
        "apgr": apgr(x, pgr),
        "cost_at_pgr": targets,
        "at_budget": [
            {"budget": budget, "share": share, "shares": answered, **comparison}
            for budget, share, answered, comparison in zip(
                budgets, BUDGETS, shares[:first], found[:first], strict=True
            )
        ],
        "at_hull": [
            {
                "kind": place.kind,
                "arms": [names[column] for column in place.arms],
                "budget": place.cost,
                "shares": answered,
                **comparison,
            }
            for place, answered, comparison in zip(
                places, shares[first:], found[first:], strict=True
            )
        ],
    }


def _judge_policy(routed: Routed, table: ReplayTable, seed: int) -> Document:
    (found,) = against_mixture([(routed.correct, routed.cost)], table.graded, table.cost, seed)
    return {
        **found,
        "shares": _compute_shares(table.graded, routed.chosen),
        "mean_hops": float(routed.hops.mean()),
        "rules": routed.rules,
        "notes": list(routed.notes),
    }
