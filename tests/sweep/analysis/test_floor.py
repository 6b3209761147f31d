"""The detection floor: its formula, and that differences of its size are found 4 times of 5."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from etui.sweep._differences import (
    COMPARED,
    FIGURES,
    Repeatability,
    build_floor,
    compare_with_baseline,
    judge,
    measure_repeatability,
)
from etui.sweep.blocks import Block
from etui.sweep.config import SweepDesign
from tests.sweep.measured import Measured, grid

joules = FIGURES["joules"]


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
