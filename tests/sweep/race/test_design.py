"""The order of a sweep: stages, pairs of blocks, what is dropped, resuming, and wrong blocks."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import EtuiError
from etui.sweep.blocks import Block, Failure, PhaseCost, Visit
from etui.sweep.config import Goal, SweepDesign
from tests.support.sweep_rig import (
    MACHINES,
    QUIET,
    SimulatedNoise,
)
from tests.sweep.measured import grid, list_drops, list_remaining, machine_of, next_block, run_sweep

BASE = "threads=1"


def threads(count):
    return grid(threads=range(1, count + 1))


def sweep(*args, **options):
    return run_sweep(*args, **options)[:2]


def order(block):
    return [(visit.setting, visit.copy) for visit in block.visits]


def measured(plan, joules=10.0):
    """Build a block of a plan in which every visit costs the same."""
    phase = PhaseCost(10, joules / 2, 0.0, 1.0)
    visits = tuple(Visit(key, copy, 1, phase, phase, 0, 1) for key, copy in plan.order)
    return Block(plan.number, plan.stage, visits, seconds=10.0)


NOISY = SimulatedNoise(disturbances=0.0)
SOME_NOISE = replace(QUIET, joules=0.005, seconds=0.002)


# ---- stages and orders


def test_stages_follow_each_other_with_their_numbers_of_blocks():
    _, blocks = sweep(machine_of([10.0, 5.0, 20.0, 20.0, 20.0, 20.0]))
    stages = [block.stage for block in blocks]
    assert stages == ["floor"] * 4 + ["race"] * 2 + ["confirm"] * 8
    assert [block.number for block in blocks] == list(range(14))


def test_blocks_come_in_pairs_in_opposite_orders():
    _, blocks = sweep(MACHINES["speculation"](random.Random(2)), NOISY)
    assert len(blocks) % 2 == 0
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        assert first.stage == second.stage
        assert order(second) == order(first)[::-1]


def test_orders_are_random_and_given_by_the_seed():
    planned = SweepDesign(threads(8), floor_blocks=0)
    plans = [next_block(replace(planned, seed=seed), ()) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0].order != plans[2].order
    places = {
        next_block(replace(planned, seed=seed), ()).order.index((BASE, copy))
        for seed in range(60)
        for copy in (0, 1)
    }
    assert places == set(range(9))


@pytest.mark.parametrize("floor", [0, 1, 3])
def test_stages_may_have_any_number_of_blocks(floor):
    _, blocks = sweep(machine_of([10.0, 5.0, 8.0]), floor_blocks=floor, confirm_blocks=3)
    assert [block.stage for block in blocks] == (["floor"] * floor + ["race"] * 2 + ["confirm"] * 3)


def test_without_halving_every_round_has_the_full_grid():
    _, blocks = sweep(machine_of([10.0, 5.0, 20.0, 30.0, 40.0, 50.0]), halving=False, race_rounds=3)
    race = [block for block in blocks if block.stage == "race"]
    assert [len(block.visits) for block in race] == [7] * 6
    assert len(blocks[-1].visits) == 5


# ---- resuming


@given(
    kind=st.sampled_from(sorted(MACHINES)),
    seed=st.integers(0, 10_000),
    cut=st.floats(0, 1),
    halving=st.booleans(),
)
def test_a_sweep_that_was_cut_anywhere_plans_the_same_blocks(kind, seed, cut, halving):
    made = MACHINES[kind](random.Random(seed))
    planned, blocks = sweep(made, NOISY, seed, halving=halving, race_rounds=3)
    at = round(cut * len(blocks))
    plan = next_block(planned, blocks[:at])
    if at == len(blocks):
        assert plan is None
    else:
        assert list(plan.order) == order(blocks[at])
        assert (plan.number, plan.stage) == (blocks[at].number, blocks[at].stage)
    drops = list_drops(planned, blocks)
    assert list_drops(planned, blocks[:at]) == drops[: len(list_drops(planned, blocks[:at]))]
    assert all(drop.block < at for drop in list_drops(planned, blocks[:at]))


# ---- dropping


@given(
    kind=st.sampled_from(sorted(MACHINES)),
    seed=st.integers(0, 10_000),
    goal=st.sampled_from(
        [Goal(), Goal("time"), Goal("joules*time"), Goal("joules", within_percent=5)]
    ),
)
def test_every_setting_is_left_or_dropped_once_and_the_baseline_is_never_dropped(kind, seed, goal):
    planned, blocks = sweep(MACHINES[kind](random.Random(seed)), NOISY, seed, goal=goal)
    dropped = [drop.setting for drop in list_drops(planned, blocks)]
    left = [setting.key for setting in list_remaining(planned, blocks)]
    assert left[0] == planned.settings[0].key
    assert sorted(dropped + left) == sorted(setting.key for setting in planned.settings)
    assert len(left) <= 4
    for drop in list_drops(planned, blocks):
        later = [block for block in blocks if block.number > drop.block]
        assert all(visit.setting != drop.setting for block in later for visit in block.visits)


def test_a_dropped_setting_is_compared_with_the_best():
    planned, blocks = sweep(machine_of([10.0, 5.0, 20.0, 20.0, 6.0, 5.5]), NOISY)
    first = list_drops(planned, blocks)[0]
    assert first.setting == "threads=3"
    assert first.block == 5
    assert first.reason.endswith("more joules than threads=2")
    assert 280 < float(first.reason.split(" %")[0]) < 320


@pytest.mark.parametrize("seed", range(10))
def test_what_is_far_worse_is_dropped_after_one_round_and_the_best_is_kept(seed):
    made = machine_of([10.0, 5.0, 5.02, 5.04, 6.5, 7.0])
    planned, blocks = sweep(made, replace(SOME_NOISE, joules=0.01), seed)
    after_one_round = {drop.setting for drop in list_drops(planned, blocks[:6])}
    assert {"threads=5", "threads=6"} <= after_one_round
    assert "threads=2" in [setting.key for setting in list_remaining(planned, blocks)]


def test_a_race_between_equal_settings_ends_when_none_can_be_much_better():
    made = machine_of([10.0] * 8)
    planned, blocks = sweep(made, replace(SOME_NOISE, joules=0.001, seconds=0.001))
    rounds = sum(block.stage == "race" for block in blocks) // 2
    assert rounds < planned.race_rounds
    assert len(list_remaining(planned, blocks)) <= 4


def test_a_slower_setting_is_dropped_and_a_costlier_one_only_if_the_cheaper_is_allowed():
    joules = [20.0, 10.0, 12.0, 13.0, 15.0, 16.0, 18.0]
    seconds = [1.2, 2.0, 1.08, 1.2, 1.05, 1.03, 1.0]
    planned, blocks = sweep(
        machine_of(joules, seconds),
        replace(SOME_NOISE, joules=0.002, seconds=0.001),
        goal=Goal("joules", within_percent=10),
    )
    reasons = {drop.setting: drop.reason for drop in list_drops(planned, blocks)}
    assert reasons["threads=2"].endswith("slower than threads=7, 10 % is allowed")
    assert reasons["threads=4"].endswith("slower than threads=7, 10 % is allowed")
    assert reasons["threads=5"].endswith("more joules than threads=3")
    left = [setting.key for setting in list_remaining(planned, blocks)]
    assert left == [BASE, "threads=3", "threads=7"]


# ---- settings that fail or are unmeasured


def test_a_setting_that_fails_is_dropped_at_once_and_not_planned_again():
    planned, blocks = sweep(
        machine_of([10.0, 5.0, 8.0, 9.0]), failing={"threads=3": "out of memory"}
    )
    race = [block for block in blocks if block.stage == "race"]
    assert race[0].failures == (Failure("threads=3", "out of memory"),)
    assert not race[1].failures
    assert order(race[1]) == order(race[0])[::-1]
    assert all("threads=3" not in {key for key, _ in order(block)} for block in blocks)
    assert list_drops(planned, blocks)[0].reason == "out of memory"
    assert list_drops(planned, blocks)[0].block == race[0].number


def test_if_all_other_settings_fail_the_sweep_ends():
    planned, blocks = sweep(machine_of([10.0, 5.0]), failing={"threads=2": "out of memory"})
    assert [block.stage for block in blocks] == ["floor"] * 4 + ["race"]
    assert next_block(planned, blocks) is None


def test_a_finalist_that_fails_later_is_dropped():
    planned, blocks = sweep(machine_of([10.0, 5.0, 5.0]), replace(SOME_NOISE, joules=0.02))
    cut = blocks[:6]
    plan = next_block(planned, cut)
    broken = replace(
        blocks[6], visits=tuple(v for v in blocks[6].visits if v.setting != "threads=3")
    )
    assert plan.stage == "confirm"
    broken = replace(broken, failures=(Failure("threads=3", "no memory"),))
    after = next_block(planned, [*cut, broken])
    assert {key for key, _ in after.order} == {BASE, "threads=2"}


def test_a_baseline_that_fails_is_an_error():
    planned = SweepDesign(threads(2))
    plan = next_block(planned, ())
    block = Block(plan.number, plan.stage, (), (Failure(BASE, "out of memory"),))
    with pytest.raises(EtuiError, match="the baseline threads=1 cannot run: out of memory"):
        next_block(planned, [block])


def test_an_unmeasured_setting_is_dropped_if_joules_are_the_goal():
    planned, blocks = sweep(machine_of([10.0, 5.0, 8.0]), unmeasured=["threads=3"])
    (drop,) = list_drops(planned, blocks)
    assert (drop.setting, drop.reason) == ("threads=3", "its joules are unmeasured")


@pytest.mark.parametrize("floor", [0, 2])
def test_an_unmeasured_baseline_is_an_error_if_joules_are_the_goal(floor):
    with pytest.raises(EtuiError, match="joules of the baseline threads=1 are unmeasured"):
        sweep(machine_of([10.0, 5.0]), unmeasured=[BASE], floor_blocks=floor)


# ---- wrong blocks


def test_blocks_of_another_design_are_refused():
    planned, blocks = sweep(machine_of([10.0, 5.0, 8.0]))
    with pytest.raises(EtuiError, match=r"block 0 \(floor\) does not belong to this sweep"):
        next_block(replace(planned, seed=1, floor_blocks=0), blocks)
    with pytest.raises(EtuiError, match=r"block 4 does not belong to this sweep: visit \d"):
        next_block(replace(planned, settings=threads(4)), blocks)
    with pytest.raises(EtuiError, match=r"block 1 \(floor\) does not belong"):
        next_block(planned, blocks[1:])
    with pytest.raises(EtuiError, match="comes after the end"):
        next_block(planned, [*blocks, replace(blocks[-1], number=len(blocks))])


def test_a_block_with_a_visit_too_many_or_an_unknown_failure_is_refused():
    planned = SweepDesign(threads(2))
    plan = next_block(planned, ())
    block = measured(plan)
    more = replace(block, visits=(*block.visits, block.visits[0]))
    with pytest.raises(EtuiError, match="too many"):
        next_block(planned, [more])
    with pytest.raises(EtuiError, match="was not to measure threads=2"):
        next_block(planned, [replace(block, failures=(Failure("threads=2", "no"),))])


@pytest.mark.parametrize(
    "design",
    [
        SweepDesign(threads(1)),
        SweepDesign(threads(2) + threads(1)),
        SweepDesign(threads(2), race_rounds=0),
    ],
)
def test_a_design_that_compares_nothing_is_refused(design):
    with pytest.raises(ValueError, match="two different settings"):
        next_block(design, ())
