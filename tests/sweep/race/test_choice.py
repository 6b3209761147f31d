"""The choice of a sweep on simulated machines, whose best setting is known."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from etui.sweep._elimination import FINALISTS
from etui.sweep.config import Goal, SweepDesign
from etui.sweep.race import (
    choose_best,
    estimate_full_grid_seconds,
    estimate_seconds_left,
    follow,
)
from tests.support.sweep_rig import (
    MACHINES,
    QUIET,
    draw_noise,
)
from tests.sweep.measured import list_drops, list_remaining, machine_of, run_sweep

LITTLE = replace(QUIET, joules=0.003, seconds=0.002)


def given_machine(costs):
    """Build a machine of threads=1.. from joules and seconds."""
    return machine_of(*zip(*costs, strict=True))


def simulate(kind, sweeps, goal=None, halving=True):
    """Yield the machine, the design and the blocks of sweeps with drawn machines and noises."""
    for seed in range(sweeps):
        rng = random.Random(f"test {seed} {kind}")
        machine = MACHINES[kind](rng)
        noise = draw_noise(rng)
        planned, blocks, _ = run_sweep(machine, noise, seed, goal=goal or Goal(), halving=halving)
        yield machine, planned, blocks


# ---- the choice


def test_there_is_no_choice_before_the_first_round():
    planned, blocks, _ = run_sweep(given_machine([(10, 1), (5, 1)]), LITTLE)
    assert choose_best(planned, blocks[:5]) is None
    assert choose_best(planned, blocks[:6]) == "threads=2"


@pytest.mark.parametrize(
    ("goal", "best"),
    [
        (Goal("joules"), "threads=2"),
        (Goal("time"), "threads=4"),
        (Goal("joules*time"), "threads=3"),
        (Goal("joules", within_percent=30), "threads=3"),
        (Goal("joules", within_percent=5), "threads=4"),
    ],
)
def test_each_goal_has_its_best(goal, best):
    machine = given_machine([(20, 1.6), (10, 2.0), (11, 1.2), (15, 1.0), (30, 1.5)])
    planned, blocks, _ = run_sweep(machine, LITTLE, goal=goal)
    assert machine.find_best(goal) == best
    assert choose_best(planned, blocks) == best


def test_the_baseline_is_chosen_if_nothing_beats_it_beyond_noise():
    machine = given_machine([(10, 1), (9.98, 1), (10.4, 1), (12, 1)])
    noise = replace(QUIET, joules=0.02)
    chosen = [choose_best(*run_sweep(machine, noise, seed)[:2]) for seed in range(40)]
    assert chosen.count("threads=1") >= 35
    assert set(chosen) <= {"threads=1", "threads=2"}


def test_a_baseline_that_is_too_slow_is_not_chosen():
    machine = given_machine([(5, 2.0), (10, 1.0), (9, 1.02)])
    planned, blocks, _ = run_sweep(machine, LITTLE, goal=Goal("joules", within_percent=10))
    assert choose_best(planned, blocks) == "threads=3"


def test_the_fastest_is_kept_as_the_reference_of_the_limit():
    """Its joules are the worst, but without it slower settings would count as allowed."""
    machine = given_machine([(20, 1.5), (60, 1.0), (9, 1.3), (10, 1.08), (11, 1.07), (12, 1.06)])
    planned, blocks, _ = run_sweep(machine, LITTLE, goal=Goal("joules", within_percent=10))
    assert "threads=2" in {visit.setting for visit in blocks[5].visits}
    assert choose_best(planned, blocks) == "threads=4"


def test_settings_without_joules_are_chosen_by_time():
    machine = given_machine([(10, 2.0), (10, 1.0)])
    planned, blocks, _ = run_sweep(
        machine, LITTLE, unmeasured=["threads=1", "threads=2"], goal=Goal("time")
    )
    assert choose_best(planned, blocks) == "threads=2"


# ---- simulated truth (python -m benchmarks.sweep has the full numbers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "caps", "speculation", "joint"])
def test_the_choice_is_within_two_percent_of_the_true_best(kind):
    good = 0
    for machine, planned, blocks in simulate(kind, 30):
        best = machine.figure(machine.find_best(planned.goal), planned.goal)
        good += machine.figure(choose_best(planned, blocks), planned.goal) <= 1.02 * best
    assert good >= 28


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "caps", "speculation", "joint"])
def test_the_true_best_is_rarely_dropped_by_more_than_it_is_worth(kind):
    """At most 5 % of sweeps lose a setting that is 1.5 % better than all that stay."""
    lost = 0
    for machine, planned, blocks in simulate(kind, 30):
        left = [setting.key for setting in list_remaining(planned, blocks)]
        best = machine.figure(machine.find_best(planned.goal), planned.goal)
        lost += min(machine.figure(key, planned.goal) for key in left) > 1.02 * best
    assert lost <= 2


def test_a_machine_on_which_all_is_equal_keeps_its_baseline():
    chosen = [
        choose_best(planned, blocks) == planned.settings[0].key
        for _, planned, blocks in simulate("flat", 30)
    ]
    assert sum(chosen) >= 27


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "joint"])
def test_halving_saves_half_of_the_full_grid(kind):
    halved, full = (
        math.fsum(
            block.seconds
            for _, _, blocks in simulate(kind, 10, halving=halving)
            for block in blocks
        )
        for halving in (True, False)
    )
    assert halved < 0.5 * full


# ---- durations


def test_the_duration_of_the_full_grid_is_that_of_a_sweep_without_dropping():
    for seed in range(5):
        machine = MACHINES["joint"](random.Random(seed))
        planned, blocks, rig = run_sweep(machine, LITTLE, seed)
        _, _, full = run_sweep(machine, LITTLE, seed, halving=False)
        estimated = estimate_full_grid_seconds(planned, blocks)
        assert estimated == pytest.approx(full.now_s, rel=0.1)
        assert estimated > 1.5 * rig.now_s


def test_waits_for_a_busy_machine_count_once_for_the_full_grid():
    planned, blocks, _ = run_sweep(given_machine([(10, 1)] * 6), LITTLE)
    wait = 10_000.0
    slow = replace(blocks[4], repeated=("busy",), seconds=blocks[4].seconds + wait)
    with_wait = estimate_full_grid_seconds(planned, [*blocks[:4], slow, *blocks[5:]])
    without = estimate_full_grid_seconds(planned, blocks)
    assert with_wait - wait == pytest.approx(without, rel=0.1)


def test_nothing_is_known_of_the_full_grid_without_blocks():
    planned = SweepDesign(given_machine([(10, 1)] * 4).settings)
    assert estimate_full_grid_seconds(planned, ()) is None
    visits = 4 * 2 + 10 * 5 + 8 * 5
    assert estimate_full_grid_seconds(planned, (), 6.0) == pytest.approx(6.0 * visits)


def test_the_estimate_of_the_seconds_left_ends_at_zero_and_follows_the_blocks():
    for seed in range(5):
        planned, blocks, rig = run_sweep(MACHINES["joint"](random.Random(seed)), LITTLE, seed)
        left = [
            estimate_seconds_left(follow(planned, blocks[:at]), 8.0)
            for at in range(len(blocks) + 1)
        ]
        assert left[-1] == 0
        assert 0.5 * rig.now_s < left[0] < 2 * rig.now_s
        in_confirmation = len(blocks) - 4
        taken = math.fsum(block.seconds for block in blocks[in_confirmation:])
        assert left[in_confirmation] == pytest.approx(taken, rel=0.1)


def test_the_first_estimate_counts_the_visits_of_a_halved_race():
    planned = SweepDesign(given_machine([(10, 1)] * 9).settings)
    # 8 others, then 4, then 2: these are confirmed.
    assert estimate_seconds_left(follow(planned, ()), 1.0) == 4 * 2 + 2 * 10 + 2 * 6 + 8 * 4
    full = replace(planned, halving=False)
    assert estimate_seconds_left(follow(full, ()), 1.0) == 4 * 2 + 10 * 10 + 8 * (FINALISTS + 2)


def test_the_reason_of_a_setting_that_is_cheap_but_slow_is_its_time():
    """Too close to the limit to be dropped in the race, and cheaper than the best that is kept."""
    costs = [(20, 1.5), (30, 1.0), (9, 1.104), (10, 1.09), (10.1, 1.09), (10.2, 1.09), (10.3, 1.09)]
    noise = replace(QUIET, joules=0.03, seconds=0.01)
    reasons = []
    for seed in range(10):
        planned, blocks, _ = run_sweep(
            given_machine(costs), noise, seed, goal=Goal("joules", within_percent=10)
        )
        reasons += [d.reason for d in list_drops(planned, blocks) if d.setting == "threads=3"]
    late = [reason for reason in reasons if reason.startswith("not among the best 3")]
    assert late
    assert all(reason.endswith("slower than threads=2, 10 % is allowed") for reason in late)
