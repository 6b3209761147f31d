"""Judges single arms, routers and policies over one table of answers: the document of a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.bench.statistics import mcnemar, wilson
from etui.replay.mixture import mixture_accuracy, mixture_cost
from etui.replay.oracle import cheapest_correct, oracle_curve
from etui.replay.plane import (
    Curve,
    Ends,
    accuracy_at,
    apgr,
    choices_at,
    cost_at,
    cost_for,
    curve_of,
    ends_of,
    gain_curve,
    upper_hull,
)
from etui.replay.policy import Routed
from etui.replay.resample import apgr_interval, interval_of
from etui.routing.fit.quality import calibration_error

if TYPE_CHECKING:
    from etui.routing.fit.table import Flags, Floats, Graded

TARGETS = (0.5, 0.8, 0.95)
BUDGETS = (0.25, 0.5, 0.75)
_CURVE_POINTS = 101


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
) -> dict[str, Any]:
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
    chosen = judged[best] if best is not None else {}
    names = graded.arms
    points = [
        (float(c), float(a)) for c, a in zip(cost.mean(0), graded.correct.mean(0), strict=True)
    ]
    return {
        "n": len(graded),
        "unit": table.unit or "cost",
        "kinds": list(table.kinds),
        "arms": {name: _arm(table, at) for at, name in enumerate(names)},
        "weak": names[ends.weak],
        "strong": names[ends.strong],
        "hull": [
            {"arm": names[points.index(point)], "cost": point[0], "accuracy": point[1]}
            for point in upper_hull(points)
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


def _arm(table: Table, at: int) -> dict[str, Any]:
    right, cost = table.graded.correct[:, at], float(table.cost[:, at].mean())
    share = wilson(int(right.sum()), len(right))
    return {
        "accuracy": share.value,
        "accuracy_interval": [share.low, share.high],
        "cost": cost,
        "cost_per_correct": cost / share.value if share.value else None,
    }


def _oracle(table: Table, ends: Ends) -> dict[str, Any]:
    import numpy as np

    graded, cost = table.graded, table.cost
    taken = cheapest_correct(graded.correct, cost)
    rows = np.arange(len(graded))
    again = None
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


def _router(p: Floats, table: Table, ends: Ends, seed: int) -> dict[str, Any]:
    import numpy as np

    graded, cost = table.graded, table.cost
    expected = cost.mean(axis=0)
    curve = curve_of(p, expected, graded.correct, cost)
    found: dict[str, Any] = {
        "apgr": None,
        "ece": {
            name: calibration_error(p[:, at], graded.correct[:, at])
            for at, name in enumerate(graded.arms)
        },
    }
    if ends.gain > 0:
        x, pgr = gain_curve(*(_calls(p, table, ends) if p.shape[1] == 2 else (curve, ends)))
        found |= {"apgr": apgr(x, pgr), "apgr_interval": _area_interval(p, table, ends, seed)}
        found |= {f"cpt{round(100 * t)}": cost_for(x, pgr, t) for t in TARGETS}
        found["energy"] = _energy(p, curve, table, ends, seed)
    grid = np.linspace(float(curve.cost[0]), float(curve.cost[-1]), _CURVE_POINTS)
    found["curve"] = [[float(c), accuracy_at(curve, float(c))] for c in grid]
    return found


def _calls(p: Floats, table: Table, ends: Ends) -> tuple[Curve, Ends]:
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


def _energy(p: Floats, curve: Curve, table: Table, ends: Ends, seed: int) -> dict[str, Any]:
    """The same over cost, and at fixed budgets against the random mixture of equal cost."""
    x, pgr = gain_curve(curve, ends)
    width = ends.high - ends.low
    expected = table.cost.mean(axis=0)
    budgets = []
    for share in BUDGETS:
        budget = ends.low + share * width
        within = [at for at, cost in enumerate(curve.cost.tolist()) if cost <= budget + 1e-12]
        price = float(curve.price[within[-1]]) if within else float("inf")
        taken = choices_at(p, expected, min(price, 1e300))
        budgets.append({"budget": budget, "share": share} | _against(taken, table, seed))
    targets = {
        f"{round(100 * t)}": cost_at(curve, ends.weak_accuracy + t * ends.gain) for t in TARGETS
    }
    return {"apgr": apgr(x, pgr), "cost_at_pgr": targets, "at_budget": budgets}


def _against(taken: Any, table: Table, seed: int) -> dict[str, Any]:
    import numpy as np

    rows = np.arange(len(table.graded))
    right, cost = table.graded.correct[rows, taken], table.cost[rows, taken]
    found = against_mixture(right, cost, table, seed)
    strong = mcnemar_of(right, table.graded.correct)
    return found | {
        "shares": _shares(table.graded, taken),
        "mcnemar": dict(zip(table.graded.arms, strong, strict=True)),
    }


def against_mixture(right: Flags, cost: Floats, table: Table, seed: int) -> dict[str, Any]:
    """Choices against the best random mixture of the arms at the same cost, and accuracy."""
    import numpy as np

    arms = len(table.graded.arms)
    columns = np.column_stack([right, cost, table.cost, table.graded.correct]).astype(np.float64)

    def above(means: Any) -> Any:
        return means[:, 0] - mixture_accuracy(
            means[:, 2 : 2 + arms], means[:, 2 + arms :], means[:, 1]
        )

    def saved(means: Any) -> Any:
        mixed = mixture_cost(means[:, 2 : 2 + arms], means[:, 2 + arms :], means[:, 0])
        return np.where(np.isfinite(mixed), 1 - means[:, 1] / mixed, np.inf)

    mean = columns.mean(axis=0)[None, :]
    mixed = float(mixture_accuracy(mean[:, 2 : 2 + arms], mean[:, 2 + arms :], mean[:, 1])[0])
    accuracy, spent = float(mean[0, 0]), float(mean[0, 1])
    return {
        "accuracy": accuracy,
        "cost": spent,
        "cost_per_correct": spent / accuracy if accuracy else None,
        "mixture_accuracy": mixed,
        "difference": interval_of(columns, above, seed).to_json(),
        "saved": (
            interval_of(columns, saved, seed).to_json()
            if np.isfinite(saved(mean)[0])
            else None  # no mixture is as accurate
        ),
    }


def mcnemar_of(right: Flags, correct: Flags) -> list[dict[str, Any]]:
    """Against each single arm: questions just one of them got right, and the exact p-value."""
    return [
        {
            "only_this": (gained := int((right & ~other).sum())),
            "only_arm": (lost := int((other & ~right).sum())),
            "p_value": mcnemar(gained, lost),
        }
        for other in correct.T
    ]


def _policy(routed: Routed, table: Table, seed: int) -> dict[str, Any]:
    found = against_mixture(routed.correct, routed.cost, table, seed)
    tests = mcnemar_of(routed.correct, table.graded.correct)
    return found | {
        "shares": _shares(table.graded, routed.chosen),
        "mean_hops": float(routed.hops.mean()),
        "rules": routed.rules,
        "mcnemar": dict(zip(table.graded.arms, tests, strict=True)),
        "notes": list(routed.notes),
    }
