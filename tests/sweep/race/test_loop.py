"""The main loop: disturbed blocks, failures, interruptions and the callback."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from etui.errors import EtuiError, Stopped
from etui.measure.run import ATTEMPTS
from etui.sweep.blocks import Failure
from etui.sweep.config import Setting, SweepDesign
from etui.sweep.race import measure_blocks
from tests.support.sweep_rig import QUIET, SimulatedMachine, SimulatedRig, TrueCost
from tests.sweep.measured import next_block

SETTINGS = tuple(Setting((("threads", n),)) for n in (1, 2, 4))
DESIGN = SweepDesign(SETTINGS, floor_blocks=2, race_rounds=1, confirm_blocks=2)


def simulated(**options):
    costs = {s: TrueCost(1.0, 0.5, 10.0 - n, 2.0) for n, s in enumerate(SETTINGS)}
    return SimulatedRig(SimulatedMachine("given", costs), QUIET, **options)


@dataclass
class Script:
    """A rig whose visits are disturbed, or raise an error, at given numbers."""

    rig: SimulatedRig
    disturbed: dict[int, str] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    visited: list[tuple[str, int]] = field(default_factory=list)

    def visit(self, setting, copy):
        number = len(self.visited)
        self.visited.append((setting.key, copy))
        if number in self.errors:
            raise self.errors[number]
        return replace(self.rig.visit(setting, copy), disturbed=self.disturbed.get(number, ""))

    def measure(self, blocks=(), **options):
        return measure_blocks(
            DESIGN, self, blocks, clock=self.rig.clock, sleep=self.rig.sleep, **options
        )


def collect(blocks, done):
    """Append each block as soon as it is complete."""
    for block in blocks:
        done.append(block)


def test_all_blocks_are_measured_in_the_planned_order():
    script = Script(simulated())
    blocks = list(script.measure())
    assert len(blocks) == 6
    for at, block in enumerate(blocks):
        plan = next_block(DESIGN, blocks[:at])
        assert (block.number, block.stage) == (plan.number, plan.stage)
        assert [(visit.setting, visit.copy) for visit in block.visits] == list(plan.order)
    assert sum(block.seconds for block in blocks) == pytest.approx(script.rig.now_s)


def test_a_disturbed_block_is_measured_again_after_a_wait():
    script = Script(simulated(), disturbed={3: "a build uses the CPUs"})
    first, second, *_ = script.measure(wait_s=100.0)
    assert first.repeated == ()
    assert second.repeated == (f"{script.visited[3][0]}: a build uses the CPUs",)
    assert len(second.visits) == 2
    assert not any(visit.disturbed for visit in second.visits)
    assert second.seconds > 100
    assert script.visited[2:4] == script.visited[4:6]


def test_a_machine_that_stays_busy_stops_the_sweep():
    script = Script(simulated(), disturbed=dict.fromkeys(range(2, 100), "a game runs"))
    blocks = []
    with pytest.raises(Stopped, match=r"in all of 5 attempts: .*a game runs") as stopped:
        collect(script.measure(wait_s=1000.0), blocks)
    assert "resume" in stopped.value.fix
    assert len(blocks) == 1
    assert len(script.visited) == 2 + ATTEMPTS
    assert (ATTEMPTS - 1) * 1000 < script.rig.now_s < ATTEMPTS * 1000


def test_a_setting_that_fails_in_a_discarded_attempt_is_not_tried_again():
    floor = list(Script(simulated()).measure())[:2]
    order = next_block(DESIGN, floor).order
    at = next(at for at, (key, _) in enumerate(order) if key != "threads=1")
    failing = order[at][0]
    script = Script(simulated(failing={failing: "out of memory"}), disturbed={at + 1: "busy"})
    race = next(script.measure(floor))
    assert len(race.repeated) == 1
    assert race.failures == (Failure(failing, "out of memory"),)
    assert script.visited.count((failing, 0)) == 1
    assert len(race.visits) == 3


def test_a_baseline_that_fails_is_an_error_with_its_reason():
    script = Script(simulated(failing={"threads=1": "out of memory"}))
    with pytest.raises(EtuiError, match="the baseline threads=1 cannot run: out of memory"):
        next(script.measure())


@pytest.mark.parametrize("number", [0, 3, 5, 9])
def test_ctrl_c_loses_the_running_block_only_and_the_sweep_resumes_alike(number):
    whole = list(Script(simulated()).measure())
    script = Script(simulated(), errors={number: KeyboardInterrupt()})
    done = []
    with pytest.raises(KeyboardInterrupt):
        collect(script.measure(), done)
    resumed = [*done, *Script(simulated()).measure(done)]
    orders = [[(v.setting, v.copy) for v in block.visits] for block in resumed]
    assert orders == [[(v.setting, v.copy) for v in block.visits] for block in whole]
    visits = sum(len(block.visits) for block in done)
    assert 0 <= number - visits < len(whole[len(done)].visits)


def test_an_error_of_the_rig_passes_through():
    script = Script(simulated(), errors={2: Stopped("the battery discharges", "plug it in")})
    measured = script.measure()
    next(measured)
    with pytest.raises(Stopped, match="battery"):
        next(measured)


def test_the_callback_sees_every_visit_and_failure():
    seen = []
    script = Script(simulated(failing={"threads=4": "out of memory"}))
    blocks = list(script.measure(on_visit=lambda plan, at, found: seen.append((plan, at, found))))
    assert len(seen) == len(script.visited)
    for plan, at, found in seen:
        assert plan.order[at][0] == found.setting
    assert sum(isinstance(found, Failure) for _, _, found in seen) == 1
    assert [found for _, _, found in seen if not isinstance(found, Failure)] == [
        visit for block in blocks for visit in block.visits
    ]
