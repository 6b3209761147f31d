"""Points over the mixture of the hull on a ladder of simulated arms, by router.

Run ``python -m benchmarks.ladder --outcomes FILE --data DIR [--json]`` with a table of
two real arms. The simulated arms answer the same questions. Their chance of a right answer is an
item-response curve over a difficulty of two parts: what the text explains, which is taken from
held-out predictions for the two real arms (the shared part and the difference of the two), and a
residual that no text tells, as large as it takes for two arms of the real accuracies to be right
together as often as the real ones are. Routers are cross-fitted on the simulated answers alone.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from etui.learning.cross_fit import cross_fit
from etui.learning.graded import Graded
from etui.learning.judge import against_mixture, choose_within, compute_curve, list_hull_places
from etui.learning.outcomes import read_table, read_texts
from etui.learning.regressions import logits

LADDER = "0.533=1,0.653=3,0.779=8,0.867=30"
COSTS = (4.0, 8.2, 15.3, 22.3)
GUESS = 0.15
"""Share of right answers on questions that are far too hard."""


def explain_by_text(graded: Graded, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the text says of each question: ease in logits, lead of the better arm."""
    p = cross_fit(graded, routers=("joint",), seed=seed)["joint"]
    order = np.argsort(graded.correct.mean(axis=0))
    p = p[:, [order[0], order[-1]]]
    ease, lead = logits(p).mean(axis=1), logits(p) @ (-1.0, 1.0)
    return ease - ease.mean(), lead - lead.mean()


def chances(
    accuracies: Sequence[float],
    ease: np.ndarray,
    lead: np.ndarray,
    residual: np.ndarray,
    sharpness: Sequence[float],
) -> np.ndarray:
    """Compute P(right), shape (questions, arms), with the mean of each arm as asked."""
    ranks = np.linspace(-1.0, 1.0, len(accuracies)) if len(accuracies) > 1 else np.zeros(1)
    # A residual flattens the curve of what the text explains; this restores its spread.
    stretch = np.sqrt(1 + 0.346 * residual.var()) / (1 - GUESS)
    found = []
    for accuracy, rank, own in zip(accuracies, ranks, sharpness, strict=True):
        slope = own * (stretch * ease + residual) + rank * stretch * lead
        low, high = -40.0, 40.0
        for _ in range(60):
            ability = (low + high) / 2
            p = GUESS + (1 - GUESS) / (1 + np.exp(-(slope + ability)))
            low, high = (ability, high) if p.mean() < accuracy else (low, ability)
        found.append(p)
    return np.column_stack(found)


def simulate(
    graded: Graded, accuracies: Sequence[float], seed: int
) -> tuple[Graded, dict[str, float]]:
    """Draw the answers of a ladder of arms; also returns the correlations real and simulated."""
    ease, lead = explain_by_text(graded, seed)
    draw = np.random.default_rng(seed)
    unit = draw.normal(0, 1, len(graded))
    real = sorted(graded.correct.mean(axis=0).tolist())
    together = float(graded.correct.all(axis=1).mean())
    low, high = 0.0, 12.0
    for _ in range(40):
        width = (low + high) / 2
        p = chances(real, ease, lead, width * unit, (1.0, 1.0))
        low, high = (width, high) if float(p.prod(axis=1).mean()) < together else (low, width)
    sharpness = draw.uniform(0.8, 1.2, len(accuracies))
    p = chances(accuracies, ease, lead, width * unit, sharpness.tolist())
    correct = draw.random(p.shape) < p
    names = tuple(f"arm{at}" for at in range(len(accuracies)))
    table = Graded(names, graded.subjects, graded.rows, graded.questions, correct)
    facts = {
        "residual": width,
        "real_phi": float(np.corrcoef(graded.correct.T.astype(float))[0, 1]),
        "simulated_phi": float(np.corrcoef(correct.T.astype(float))[0, 1]),
        "cheapest_right": float(correct.any(axis=1).mean()),
    }
    return table, facts


def write(table: Graded, path: Path) -> None:
    """Write a table of outcomes, for `etui policy replay --outcomes`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "row", *table.arms])
        for subject, row, right in zip(
            table.subjects, table.rows, table.correct.astype(int).tolist(), strict=True
        ):
            writer.writerow([subject, row, *right])


def judge_ladder(
    table: Graded, cost: np.ndarray, routers: dict[str, np.ndarray], costs: Sequence[float]
) -> dict[str, list[dict[str, float]]]:
    """Judge every router at every cost against the mixture of the hull."""
    expected = cost.mean(axis=0)
    rows = np.arange(len(table))
    found = {}
    for name, p in routers.items():
        curve = compute_curve(p, expected, table.correct, cost)
        chosen = [choose_within(p, curve, expected, budget) for budget in costs]
        choices = [(table.correct[rows, each], cost[rows, each]) for each in chosen]
        judged = against_mixture(choices, table, cost, 0)
        found[name] = [
            {
                "budget": float(budget),
                "cost": row["cost"],
                "accuracy": row["accuracy"],
                "points": 100 * row["difference"]["value"],
                "low": 100 * (row["difference"]["low"] or 0.0),
                "high": 100 * (row["difference"]["high"] or 0.0),
                "saved": float("nan") if row["saved"] is None else row["saved"]["value"],
            }
            for budget, row in zip(costs, judged, strict=True)
        ]
    return found


def main() -> None:
    """Simulate, fit, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=Path, required=True, help="table of two real arms")
    parser.add_argument("--data", type=Path, required=True, help="folder of the MMLU files")
    parser.add_argument("--ladder", default=LADDER, help="ACCURACY=COST,... of the arms")
    parser.add_argument("--costs", default=",".join(map(str, COSTS)), help="or `hull`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hide-subjects", action="store_true")
    parser.add_argument("--write", type=Path, help="write the simulated table here, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    steps = [tuple(map(float, part.split("="))) for part in options.ladder.split(",")]
    texts = read_texts(options.data, "test")
    graded = read_table(options.outcomes, texts, complete=True).graded
    table, facts = simulate(graded, [accuracy for accuracy, _ in steps], options.seed)
    if options.write is not None:
        write(table, options.write)
        return
    cost = np.tile([price for _, price in steps], (len(table), 1))
    if options.costs == "hull":
        right = table.correct.mean(axis=0).tolist()
        costs = [place.cost for place in list_hull_places(cost[0].tolist(), right)][1:]
    else:
        costs = [float(part) for part in options.costs.split(",")]
    routers = cross_fit(
        table,
        hide_subjects=options.hide_subjects,
        seed=options.seed,
    )
    found = judge_ladder(table, cost, routers, costs)
    if options.json:
        print(json.dumps({**facts, "routers": found}, indent=2))
        return
    print(f"{len(table):,} questions; " + "; ".join(f"{k} {v:.3f}" for k, v in facts.items()))
    accuracies = ", ".join(f"{share:.1%}" for share in table.correct.mean(axis=0))
    print(f"arms: {accuracies} at cost {', '.join(f'{c:g}' for c in cost[0])}")
    print(f"{'points over the mixture, and saved':12}")
    print(f"{'':10}" + "".join(f"{f'at {budget:.3g}':>28}" for budget in costs))
    for name, rows in found.items():
        cells = [
            f"{row['points']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] {row['saved']:4.0%}"
            for row in rows
        ]
        print(f"{name:10}" + "".join(f"{cell:>28}" for cell in cells))


if __name__ == "__main__":
    main()
