"""The simulated machines and their rig: known truth, noise, failures and the clock."""

from __future__ import annotations

import math
import random

import pytest

from etui.sweep.blocks import SettingFailed, SettingMeasurer
from tests.support.sweep_rig import MACHINES, QUIET, SimulatedRig

SEEDS = range(20)


def draw(kind, seed):
    return MACHINES[kind](random.Random(seed))


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_machines_have_enough_different_settings_with_finite_costs(kind):
    for seed in SEEDS:
        machine = draw(kind, seed)
        keys = [setting.key for setting in machine.settings]
        assert 16 <= len(keys) <= 40
        assert len(set(keys)) == len(keys)
        for key in keys:
            cost = machine.cost(key)
            assert 0 < cost.joules < math.inf
            assert 0 < cost.seconds < math.inf


# ---- the rig


def test_without_noise_the_visits_are_the_truth():
    rig: SettingMeasurer = SimulatedRig(draw("threads", 1), QUIET)
    machine = draw("threads", 1)
    for setting, cost in machine.costs.items():
        visit = rig.visit(setting, 0)
        assert visit.joules == pytest.approx(cost.joules)
        assert visit.seconds == pytest.approx(cost.seconds)
        assert visit.prefill.seconds == pytest.approx(cost.prefill_seconds)
        assert (visit.disturbed, visit.kind) == ("", "counter")


def test_equal_seeds_give_equal_visits():
    machine = draw("caps", 2)
    first, second, other = (
        [SimulatedRig(machine, seed=seed).visit(setting, 0) for setting in machine.settings]
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_settings_can_fail_and_be_unmeasured():
    machine = draw("caps", 8)
    first, second, third = machine.settings[:3]
    rig = SimulatedRig(
        machine, failing={second.key: "out of memory"}, unmeasured=frozenset({third.key})
    )
    assert rig.visit(first, 1).copy == 1
    with pytest.raises(SettingFailed, match="out of memory"):
        rig.visit(second, 0)
    unmeasured = rig.visit(third, 0)
    assert (unmeasured.joules, unmeasured.kind) == (None, None)
    assert unmeasured.seconds > 0
