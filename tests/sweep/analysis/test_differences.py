"""Effects of axes from unbalanced blocks, and the detection floor."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from etui.stats.differences import judge
from etui.sweep._differences import (
    COMPARED,
    FIGURES,
    Repeatability,
    build_floor,
    compare_with_baseline,
    fit_setting_means,
    measure_repeatability,
)
from etui.sweep.analysis import analyse
from etui.sweep.blocks import Block
from etui.sweep.config import SweepDesign
from tests.sweep.measured import Measured, grid, setting

joules = FIGURES["joules"]
AXES = {"threads": (2, 1, 4), "kv_type": ("f16", "q8_0")}
THREADS = {1: 1.5, 2: 1.0, 4: 1.25}
KV = {"f16": 1.0, "q8_0": 0.9}


def product_cost(one, plan):
    factor = THREADS[one.get("threads")] * KV[one.get("kv_type")]
    return 10 * factor, 2 / factor


def crossed_cost(one, plan):
    joules, seconds = product_cost(one, plan)
    is_crossed = one.get("threads") == 4 and one.get("kv_type") == "q8_0"
    return joules * (1.3 if is_crossed else 1.0), seconds


def effects_of(result):
    return {(one.axis, one.value): one for one in result.effects}


def test_effects_are_exact_without_noise_though_settings_are_dropped():
    design = SweepDesign(grid(**AXES))
    result = analyse(design, Measured(product_cost).blocks(design))
    assert any(one.drop_reason for one in result.settings)
    found = effects_of(result)
    for value, reference, percent in ((1, 2, 50.0), (4, 2, 25.0)):
        one = found["threads", value]
        assert one.reference == reference
        assert one.joules.percent == pytest.approx(percent)
        assert one.seconds.percent == pytest.approx(100 * (1 / (1 + percent / 100) - 1))
    assert found["kv_type", "q8_0"].joules.percent == pytest.approx(-10)
    assert result.interactions == ()


def test_an_interaction_is_found_where_there_is_one():
    design = SweepDesign(grid(**AXES), seed=5)
    crossed = analyse(design, Measured(crossed_cost, noise=0.01, seed=2).blocks(design))
    (one,) = crossed.interactions
    assert (one.axes, one.values) == (("threads", "kv_type"), (4, "q8_0"))
    assert one.references == (2, "f16")
    assert one.joules.low < 30 < one.joules.high
    plain = analyse(design, Measured(product_cost, noise=0.01, seed=2).blocks(design))
    assert plain.interactions == ()


def test_an_effect_that_the_settings_do_not_determine_is_left_out():
    """Both axes change together, so that neither has an effect of its own."""
    both = (setting(threads=1, kv_type="f16"), setting(threads=2, kv_type="q8_0"))
    design = SweepDesign(both)
    result = analyse(design, Measured(product_cost, noise=0.01).blocks(design))
    assert [one.joules for one in result.effects] == [None, None]
    assert [one.seconds for one in result.effects] == [None, None]


def test_the_baseline_need_not_be_on_the_grid():
    settings_ = (setting(threads=2, kv_type="f16"), *grid(threads=(1, 4), kv_type=("f16", "q8_0")))
    design = SweepDesign(settings_)
    result = analyse(design, Measured(product_cost).blocks(design))
    found = effects_of(result)
    assert {one.reference for key, one in found.items() if key[0] == "threads"} == {2}
    assert found["threads", 1].joules.percent == pytest.approx(50)
    assert found["kv_type", "q8_0"].joules.percent == pytest.approx(-10)


def drawn_blocks(settings_, seed: int, drop: bool) -> list[Block]:
    design = SweepDesign(settings_, seed=seed, halving=drop)
    return Measured(product_cost, noise=0.03, drift=0.1, seed=seed).blocks(design, most=10)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_the_variance_is_that_of_least_squares(seed):
    """Against a fit with one column for each block and setting, and its hat matrix."""
    settings_ = grid(**AXES)
    keys = [one.key for one in settings_]
    blocks = drawn_blocks(settings_, seed, drop=True)
    fitted, means = fit_setting_means(blocks, keys, joules)
    rows, logs, names = [], [], []
    for at, block in enumerate(blocks):
        for visit in block.visits:
            row = np.zeros(len(blocks) + len(keys) - 1)
            row[at] = 1
            if visit.setting != keys[0]:
                row[len(blocks) + keys.index(visit.setting) - 1] = 1
            rows.append(row)
            logs.append(math.log(visit.joules))
            names.append(visit.setting)
    design, y = np.array(rows), np.array(logs)
    fit = np.linalg.lstsq(design, y, rcond=None)[0]
    residuals = y - design @ fit
    degrees = 1 - np.einsum("ij,ji->i", design, np.linalg.pinv(design))
    assert means.means[1:] == pytest.approx(fit[len(blocks) :], abs=1e-9)
    pooled = (residuals**2).sum() / degrees.sum()
    for at, key in enumerate(fitted):
        own = np.array([name == key for name in names])
        freedom = degrees[own].sum() + 4
        want = ((residuals[own] ** 2).sum() + 4 * pooled) / freedom
        assert means.freedom[at] == pytest.approx(freedom)
        assert means.variances[at] == pytest.approx(want)


def measure_both(blocks, baseline, seed):
    return {name: measure_repeatability(blocks, baseline, FIGURES[name], seed) for name in COMPARED}


PAIR = grid(threads=(1, 2))


def test_the_floor_is_lachins_formula():
    noise = Repeatability(deviation=0.01, difference=0.0, p=1.0, blocks=5)
    want = (stats.t.ppf(0.975, 3) + stats.t.ppf(0.8, 3)) * 0.01 * math.sqrt(1.5 / 4)
    assert noise.floor_of_blocks(4) == pytest.approx(want)
    # More blocks of claims lower it, and their degrees of freedom are those of the noise at most.
    want = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * 0.01 * math.sqrt(1.5 / 100)
    assert noise.floor_of_blocks(100) == pytest.approx(want)
    assert noise.floor_of_blocks(1) is None


def test_the_floor_is_not_below_what_equal_settings_differ_by():
    noise = Repeatability(deviation=0.001, difference=-0.03, p=0.001, blocks=20)
    assert noise.floor_of_blocks(8) == 0.03


def test_the_deviation_is_that_of_one_visit():
    rng = random.Random(0)
    rig = Measured(lambda one, plan: (5.0, 1.0))
    blocks = [
        Block(
            at, "floor",
            tuple(
                rig.visit("threads=1", copy, math.exp(rng.gauss(0, 0.02)), 1.0) for copy in (0, 1)
            ),
        )
        for at in range(1000)
    ]  # fmt: skip
    both = measure_both(blocks, "threads=1", seed=0)
    assert both["joules"].blocks == 1000
    # Trimmed by an eighth at both ends, a normal mean has 5 % more noise.
    assert both["joules"].deviation == pytest.approx(0.02, rel=0.15)
    assert both["joules"].p is not None
    floor = build_floor(both, 8)
    assert floor is not None
    assert floor.blocks == 1000
    assert floor.joules_percent == pytest.approx(
        100 * math.expm1(both["joules"].floor_of_blocks(8)), rel=1e-9
    )


def test_no_floor_before_its_first_block_and_no_size_with_one():
    none = measure_both([], "threads=1", seed=0)
    assert build_floor(none, 8) is None
    one = Measured(lambda one, plan: (5.0, 1.0), noise=0.02).blocks(SweepDesign(PAIR), most=1)
    floor = build_floor(measure_both(one, "threads=1", seed=0), 8)
    assert floor is not None
    assert (floor.joules_percent, floor.blocks) == (None, 1)
    assert floor.measured_joules_percent is not None


@pytest.mark.parametrize("blocks", [4, 8, 12])
def test_a_difference_of_the_size_of_the_floor_is_significant_four_times_of_five(blocks):
    """With the interval alone: that an estimate reaches the floor itself is one of two."""
    sweeps = 400
    known = Repeatability(0.01, 0.0, 1.0, 10_000)
    size = known.floor(1.5 / blocks, blocks - 1)
    rng = np.random.default_rng(blocks)
    logs = rng.normal(size=(sweeps, blocks, 3)) * 0.01
    differences = size + logs[..., 0] - logs[..., 1:].mean(axis=-1)
    found = sum(stats.ttest_1samp(row, 0.0).pvalue < 0.05 for row in differences)
    assert 0.74 <= found / sweeps <= 0.86


def test_without_a_floor_nothing_is_claimed_however_clear_it_is():
    design = SweepDesign(PAIR, floor_blocks=0)
    rig = Measured(lambda one, plan: (8 / one.get("threads"), 1.0), noise=0.02)
    blocks = [block for block in rig.blocks(design) if block.stage == "confirm"]
    found = compare_with_baseline(blocks, ["threads=1", "threads=2"], joules, Repeatability(), 0)
    assert found["threads=2"].estimate.p < 0.001
    judged = judge({("joules", key): each for key, each in found.items()})
    assert not judged["joules", "threads=2"].is_claimed
