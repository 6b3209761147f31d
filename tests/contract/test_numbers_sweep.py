"""Effects, floors, intervals, choices and verdicts of sweeps, on recorded visits."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from etui.sweep.analysis import analyse, compare_accuracies
from etui.sweep.apply import choose_setting
from etui.sweep.config import Goal, SweepDesign
from etui.sweep.document import build_energy_record
from etui.sweep.race import (
    choose_best,
    estimate_seconds_left,
    follow,
    measure_blocks,
)
from etui.sweep.result import SweepResult, find_claimed_change, find_improvement, is_best_claimed
from etui.sweep.verdict import format_verdict
from tests.contract.numbers import check_numbers
from tests.support.sweep_rig import MACHINES, SimulatedRig, draw_noise
from tests.sweep import results
from tests.sweep.measured import Measured, grid, list_drops, list_remaining, next_block, unmeasure

LEFT_OUT = {"interactions", "notes"}


def figures(result: SweepResult) -> dict[str, Any]:
    """All of a result but the interactions and the notes about them."""
    names = [field.name for field in fields(result) if field.name not in LEFT_OUT]
    return {name: getattr(result, name) for name in names}


def everything(design: SweepDesign, blocks: list[Any]) -> dict[str, Any]:
    """All that a sweep concludes from its blocks."""
    result = analyse(design, blocks)
    return {
        "result": figures(result),
        "best": choose_best(design, blocks),
        "claimed": is_best_claimed(result),
        "changes": [find_claimed_change(one, design.goal) for one in result.settings[1:]],
        "improvement": find_improvement(result.settings, design.goal),
        "verdict": format_verdict(result),
        "applied": choose_setting(result, design.goal),
        "drops": list_drops(design, blocks),
        "remaining": [one.key for one in list_remaining(design, blocks)],
        "next": next_block(design, blocks),
        "left": estimate_seconds_left(follow(design, blocks), 12.5),
    }


@pytest.mark.parametrize("kind", MACHINES)
def test_a_simulated_machine(kind: str) -> None:
    rng = random.Random(f"numbers {kind}")
    machine, noise = MACHINES[kind](rng), draw_noise(rng)
    design = SweepDesign(machine.settings[:12], seed=4, race_rounds=3)
    rig = SimulatedRig(machine, noise, 4)
    blocks = list(measure_blocks(design, rig.visit, (), clock=rig.clock, sleep=rig.sleep))
    found = {"whole": everything(design, blocks)}
    found["begun"] = everything(design, blocks[:8])
    check_numbers(f"sweep-{kind}", found)


JOULES = {1: 10.0, 2: 9.8, 3: 10.4, 4: 14.0}
SECONDS = {1: 4.0, 2: 4.04, 3: 3.76, 4: 3.9}
GOALS = {
    "joules": Goal(), "time": Goal("time"), "product": Goal("joules*time"),
    "within 5": Goal("joules", 5.0), "within 2": Goal("joules", 2.0),
}  # fmt: skip


@pytest.mark.parametrize("goal", GOALS)
def test_every_goal(goal: str) -> None:
    settings = grid(threads=(1, 2, 3, 4), kv_type=("f16", "q8_0"))

    def cost(one: Any, plan: Any) -> tuple[float, float]:
        more = 1.03 if one.get("kv_type") == "q8_0" else 1.0
        return JOULES[one.get("threads")] * more, SECONDS[one.get("threads")]

    design = SweepDesign(settings, GOALS[goal], seed=2, race_rounds=2)
    blocks = Measured(cost, noise=0.004, drift=0.03, seed=2, meter=0.01).blocks(design)
    check_numbers(f"sweep-goal-{goal.replace(' ', '-')}", everything(design, blocks))


def test_unmeasured_failing_and_unhalved() -> None:
    settings = grid(threads=(1, 2, 3, 4))

    def cost(one: Any, plan: Any) -> tuple[float, float]:
        return JOULES[one.get("threads")], SECONDS[one.get("threads")]

    found = {}
    design = SweepDesign(settings, Goal("time"), seed=1, race_rounds=2, confirm_blocks=4)
    rig = Measured(cost, noise=0.004, seed=1, change=unmeasure)
    found["unmeasured"] = everything(design, rig.blocks(design))
    failing = Measured(cost, noise=0.004, seed=1, failing={"threads=3": "out of memory"})
    found["failing"] = everything(design, failing.blocks(design))
    whole = SweepDesign(settings, seed=1, race_rounds=2, halving=False, confirm_blocks=0)
    found["unhalved"] = everything(whole, Measured(cost, noise=0.004).blocks(whole))
    check_numbers("sweep-cases", found)


def test_accuracies_of_settings() -> None:
    def draw(seed: int, share: float) -> list[bool]:
        return [bool(one) for one in np.random.default_rng(seed).random(120) < share]

    answers = {"a": draw(1, 0.6), "b": draw(2, 0.55), "c": draw(3, 0.7), "e": draw(1, 0.6)}
    settings = grid(threads=(1, 2), kv_type=("f16", "q4_0"))
    design = SweepDesign(settings, halving=False, race_rounds=2, confirm_blocks=4)
    rig = Measured(lambda one, plan: (JOULES[one.get("threads")], 2.0), noise=0.004)
    keys = [one.key for one in settings]
    given = {keys[0]: answers["a"], keys[1]: answers["b"]}
    measured_as = {keys[2]: keys[0], keys[3]: keys[1]}
    result = analyse(design, rig.blocks(design), given, measured_as)
    found = {
        "compared": compare_accuracies(["a", "b", "c", "d", "e"], answers, {"d": "c"}, seed=0),
        "result": figures(result),
    }
    check_numbers("sweep-accuracies", found)


@pytest.mark.parametrize("make", [results.sixteen_settings, results.unmeasured])
def test_the_energy_record_of_a_sweep(make: Callable[[], results.Sweep]) -> None:
    sweep = make()
    record = build_energy_record(sweep.config, sweep.result, sweep.blocks)
    check_numbers(f"sweep-record-{make.__name__.replace('_', '-')}", record)
