"""Points over the mixture of the hull on a ladder of arms made of two real ones, by router.

Run ``python -m benchmarks.ladder --outcomes FILE --data DIR [--seeds 0,1,2,3] [--json]`` with a
table of two real arms. Each arm of the ladder has the answers of the real one whose accuracy is the
nearest, of which as many right ones are lost at random, or wrong ones put right, as its own
accuracy takes. So what a text says of difficulty and of the lead of the better arm is that of real
answers, and comes from none of the routers that are judged. Routers are cross-fitted on the ladder
alone. A seed draws the answers, the folds and the trees; ``subject : joint`` is the share of the
gain of ``joint`` that rates by subject reach.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from etui.learning.graded import Graded
from etui.learning.judge import against_mixture, choose_within, compute_curve, list_hull_places
from etui.learning.outcomes import read_table, read_texts
from etui.learning.policy_replay import cross_fit

LADDER = "0.533=1,0.653=3,0.779=8,0.867=30"
COSTS = (4.0, 8.2, 15.3, 22.3)


def make_ladder(graded: Graded, accuracies: Sequence[float], seed: int) -> Graded:
    """Draw arms of the accuracies from the answers of the real arms."""
    draw = np.random.default_rng(seed)
    real = graded.correct.mean(axis=0)
    columns = []
    for accuracy in accuracies:
        at = int(np.abs(real - accuracy).argmin())
        own, luck = graded.correct[:, at], draw.random(len(graded))
        if accuracy <= real[at]:
            columns.append(own & (luck < accuracy / real[at]))
        else:
            columns.append(own | (luck < (accuracy - real[at]) / (1 - real[at])))
    names = tuple(f"arm{at}" for at in range(len(accuracies)))
    return replace(graded, arms=names, correct=np.column_stack(columns))


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
    table: Graded, prices: Sequence[float], routers: dict[str, np.ndarray], costs: Sequence[float]
) -> dict[str, list[dict[str, float]]]:
    """Judge every router at every cost against the mixture of the hull."""
    cost = np.tile(np.asarray(prices), (len(table), 1))
    expected, rows = cost.mean(axis=0), np.arange(len(table))
    found = {}
    for name, p in routers.items():
        curve = compute_curve(p, expected, table.correct, cost)
        chosen = [choose_within(p, curve, expected, budget) for budget in costs]
        choices = [(table.correct[rows, each], cost[rows, each]) for each in chosen]
        found[name] = [
            {
                "budget": float(budget),
                "points": 100 * row["difference"]["value"],
                "low": 100 * (row["difference"]["low"] or 0.0),
                "high": 100 * (row["difference"]["high"] or 0.0),
                "saved": float("nan") if row["saved"] is None else row["saved"]["value"],
            }
            for budget, row in zip(costs, against_mixture(choices, table, cost, 0), strict=True)
        ]
    return found


def summarise(
    judged: Sequence[dict[str, list[dict[str, float]]]], costs: Sequence[float]
) -> dict[str, list[dict[str, float]]]:
    """Average over the seeds; the interval is the mean of those of the questions."""
    return {
        name: [
            {
                "budget": float(budget),
                **{
                    key: float(np.mean([one[name][at][key] for one in judged]))
                    for key in ("points", "low", "high", "saved")
                },
                "least": min(one[name][at]["points"] for one in judged),
                "most": max(one[name][at]["points"] for one in judged),
            }
            for at, budget in enumerate(costs)
        ]
        for name in judged[0]
    }


def main() -> None:
    """Draw, fit, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=Path, required=True, help="table of two real arms")
    parser.add_argument("--data", type=Path, required=True, help="folder of the MMLU files")
    parser.add_argument("--ladder", default=LADDER, help="ACCURACY=COST,... of the arms")
    parser.add_argument("--costs", default=",".join(map(str, COSTS)), help="or `hull`")
    parser.add_argument("--seeds", default="0", help="by commas")
    parser.add_argument("--questions", type=int, help="draw so many of them")
    parser.add_argument("--hide-subjects", action="store_true")
    parser.add_argument("--write", type=Path, help="write the first ladder here, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    accuracies, prices = zip(
        *(map(float, part.split("=")) for part in options.ladder.split(",")), strict=True
    )
    graded = read_table(options.outcomes, read_texts(options.data, "test"), complete=True).graded
    seeds = [int(part) for part in options.seeds.split(",")]
    judged = []
    for seed in seeds:
        table = make_ladder(graded, accuracies, seed)
        if options.questions:
            order = np.random.default_rng(seed).permutation(len(table))
            table = table.take(order < options.questions)
        if options.write is not None:
            write(table, options.write)
            return
        right = table.correct.mean(axis=0).tolist()
        costs = (
            [place.cost for place in list_hull_places(prices, right)][1:]
            if options.costs == "hull"
            else [float(part) for part in options.costs.split(",")]
        )
        routers = cross_fit(table, hide_subjects=options.hide_subjects, seed=seed)
        judged.append(judge_ladder(table, prices, routers, costs))
    found = summarise(judged, costs)
    if options.json:
        print(json.dumps({"questions": len(table), "seeds": seeds, "routers": found}, indent=2))
        return
    print(f"{len(table):,} questions, seeds {options.seeds}; points over the mixture [95 % by")
    print("questions], least and most of the seeds")
    print(f"{'':10}" + "".join(f"{f'at {budget:.3g}':>36}" for budget in costs))
    for name, rows in found.items():
        cells = [
            f"{row['points']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] "
            f"{row['least']:+.2f}..{row['most']:+.2f}"
            for row in rows
        ]
        print(f"{name:10}" + "".join(f"{cell:>36}" for cell in cells))
    if {"subject", "joint"} <= set(found):
        shares = [
            f"{s['points'] / j['points']:.0%}"
            for s, j in zip(found["subject"], found["joint"], strict=True)
        ]
        print(f"{'subject : joint':16}" + "  ".join(shares))


if __name__ == "__main__":
    main()
