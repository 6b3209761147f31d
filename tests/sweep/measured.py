"""Blocks of a sweep whose costs are known, as its design plans them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from etui.sweep.blocks import Block, BlockPlan, Failure, PhaseCost, Visit
from etui.sweep.config import Setting, SweepDesign
from etui.sweep.race import Drop, follow, measure_blocks, plan_next
from tests.support.sweep_rig import (
    QUIET,
    SimulatedMachine,
    SimulatedNoise,
    SimulatedRig,
    TrueCost,
)


def next_block(design: SweepDesign, blocks: Sequence[Block]) -> BlockPlan | None:
    return plan_next(follow(design, blocks))


def list_drops(design: SweepDesign, blocks: Sequence[Block]) -> tuple[Drop, ...]:
    return follow(design, blocks).drops


def list_remaining(design: SweepDesign, blocks: Sequence[Block]) -> tuple[Setting, ...]:
    left = follow(design, blocks).remaining
    return tuple(one for one in design.settings if one.key in left)


Cost = tuple[float, float]
"""Joules and seconds of one answer."""


def setting(**values: str | int | float) -> Setting:
    """Make a setting; its axes in the order given."""
    return Setting(tuple(values.items()))  # type: ignore[arg-type]


def grid(**axes: Sequence[str | int]) -> tuple[Setting, ...]:
    """Make all combinations; the first one is the baseline."""
    combinations = product(*axes.values())
    return tuple(setting(**dict(zip(axes, values, strict=True))) for values in combinations)


@dataclass
class Measured:
    """Measures settings without a machine.

    Attributes:
        cost: Setting and plan of the block -> joules and seconds.
        noise: Standard deviation of the log of both, drawn for each separately.
        drift: Standard deviation of the log that a block's visits share.
        change: Changes a finished visit.
        failing: Key -> why it cannot run.
        meter: Half width of the meter, as a share of the joules.
    """

    cost: Callable[[Setting, BlockPlan], Cost]
    noise: float = 0.0
    drift: float = 0.0
    seed: int = 0
    change: Callable[[Visit, BlockPlan], Visit] = lambda visit, plan: visit
    failing: dict[str, str] = field(default_factory=dict)
    meter: float = 0.0

    def blocks(self, design: SweepDesign, most: int | None = None) -> list[Block]:
        """Measure the blocks of a design, all or the first few."""
        found: list[Block] = []
        settings = {one.key: one for one in design.settings}
        rng = random.Random(self.seed)
        while len(found) != most and (plan := next_block(design, found)) is not None:
            shared = rng.gauss(0, self.drift)
            visits, failures = [], []
            for key, copy in plan.order:
                if key in self.failing:
                    failures.append(Failure(key, self.failing[key]))
                    continue
                joules, seconds = self.cost(settings[key], plan)
                joules *= math.exp(shared + rng.gauss(0, self.noise))
                seconds *= math.exp(shared + rng.gauss(0, self.noise))
                visit = self.visit(key, copy, joules, seconds)
                visits.append(self.change(visit, plan))
            found.append(Block(plan.number, plan.stage, tuple(visits), tuple(failures), (), 60.0))
        return found

    def visit(self, key: str, copy: int, joules: float, seconds: float) -> Visit:
        """Make a visit: a quarter of the cost is the prefill of 100 tokens, the rest 50 drawn."""
        return Visit(
            key,
            copy,
            answers=3,
            prefill=PhaseCost(100.0, joules / 4, self.meter * joules / 4, seconds / 4),
            decode=PhaseCost(50.0, joules * 3 / 4, self.meter * joules * 3 / 4, seconds * 3 / 4),
            start_ns=0,
            end_ns=round(seconds * 1e9),
            kind="counter",
        )


def unmeasure(visit: Visit, plan: BlockPlan) -> Visit:
    """Remove the joules of a visit."""
    return replace(
        visit,
        prefill=replace(visit.prefill, joules=None, uncertainty=None),
        decode=replace(visit.decode, joules=None, uncertainty=None),
        kind=None,
    )


def machine_of(joules: Sequence[float], seconds: Sequence[float] = ()) -> SimulatedMachine:
    """Make a machine whose settings threads=1.. take these joules and seconds (1 by default)."""
    costs = zip(
        grid(threads=range(1, len(joules) + 1)), joules, seconds or [1.0] * len(joules), strict=True
    )
    return SimulatedMachine(
        "given", {s: TrueCost(j / 5, t / 5, 0.8 * j, 0.8 * t) for s, j, t in costs}
    )


def run_sweep(
    machine: SimulatedMachine,
    noise: SimulatedNoise = QUIET,
    seed: int = 0,
    failing: Mapping[str, str] = MappingProxyType({}),
    unmeasured: Sequence[str] = (),
    **design: Any,
) -> tuple[SweepDesign, list[Block], SimulatedRig]:
    """Measure a simulated machine to the end of the sweep."""
    planned = SweepDesign(machine.settings, seed=seed, **design)
    rig = SimulatedRig(machine, noise, seed, failing, frozenset(unmeasured))
    blocks = list(measure_blocks(planned, rig.visit, (), clock=rig.clock, sleep=rig.sleep))
    return planned, blocks, rig
