"""Judges single arms, routers and policies over one table of answers: the document of a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.bench.analysis.oracle import cheapest_correct
from etui.replay.documents import (
    JudgedPolicy,
    McNemar,
    OracleFigures,
    ReplayDocument,
    Router,
    RouterChoice,
    RouterEnergy,
    SecondRun,
    SingleArm,
    Spread,
)
from etui.replay.policy_replay import Routed
from etui.replay.router_curve import (
    Ends,
    RouterCurve,
    accuracy_at,
    apgr,
    apgr_interval,
    choices_at,
    cost_at,
    cost_for,
    curve_of,
    ends_of,
    gain_curve,
    oracle_curve,
)
from etui.routing.accuracy.metrics import calibration_error
from etui.stats.bootstrap import interval_of, resampled_means
from etui.stats.frontier import hull, mixture_accuracies, mixture_costs
from etui.stats.tests import Interval, mcnemar, wilson

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
    from etui.stats.arrays import Flags, Floats

TARGETS = (0.5, 0.8, 0.95)
BUDGETS = (0.25, 0.5, 0.75)
_CURVE_POINTS = 101
_NO_ROUTER: Router = {"apgr": None, "ece": {}, "curve": []}


@dataclass(frozen=True, slots=True)
class Table:
    """What a replay judges.

    Attributes:
        graded: The answers.
        cost: Cost of each answer, (questions, arms).
        unit: ``J``, or empty for stated costs.
        kinds: How joules were measured.
        repeats: The same questions answered once more; None without.
    """

    graded: Graded
    cost: Floats
    unit: str = ""
    kinds: tuple[str, ...] = ()
    repeats: Graded | None = None


def judge(
    table: Table,
    routers: Mapping[str, Floats],
    policies: Sequence[Routed] = (),
    seed: int = 0,
) -> ReplayDocument:
    """The whole document: plain JSON values.

    Args:
        table: The answers and their costs.
        routers: Router -> cross-fitted probability that each arm is right; the last is the best.
        policies: What policies did with the same questions.
        seed: Of the bootstrap.
    """
    graded, cost = table.graded, table.cost
    ends = ends_of(graded.correct, cost)
    judged = {name: _router(p, table, ends, seed) for name, p in routers.items()}
    best = list(routers)[-1] if routers else None
    chosen = judged.get(best, _NO_ROUTER) if best is not None else _NO_ROUTER
    names = graded.arms
    points = dict(
        enumerate(zip(cost.mean(0).tolist(), graded.correct.mean(0).tolist(), strict=True))
    )
    return {
        "n": len(graded),
        "unit": table.unit or "cost",
        "kinds": list(table.kinds),
        "arms": {name: _arm(table, at) for at, name in enumerate(names)},
        "weak": names[ends.weak],
        "strong": names[ends.strong],
        "hull": [
            {"arm": names[at], "cost": points[at][0], "accuracy": points[at][1]}
            for at in hull(points)
        ],
        "random": {"apgr": 0.5, "cpt50": 0.5, "cpt80": 0.8, "cpt95": 0.95},
        "oracle": _oracle(table, ends),
        "router": best,
        "apgr": chosen.get("apgr"),
        "apgr_interval": chosen.get("apgr_interval"),
        "cpt50": chosen.get("cpt50"),
        "cpt80": chosen.get("cpt80"),
        "cpt95": chosen.get("cpt95"),
        "energy": chosen.get("energy"),
        "routers": judged,
        "policies": {routed.name: _policy(routed, table, seed) for routed in policies},
    }


def _arm(table: Table, at: int) -> SingleArm:
    right, cost = table.graded.correct[:, at], float(table.cost[:, at].mean())
    share = wilson(int(right.sum()), len(right))
    assert share.low is not None
    assert share.high is not None
    return {
        "accuracy": share.value,
        "accuracy_interval": [share.low, share.high],
        "cost": cost,
        "cost_per_correct": cost / share.value if share.value else None,
    }


def _oracle(table: Table, ends: Ends) -> OracleFigures:
    import numpy as np

    graded, cost = table.graded, table.cost
    taken = cheapest_correct(graded.correct, cost)
    rows = np.arange(len(graded))
    again: SecondRun | None = None
    if table.repeats is not None:
        again = {
            "accuracy": float(table.repeats.correct[rows, taken].mean()),
            "cost": float(cost[rows, taken].mean()),
        }
    area = None
    if ends.gain > 0:
        area = apgr(*gain_curve(oracle_curve(graded.correct, cost), ends))
    return {
        "accuracy": float(graded.correct.any(axis=1).mean()),
        "cost": float(cost[rows, taken].mean()),
        "shares": _shares(graded, taken),
        "apgr": area,
        "reproducible": again,
    }


def _shares(graded: Graded, taken: Any) -> dict[str, float]:
    import numpy as np

    counts = np.bincount(taken, minlength=len(graded.arms)) / max(1, len(taken))
    return {name: float(counts[at]) for at, name in enumerate(graded.arms)}


def _router(p: Floats, table: Table, ends: Ends, seed: int) -> Router:
    import numpy as np

    graded, cost = table.graded, table.cost
    expected = cost.mean(axis=0)
    curve = curve_of(p, expected, graded.correct, cost)
    ece = {
        name: calibration_error(p[:, at], graded.correct[:, at])
        for at, name in enumerate(graded.arms)
    }
    grid = np.linspace(float(curve.cost[0]), float(curve.cost[-1]), _CURVE_POINTS)
    points = [[float(c), accuracy_at(curve, float(c))] for c in grid]
    if ends.gain <= 0:
        return {"apgr": None, "ece": ece, "curve": points}
    x, pgr = gain_curve(*(_calls(p, table, ends) if p.shape[1] == 2 else (curve, ends)))
    half, most, nearly_all = (cost_for(x, pgr, target) for target in TARGETS)
    return {
        "apgr": apgr(x, pgr),
        "ece": ece,
        "apgr_interval": _area_interval(p, table, ends, seed),
        "cpt50": half,
        "cpt80": most,
        "cpt95": nearly_all,
        "energy": _energy(p, curve, table, ends, seed),
        "curve": points,
    }


def _calls(p: Floats, table: Table, ends: Ends) -> tuple[RouterCurve, Ends]:
    """The curve over the share of calls that the strong one of two arms gets."""
    import numpy as np

    calls = np.zeros(table.cost.shape)
    calls[:, ends.strong] = 1.0
    curve = curve_of(p, calls.mean(axis=0), table.graded.correct, calls)
    return curve, Ends(ends.weak, ends.strong, 0.0, 1.0, ends.weak_accuracy, ends.strong_accuracy)


def _area_interval(p: Floats, table: Table, ends: Ends, seed: int) -> list[float | None] | None:
    if p.shape[1] != 2:
        return None
    right = table.graded.correct
    score = p[:, ends.strong] - p[:, ends.weak]
    found = apgr_interval(score, right[:, ends.weak], right[:, ends.strong], seed)
    return [found.low, found.high]


def _energy(p: Floats, curve: RouterCurve, table: Table, ends: Ends, seed: int) -> RouterEnergy:
    """The same over cost, and at fixed budgets against the random mixture of equal cost."""
    import numpy as np

    x, pgr = gain_curve(curve, ends)
    expected, rows = table.cost.mean(axis=0), np.arange(len(table.graded))
    budgets, taken = [], []
    for share in BUDGETS:
        budget = ends.low + share * (ends.high - ends.low)
        within = np.flatnonzero(curve.cost <= budget + 1e-12)
        price = float(curve.price[within[-1]]) if len(within) else float("inf")
        taken.append(choices_at(p, expected, min(price, 1e300)))
        budgets.append(budget)
    choices = [(table.graded.correct[rows, at], table.cost[rows, at]) for at in taken]
    targets = {
        f"{round(100 * t)}": cost_at(curve, ends.weak_accuracy + t * ends.gain) for t in TARGETS
    }
    found = against_mixture(choices, table, seed)
    return {
        "apgr": apgr(x, pgr),
        "cost_at_pgr": targets,
        "at_budget": [
            {"budget": budget, "share": share, "shares": _shares(table.graded, at), **one}
            for budget, share, at, one in zip(budgets, BUDGETS, taken, found, strict=True)
        ],
    }


def against_mixture(
    choices: Sequence[tuple[Flags, Floats]], table: Table, seed: int
) -> list[RouterChoice]:
    """Choices against the best random mixture of the arms at the same cost, and accuracy.

    Args:
        choices: Of each way to choose, whether each question was right and what it cost.
    """
    import numpy as np

    arms = len(table.graded.arms)
    own = [part for right, cost in choices for part in (right, cost)]
    columns = np.column_stack([table.cost, table.graded.correct, *own]).astype(np.float64)
    replicates = resampled_means(columns, seed)
    return [
        _against(columns, replicates, arms, 2 * arms + 2 * at, mcnemar_of(right, table.graded))
        for at, (right, _) in enumerate(choices)
    ]


def _against(
    columns: Floats, replicates: Floats, arms: int, at: int, tests: dict[str, McNemar]
) -> RouterChoice:
    """One way to choose, whose accuracy and cost are columns ``at`` and ``at + 1``."""
    import numpy as np

    def mixed(means: Any) -> Any:
        return mixture_accuracies(means[:, :arms], means[:, arms : 2 * arms], means[:, at + 1])

    def saved(means: Any) -> Any:
        equal = mixture_costs(means[:, :arms], means[:, arms : 2 * arms], means[:, at])
        return np.where(np.isfinite(equal), 1 - means[:, at + 1] / equal, np.inf)

    mean = columns.mean(axis=0)[None, :]
    accuracy, spent = float(mean[0, at]), float(mean[0, at + 1])
    reached = bool(np.isfinite(saved(mean)[0]))
    difference = interval_of(columns, replicates, lambda means: means[:, at] - mixed(means))
    return {
        "accuracy": accuracy,
        "cost": spent,
        "cost_per_correct": spent / accuracy if accuracy else None,
        "mixture_accuracy": float(mixed(mean)[0]),
        "difference": _interval_json(difference),
        # None where no mixture is as accurate
        "saved": _interval_json(interval_of(columns, replicates, saved)) if reached else None,
        "mcnemar": tests,
    }


def _interval_json(found: Interval) -> Spread:
    """Write an interval as JSON values; every interval of a replay is of one method."""
    return {"value": found.value, "low": found.low, "high": found.high}


def mcnemar_of(right: Flags, graded: Graded) -> dict[str, McNemar]:
    """Against each single arm: questions just one of them got right, and the exact p-value."""
    return {
        name: {
            "only_this": (gained := int((right & ~other).sum())),
            "only_arm": (lost := int((other & ~right).sum())),
            "p_value": mcnemar(gained, lost),
        }
        for name, other in zip(graded.arms, graded.correct.T, strict=True)
    }


def _policy(routed: Routed, table: Table, seed: int) -> JudgedPolicy:
    (found,) = against_mixture([(routed.correct, routed.cost)], table, seed)
    return {
        **found,
        "shares": _shares(table.graded, routed.chosen),
        "mean_hops": float(routed.hops.mean()),
        "rules": routed.rules,
        "notes": list(routed.notes),
    }
