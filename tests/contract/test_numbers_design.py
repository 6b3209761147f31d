"""The numbers of the tables and figures of a design's report, on made samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from etui.arm import Arm
from etui.bench.config import RunConfig
from etui.bench.machines import describe_machine
from etui.bench.sample import Sample
from etui.curves.operating_curve import Conditions, OperatingCurve, PhaseCurve, Speed
from etui.design.analysis import DesignAnalysis, analyse, analyse_kinds
from etui.design.price import (
    ArmEvidence,
    Slopes,
    count_most_output,
    count_questions_within,
    fit_slopes,
    price_arm,
    price_design,
)
from etui.log.past_answers import PastAnswer
from tests.contract.numbers import check_numbers
from tests.design import synthetic
from tests.design.synthetic import Truth

SMALL, LARGE = synthetic.ROLES.values()
CURVES = {SMALL: synthetic.points(), LARGE: synthetic.points(size=2.9, seed=1)}
FEW = {
    "small-direct": Truth(0.4, 10.0, 4),
    "small-cot-64": Truth(0.5, 60.0, 60),
    "small-vote-3": Truth(0.45, 70.0, 150),
    "large-direct": Truth(0.6, 30.0, 4),
}


def figures(*runs: DesignAnalysis) -> list[dict[str, Any]]:
    """The figures of every part of a run: arms, multiples and curves."""
    return [
        {
            "machine": found.machine,
            "questions": len(found.paired),
            "kind": found.kind,
            "arms": found.arms,
            "multiples": found.multiples,
            "curves": found.curves,
            "lengths": [curve.means for curve in found.curves],
            "fitted": [
                (curve.joules(mean.computed, mean.output),
                 curve.joules(mean.computed, mean.output, bend=False))
                for curve in found.curves
                for mean in curve.means
            ],
        }
        for found in runs
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["counter", "estimate", None])
def test_the_figures_of_a_small_run(kind: str | None) -> None:
    run = synthetic.config(FEW, 1)
    rows = synthetic.samples(run, FEW, kind=kind)
    found = analyse(run, rows, CURVES, synthetic.ROLES)
    check_numbers(f"design-{kind}", figures(found))


def test_the_figures_of_two_machines() -> None:
    run: RunConfig = synthetic.config(FEW, 1)
    machines = tuple(
        describe_machine(replace(run, machine={"name": name, "memory_bytes": 8 << 30}), f"m{at}")
        for at, name in enumerate(("A processor, 4 CPUs", "Another one, 8 CPUs"))
    )
    rows: list[Sample] = [
        replace(row, machine=f"m{at // len(FEW) % 2}")
        for at, row in enumerate(synthetic.samples(run, FEW, kind="counter"))
    ]
    run = replace(run, machines=machines)
    check_numbers(
        "design-machines", figures(*analyse_kinds(run, rows, lambda keys: {}, synthetic.ROLES))
    )


def test_the_figures_of_the_shipped_design() -> None:
    run = synthetic.config(per_subject=1)
    found = analyse(run, synthetic.samples(run), CURVES, synthetic.ROLES)
    check_numbers("design-seed", figures(found))


def test_the_price_of_a_design() -> None:
    curve = OperatingCurve(
        "id", "now", "m", "ab", Conditions("here", "build", 2), "counter", "calibration",
        PhaseCurve(1.0, 0.1, 0.0, n=9, band=0.1), PhaseCurve(2.0, 0.5, 0.001, n=9, band=0.1),
        meter_share=0.05, speed=Speed(100.0, 10.0),
    )  # fmt: skip
    answers = tuple(
        PastAnswer(5.0 + 0.4 * at, 0.5, 1.0 + 0.1 * at, 90.0 + 7 * at, 10 + at, "counter")
        for at in range(9)
    )
    arms = (
        Arm("direct", "m", max_tokens=10),
        Arm("cot", "m", "cot", think_tokens=30, max_tokens=10),
        Arm("vote", "m", "vote", think_tokens=30, max_tokens=10, votes=3, batch=1),
    )
    slopes = fit_slopes(answers, None)
    found: dict[str, Any] = {"slopes": slopes, "of curve": fit_slopes((), curve)}
    for arm in arms:
        found[arm.name] = {
            "most": count_most_output(arm),
            "answers": price_arm(arm, "small", ArmEvidence(answers=answers), 100, 110.0, slopes),
            "curve": price_arm(arm, "small", ArmEvidence(curve=curve), 100, 110.0, Slopes()),
            "nothing": price_arm(arm, "small", ArmEvidence(), 100, 110.0, Slopes()),
        }
    price = price_design(100, [found[arm.name]["answers"] for arm in arms], (60.0, 900.0))
    found["design"] = price
    found["within"] = [count_questions_within(price, seconds, 0.2, 8) for seconds in (9, 300, 4e4)]
    check_numbers("design-price", found)
