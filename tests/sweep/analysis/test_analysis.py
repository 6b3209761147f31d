"""The result of a sweep: whose figures it takes, what it claims, and what it leaves open."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.sweep.analysis import analyse
from etui.sweep.blocks import Block
from etui.sweep.config import Goal, SweepDesign
from etui.sweep.result import SettingResult, SweepResult
from tests.sweep.measured import Measured, grid, unmeasure

THREADS = grid(threads=(1, 2, 3, 4))
JOULES = {1: 10.0, 2: 8.0, 3: 9.0, 4: 15.0}
SECONDS = {1: 4.0, 2: 2.0, 3: 1.5, 4: 1.4}


def cost(one, plan):
    return JOULES[one.get("threads")], SECONDS[one.get("threads")]


def find(result: SweepResult, key: str) -> SettingResult:
    return next(one for one in result.settings if one.setting == key)


def scale_joules(blocks: list[Block], factor: float) -> list[Block]:
    def scale(phase):
        return replace(phase, joules=phase.joules * factor, uncertainty=phase.uncertainty * factor)

    return [
        replace(
            block,
            visits=tuple(
                replace(visit, prefill=scale(visit.prefill), decode=scale(visit.decode))
                for visit in block.visits
            ),
        )
        for block in blocks
    ]


def test_a_finished_sweep_has_the_true_differences():
    design = SweepDesign(THREADS, seed=3)
    result = analyse(design, Measured(cost, noise=0.004, drift=0.05).blocks(design))
    assert result.is_complete
    assert (result.baseline, result.best) == ("threads=1", "threads=2")
    assert [one.setting for one in result.settings] == [
        "threads=1", "threads=2", "threads=3", "threads=4",
    ]  # fmt: skip
    best = find(result, "threads=2")
    assert best.stage == "confirm"
    assert best.blocks == 8
    for difference, truth in ((best.joules_difference, -20.0), (best.seconds_difference, -50.0)):
        assert difference is not None
        assert difference.percent == pytest.approx(truth, abs=1.0)
        assert difference.low < truth < difference.high
        assert difference.is_claimed
        assert difference.p < 0.01
    assert best.joules.value == pytest.approx(8.0, rel=0.05)
    assert best.prefill_joules_per_token.value == pytest.approx(8.0 / 4 / 100, rel=0.05)
    assert best.decode_joules_per_token.value == pytest.approx(8.0 * 3 / 4 / 50, rel=0.05)
    baseline = find(result, "threads=1")
    assert baseline.joules_difference is None
    assert baseline.seconds_difference is None
    assert result.floor.claim_blocks == 8
    assert 0.2 < result.floor.joules_percent < 2
    assert abs(result.floor.measured_joules_percent) < 0.5
    assert result.seconds == 60.0 * result.blocks
    assert result.visits == sum(len(b.visits) for b in Measured(cost).blocks(design))


def test_claims_come_from_the_blocks_that_chose_nothing():
    def lucky(one, plan):
        joules, seconds = cost(one, plan)
        is_lucky = one.get("threads") == 3 and plan.stage == "race"
        return joules * (0.5 if is_lucky else 1.0), seconds

    design = SweepDesign(THREADS)
    chosen = find(analyse(design, Measured(lucky, noise=0.003).blocks(design)), "threads=3")
    assert chosen.stage == "confirm"
    assert chosen.joules_difference.percent == pytest.approx(-10, abs=1)
    assert chosen.joules.value == pytest.approx(9.0, rel=0.02)


def test_a_running_sweep_shows_the_race_until_two_blocks_confirm():
    design = SweepDesign(THREADS)
    blocks = Measured(cost, noise=0.003).blocks(design)
    confirming = [block.number for block in blocks if block.stage == "confirm"]
    for most in (confirming[0], confirming[1], confirming[1] + 1):
        result = analyse(design, blocks[:most])
        is_confirmed = most > confirming[1]
        assert find(result, "threads=2").stage == ("confirm" if is_confirmed else "race")
        assert not result.is_complete
        assert result.best == "threads=2"


def test_no_block_no_figures():
    result = analyse(SweepDesign(THREADS), [])
    assert (result.best, result.floor, result.blocks, result.full_grid_seconds) == (
        None,
        None,
        0,
        None,
    )
    assert result.notes == ()
    assert [effect.joules for effect in result.effects] == [None, None, None]
    assert all(one.joules is None and one.joules_difference is None for one in result.settings)
    assert not any(one.is_on_frontier for one in result.settings)


def test_one_block_of_the_race_has_figures_without_intervals():
    design = SweepDesign(THREADS, floor_blocks=0)
    result = analyse(design, Measured(cost, noise=0.003).blocks(design, most=1))
    one = find(result, "threads=2")
    assert one.joules_difference.percent == pytest.approx(-20, abs=2)
    assert (one.joules_difference.low, one.joules_difference.p) == (None, None)
    assert not one.joules_difference.is_claimed
    assert (one.joules.low, one.joules.high, one.joules.method) == (None, None, None)
    assert result.floor.joules_percent is None
    assert result.floor.measured_joules_percent is not None
    assert all(effect.joules.low is None for effect in result.effects)


def test_every_prefix_of_a_sweep_can_be_analysed():
    design = SweepDesign(grid(threads=(1, 2, 3, 4), kv_type=("f16", "q8_0")), seed=1)
    blocks = Measured(cost, noise=0.01).blocks(design)
    for most in range(len(blocks) + 1):
        result = analyse(design, blocks[:most])
        assert (result.blocks, len(result.settings)) == (most, 8)
        assert result.is_complete == (most == len(blocks))


def test_unmeasured_joules_leave_seconds():
    design = SweepDesign(THREADS, goal=Goal("time"))
    result = analyse(design, Measured(cost, noise=0.003, change=unmeasure).blocks(design))
    assert result.best == "threads=4"
    for one in result.settings:
        assert (one.joules, one.joules_difference, one.decode_joules_per_token) == (
            None,
            None,
            None,
        )
        assert one.seconds is not None
    assert result.floor.joules_percent is None
    assert result.floor.seconds_percent is not None
    assert result.effects[0].joules is None
    assert result.effects[0].seconds.is_claimed
    assert "joules are unmeasured: only seconds are compared" in result.notes
    assert [one.setting for one in result.settings if one.is_on_frontier] == ["threads=4"]


def test_a_setting_that_cannot_run_is_a_note_and_a_row_without_figures():
    design = SweepDesign(THREADS)
    rig = Measured(cost, noise=0.003, failing={"threads=3": "out of memory"})
    result = analyse(design, rig.blocks(design))
    one = find(result, "threads=3")
    assert (one.joules, one.seconds, one.joules_difference, one.blocks) == (None, None, None, 0)
    assert one.drop_reason == "out of memory"
    assert one.dropped_after is None  # it was not worse: it could not run
    assert "threads=3 could not run: out of memory" in result.notes
    assert result.settings[-1].setting == "threads=3"
    assert [effect.joules is None for effect in result.effects] == [False, True, False]


@pytest.mark.parametrize("seed", range(8))
def test_nothing_below_the_stated_floor_is_claimed(seed):
    """Two confirming blocks have a high floor; effects have more blocks behind them."""
    design = SweepDesign(THREADS, confirm_blocks=2, race_rounds=5, halving=False, seed=seed)
    result = analyse(design, Measured(cost, noise=0.05, seed=seed).blocks(design))
    floors = {"joules": result.floor.joules_percent, "seconds": result.floor.seconds_percent}
    claimed = [
        (what, one.percent)
        for what, differences in (
            ("joules", [one.joules for one in result.effects]),
            ("joules", [one.joules_difference for one in result.settings]),
            ("seconds", [one.seconds for one in result.effects]),
            ("seconds", [one.seconds_difference for one in result.settings]),
        )
        for one in differences
        if one is not None and one.is_claimed
    ]
    for what, percent in claimed:
        assert abs(math.log1p(percent / 100)) >= math.log1p(floors[what] / 100)


def test_a_difference_below_the_floor_is_not_claimed():
    """The baseline's copies differ much, so a small difference is not shown however regular."""

    def near(one, plan):
        return (10.0 if one.get("threads") == 1 else 9.9), 1.0

    def scatter(visit, plan):
        sign = 1 if plan.number % 2 else -1
        factor = 1.0 if visit.setting != "threads=1" else 1.05 ** (sign if visit.copy else -sign)
        phases = (replace(p, joules=p.joules * factor) for p in (visit.prefill, visit.decode))
        return replace(visit, **dict(zip(("prefill", "decode"), phases, strict=True)))

    design = SweepDesign(THREADS[:2])
    result = analyse(design, Measured(near, noise=1e-5, change=scatter).blocks(design))
    difference = find(result, "threads=2").joules_difference
    assert difference.p < 0.05
    assert difference.high < 0
    assert result.floor.joules_percent > 1
    assert not difference.is_claimed
    precise = analyse(design, Measured(near, noise=1e-5).blocks(design))
    assert find(precise, "threads=2").joules_difference.is_claimed


@settings(max_examples=15)
@given(st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_a_factor_of_all_joules_changes_no_difference(factor, seed):
    design = SweepDesign(grid(threads=(1, 2, 3, 4), kv_type=("f16", "q8_0")), seed=seed)
    blocks = Measured(cost, noise=0.02, drift=0.02, seed=seed).blocks(design, most=10)
    one, other = analyse(design, blocks), analyse(design, scale_joules(blocks, factor))
    assert [r.setting for r in one.settings] == [r.setting for r in other.settings]
    for before, after in zip(one.settings[1:], other.settings[1:], strict=True):
        assert after.joules_difference.percent == pytest.approx(before.joules_difference.percent)
        assert after.joules_difference.low == pytest.approx(before.joules_difference.low, abs=1e-6)
        assert after.joules_difference.p == pytest.approx(before.joules_difference.p, abs=1e-6)
        assert after.joules.value == pytest.approx(before.joules.value * factor)
    assert other.floor.joules_percent == pytest.approx(one.floor.joules_percent, abs=1e-6)


def test_equal_settings_on_the_frontier_are_noted():
    design = SweepDesign(THREADS)
    rig = Measured(lambda one, plan: (5.0, 1.0), noise=0.01, seed=1)
    result = analyse(design, rig.blocks(design))
    assert result.best == "threads=1"
    frontier = [one.setting for one in result.settings if one.is_on_frontier]
    assert len(frontier) > 1
    assert any("the same within noise" in note for note in result.notes)
    assert not any(one.joules_difference.is_claimed for one in result.settings[1:])


def test_wild_figures_have_wide_intervals_and_no_claims():
    """Two blocks whose figures differ by many powers of ten."""
    design = SweepDesign(THREADS, floor_blocks=2)
    blocks = Measured(lambda one, plan: (1.0, 1.0), noise=100.0).blocks(design, most=4)
    result = analyse(design, blocks)
    for one in result.settings:
        assert math.isfinite(one.joules.high)
        assert one.joules.low <= one.joules.value <= one.joules.high
        if one.joules_difference is not None:
            assert math.isfinite(one.joules_difference.high)
            assert not one.joules_difference.is_claimed
