"""Simulated sweeps with known costs: intervals hold, and equal settings are not told apart.

``python -m benchmarks.sweep`` counts the same over 200 sweeps of each machine.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from etui.sweep.analysis import analyse
from etui.sweep.blocks import PhaseCost, Visit
from etui.sweep.config import Setting, SweepDesign
from etui.sweep.race import measure_blocks
from etui.sweep.result import SweepResult
from tests.support.sweep_rig import MACHINES, SimulatedMachine, SimulatedRig, draw_noise

SWEEPS = 60

pytestmark = pytest.mark.slow


class UnevenRig(SimulatedRig):
    """Adds skewed noise of 1 % and outliers of 20 % to the visits of a machine that drifts."""

    def visit(self, setting: Setting, copy: int) -> Visit:
        visit = SimulatedRig.visit(self, setting, copy)
        log = 0.01 * (self._rng.gammavariate(2, 1) - 2) / math.sqrt(2)
        if self._rng.random() < 0.03:
            log += math.log(1.2)

        def scale(phase: PhaseCost) -> PhaseCost:
            factor = math.exp(log)
            return replace(phase, joules=phase.joules * factor, seconds=phase.seconds * factor)

        return replace(visit, prefill=scale(visit.prefill), decode=scale(visit.decode))


def simulate(kind: str) -> Iterator[tuple[SimulatedMachine, SweepResult]]:
    """Sweep machines with 2 to 16 settings, 4 to 12 confirming blocks, and noise of all kinds."""
    for seed in range(SWEEPS):
        rng = random.Random(f"{kind} {seed}")
        machine = MACHINES[kind](rng)
        baseline, *others = machine.settings
        kept = [baseline, *rng.sample(others, min(len(others), rng.randint(1, 15)))]
        machine = replace(machine, costs={one: machine.costs[one] for one in kept})
        rig = UnevenRig(machine, replace(draw_noise(rng), outliers=0.0), seed)
        design = SweepDesign(
            machine.settings,
            seed=seed,
            race_rounds=rng.choice((2, 3, 5)),
            confirm_blocks=rng.choice((4, 6, 8, 10, 12)),
        )
        blocks = list(measure_blocks(design, rig.visit, (), clock=rig.clock, sleep=rig.sleep))
        yield machine, analyse(design, blocks)


@pytest.mark.parametrize("kind", ["threads", "caps", "speculation", "joint"])
def test_intervals_of_claims_hold_the_truth(kind):
    claims: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for machine, result in simulate(kind):
        baseline = machine.cost(result.baseline)
        for one in result.settings[1:]:
            cost = machine.cost(one.setting)
            for difference, truth in (
                (one.joules_difference, cost.joules / baseline.joules),
                (one.seconds_difference, cost.seconds / baseline.seconds),
            ):
                if difference is not None and difference.is_claimed:
                    claims[one.stage] += 1
                    held[one.stage] += difference.low <= 100 * (truth - 1) <= difference.high
    for stage in ("race", "confirm"):
        assert claims[stage] > 2 * SWEEPS
        assert held[stage] / claims[stage] >= 0.93


def test_equal_settings_are_rarely_told_apart():
    """At most 5 % of the sweeps may make any false claim, of settings, effects, interactions."""
    false = 0
    for _, result in simulate("flat"):
        differences = [
            *(one.joules_difference for one in result.settings),
            *(one.seconds_difference for one in result.settings),
            *(one.joules for one in result.effects),
            *(one.seconds for one in result.effects),
            *(one.joules for one in result.interactions),
        ]
        false += any(one is not None and one.is_claimed for one in differences)
    assert false <= 0.05 * SWEEPS
