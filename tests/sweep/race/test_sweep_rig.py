"""The simulated machines and their rig: known truth, noise, failures and the clock."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from etui.sweep.blocks import SettingFailed, SettingMeasurer
from etui.sweep.config import Goal
from tests.support.sweep_rig import MACHINES, QUIET, SimulatedNoise, SimulatedRig, draw_noise

SEEDS = range(20)


def draw(kind, seed):
    return MACHINES[kind](random.Random(seed))


def joules_by(machine, axis, **fixed):
    """List (value, joules) along an axis; the other axes are fixed."""
    return [
        (setting.get(axis), cost.joules)
        for setting, cost in machine.costs.items()
        if all(setting.get(name) == value for name, value in fixed.items())
    ]


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


def test_decode_stops_gaining_while_the_watts_rise():
    for seed in SEEDS:
        costs = {
            s.get("threads"): c
            for s, c in draw("threads", seed).costs.items()
            if s.get("kv_type") == "f16"
        }
        most = max(costs)
        first_step = costs[1].decode_seconds / costs[2].decode_seconds
        last_step = costs[most - 1].decode_seconds / costs[most].decode_seconds
        assert first_step > 1.5 > 1.15 > last_step
        watts = [costs[n].decode_joules / costs[n].decode_seconds for n in sorted(costs)]
        assert watts == sorted(watts)


def test_the_best_cap_is_between_and_below_the_knee_time_explodes():
    between = 0
    for seed in SEEDS:
        machine = draw("caps", seed)
        caps = sorted(machine.settings, key=lambda setting: setting.get("power_limit"))
        seconds = [machine.costs[setting].seconds for setting in caps]
        assert seconds == sorted(seconds, reverse=True)
        assert seconds[0] > 1.5 * seconds[-1]
        best = machine.find_best(Goal())
        between += best not in (caps[0].key, caps[-1].key)
    assert between >= 10


def test_the_best_depth_is_between_none_and_the_deepest():
    between = 0
    for seed in SEEDS:
        along = sorted(joules_by(draw("speculation", seed), "draft_tokens", kv_type="f16"))
        best = min(along, key=lambda pair: pair[1])[0]
        between += 0 < best < along[-1][0]
    assert between >= 15


def test_the_best_cap_moves_with_the_depth():
    moved = 0
    for seed in SEEDS:
        machine = draw("joint", seed)
        depths = {setting.get("draft_tokens") for setting in machine.settings}
        best = {
            min(joules_by(machine, "power_limit", draft_tokens=depth), key=lambda pair: pair[1])[0]
            for depth in depths
        }
        moved += len(best) > 1
    assert moved >= 5


def test_on_the_flat_machine_all_is_equal():
    machine = draw("flat", 1)
    assert len({cost.joules for cost in machine.costs.values()}) == 1


def test_a_setting_that_is_too_slow_is_not_the_best():
    machine = draw("caps", 3)
    goal = Goal("joules", within_percent=5)
    fastest = min(cost.seconds for cost in machine.costs.values())
    best = machine.find_best(goal)
    assert machine.cost(best).seconds <= 1.05 * fastest
    assert machine.figure(best, goal) >= machine.figure(machine.find_best(Goal()), Goal())


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


def test_the_noise_is_as_large_as_stated():
    machine = draw("flat", 4)
    noise = replace(QUIET, joules=0.02, seconds=0.01)
    rig = SimulatedRig(machine, noise)
    visits = [rig.visit(machine.settings[0], 0) for _ in range(2000)]
    assert stdev(math.log(visit.seconds) for visit in visits) == pytest.approx(0.01, rel=0.1)
    watts = [math.log(visit.joules / visit.seconds) for visit in visits]
    assert stdev(watts) == pytest.approx(0.02, rel=0.1)


def test_a_machine_warms_up():
    machine = draw("flat", 5)
    rig = SimulatedRig(machine, replace(QUIET, warm_up=0.06, warm_up_s=100.0))
    visits = [rig.visit(machine.settings[0], 0) for _ in range(200)]
    rise = visits[-1].joules / machine.cost(machine.settings[0].key).joules
    assert rise == pytest.approx(math.exp(0.06), rel=0.01)
    assert visits[0].joules < visits[20].joules < visits[-1].joules


def test_a_coarse_meter_is_right_on_average():
    machine = draw("flat", 6)
    truth = machine.cost(machine.settings[0].key).joules
    rig = SimulatedRig(machine, replace(QUIET, quantum=truth / 3), window_s=0.0)
    found = [rig.visit(machine.settings[0], 0).joules for _ in range(1000)]
    assert len({round(joules / truth, 6) for joules in found}) > 1
    assert fmean(found) == pytest.approx(truth, rel=0.03)


def test_outliers_and_disturbances_come_as_often_as_stated():
    machine = draw("flat", 7)
    rig = SimulatedRig(machine, replace(QUIET, outliers=0.1, disturbances=0.2))
    visits = [rig.visit(machine.settings[0], 0) for _ in range(1000)]
    truth = machine.cost(machine.settings[0].key).seconds
    assert 60 < sum(visit.seconds > 1.04 * truth for visit in visits) < 140
    assert 150 < sum(bool(visit.disturbed) for visit in visits) < 250


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


def test_the_clock_goes_on_by_the_overhead_and_the_repeated_phases():
    machine = draw("flat", 9)
    cost = machine.cost(machine.settings[0].key)
    rig = SimulatedRig(machine, QUIET, window_s=2.0, overhead_s=4.0)
    visit = rig.visit(machine.settings[0], 0)
    expected = 4.0 + sum(
        math.ceil(2.0 / seconds) * seconds
        for seconds in (cost.prefill_seconds, cost.decode_seconds)
    )
    assert rig.clock() == pytest.approx(expected)
    assert (visit.end_ns - visit.start_ns) / 1e9 == pytest.approx(expected - 4.0)
    rig.sleep(10.0)
    assert rig.clock() == pytest.approx(expected + 10.0)


def test_drawn_noises_differ():
    noises = [draw_noise(random.Random(seed)) for seed in SEEDS]
    assert len(set(noises)) == len(noises)
    assert all(isinstance(noise, SimulatedNoise) for noise in noises)
    assert all(0.003 <= noise.joules <= 0.02 for noise in noises)
