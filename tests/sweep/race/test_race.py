"""The race of a sweep: orders, drops, the choice, durations, and the loop that measures."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import EtuiError, Stopped
from etui.measure.run import ATTEMPTS
from etui.sweep._elimination import FINALISTS
from etui.sweep.blocks import Block, Collapsed, Failure, PhaseCost, Visit
from etui.sweep.config import Goal, Setting, SweepDesign
from etui.sweep.race import (
    choose_best,
    estimate_seconds_left,
    follow,
    measure_blocks,
)
from tests.support.sweep_rig import (
    MACHINES,
    QUIET,
    SimulatedMachine,
    SimulatedNoise,
    SimulatedRig,
    TrueCost,
    draw_noise,
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
    with pytest.raises(EtuiError, match=r"block 4 does not belong to this sweep: its visit \d"):
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
    with pytest.raises(EtuiError, match="its visit 3 is not"):
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
    late = [reason for reason in reasons if reason.startswith("not among the 3")]
    assert late
    assert all(reason.endswith("slower than threads=2, 10 % is allowed") for reason in late)


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
            DESIGN, self.visit, blocks, clock=self.rig.clock, sleep=self.rig.sleep, **options
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


WIDE = tuple(
    Setting((("threads", n), ("kv_type", kv)))
    for n, kv in ((4, "f16"), (4, "q8_0"), (2, "f16"), (1, "q8_0"), (1, "f16"))
)


def measure_collapsing(design, collapses, **options):
    """Measure a design on a machine where a visit collapses if ``collapses(key, visit)``."""
    machine = SimulatedMachine("given", {s: TrueCost(1.0, 0.5, 8.0, 2.0) for s in design.settings})
    rig, count = SimulatedRig(machine, QUIET), 0

    def visit(setting, copy):
        nonlocal count
        count += 1
        if collapses(setting.key, count):
            raise Collapsed("its threads wait for each other")
        return rig.visit(setting, copy)

    blocks = []
    measured = measure_blocks(design, visit, (), clock=rig.clock, sleep=rig.sleep, **options)
    return blocks, lambda: collect(measured, blocks)


@pytest.mark.parametrize("first", [1, 2, 4, 5, 8])
def test_a_baseline_that_collapses_gives_its_place_to_the_calmest_setting(first):
    design = SweepDesign(WIDE, floor_blocks=4, race_rounds=1, confirm_blocks=2)
    blocks, measure = measure_collapsing(
        design, lambda key, count: "threads=4" in key and count >= first
    )
    measure()
    before = (first - 1) // 2  # whole blocks of the floor
    empty, *floor = blocks[before : before + 5]
    assert (empty.stage, empty.visits) == ("floor", ())
    assert empty.failures == (Failure(WIDE[0].key, "its threads wait for each other"),)
    calm = "threads=1 kv_type=f16"  # as few threads as possible, and else like the baseline
    for one, other in (floor[:2], floor[2:]):
        assert order(other) == order(one)[::-1]
    assert {key for block in floor for key, _ in order(block)} == {calm}
    progress = follow(design, blocks)
    assert progress.baseline == progress.able[0] == calm
    assert progress.count("floor") == 4
    assert [drop.setting for drop in progress.drops[:2]] == [WIDE[0].key, WIDE[1].key]
    assert WIDE[1].key not in progress.able
    assert all(key != WIDE[1].key for block in blocks for key, _ in order(block))
    assert choose_best(design, blocks) == calm
    assert next_block(design, blocks) is None


def test_a_baseline_that_collapses_without_a_calmer_setting_ends_the_sweep():
    design = SweepDesign(tuple(reversed(WIDE)), floor_blocks=2)
    blocks, measure = measure_collapsing(design, lambda key, count: True)
    with pytest.raises(EtuiError, match="the baseline threads=1 kv_type=f16 cannot run") as error:
        measure()
    assert "fewer threads" in error.value.fix
    assert not blocks


def test_a_baseline_that_collapses_later_disturbs_its_block():
    design = SweepDesign(WIDE, floor_blocks=2, race_rounds=1, confirm_blocks=2)
    base = WIDE[0].key
    blocks, measure = measure_collapsing(design, lambda key, count: key == base and 4 < count < 9)
    measure()
    assert set(blocks[2].repeated) == {f"{base}: its threads wait for each other"}
    assert follow(design, blocks).baseline == base
    seen = []
    blocks, measure = measure_collapsing(
        design,
        lambda key, count: key == base and count > 4,
        on_visit=lambda plan, at, visit: seen.append(visit),
    )
    with pytest.raises(Stopped, match="in all of 5 attempts"):
        measure()
    assert len(blocks) == 2
    # Each attempt is seen, so that the time of the sweep can end between them.
    assert sum(isinstance(one, Failure) for one in seen) == 5


def test_the_estimate_moves_with_every_visit_of_the_running_block():
    progress = follow(SweepDesign(WIDE, floor_blocks=2), ())
    guessed = estimate_seconds_left(progress, 5.0)
    visits = guessed / 5.0
    assert estimate_seconds_left(progress, 5.0, [60.0]) == pytest.approx((visits - 1) * 60.0)
    assert estimate_seconds_left(progress, 5.0, [60.0, 20.0]) == pytest.approx((visits - 2) * 40.0)
    assert estimate_seconds_left(progress, 5.0, [9.0] * 1000) == 0


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
