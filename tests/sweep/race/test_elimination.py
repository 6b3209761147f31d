"""Paired log ratios: robust to outliers and drift, and with an honest noise."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.small_samples import hodges_lehmann
from etui.sweep._elimination import pair_logs
from etui.sweep.blocks import Block, PhaseCost, Visit

SETTINGS = [f"threads={n}" for n in range(1, 9)]
BASE = SETTINGS[0]


def visit(key, copy, joules):
    half = PhaseCost(10, None if joules is None else joules / 2, 0.0, 1.0)
    return Visit(key, copy, 1, half, half, 0, 1)


def make_blocks(count, figure, stage="race", keys=SETTINGS, first=0):
    """Build pairs of blocks in opposite orders; ``figure(block, position, key, copy)`` is a log."""
    blocks = []
    for number in range(first, first + count):
        cells = [(BASE, 0), *((key, 0) for key in keys[1:]), (BASE, 1)]
        if number % 2:
            cells.reverse()
        visits = tuple(
            visit(key, copy, math.exp(figure(number, at, key, copy)))
            for at, (key, copy) in enumerate(cells)
        )
        blocks.append(Block(number, stage, visits))
    return blocks


def joules(one):
    return one.joules


def noisy(sigma, seed, rises=None):
    rng = random.Random(seed)
    rises = rises or {}
    return lambda number, at, key, copy: rises.get(key, 0.0) + rng.gauss(0, sigma)


def test_a_contrast_holds_neither_block_nor_a_linear_drift():
    rises = {"threads=2": 0.3}
    blocks = make_blocks(2, lambda n, at, key, copy: rises.get(key, 0) + 5 * n + 0.01 * at)
    contrast = pair_logs(blocks, joules).compare("threads=2", "threads=5")
    assert contrast.log_ratio == pytest.approx(0.3)
    assert contrast.blocks == 2


def test_a_drift_does_not_count_as_noise():
    blocks = make_blocks(4, lambda n, at, key, copy: 0.05 * at + n)
    assert pair_logs(blocks, joules).variance == pytest.approx(0, abs=1e-12)


def test_the_noise_is_that_of_a_visit():
    found = [pair_logs(make_blocks(4, noisy(0.02, seed)), joules) for seed in range(200)]
    assert {noise.degrees for noise in found} == {2 * (9 - 2)}
    assert fmean(noise.variance for noise in found) == pytest.approx(0.02**2, rel=0.1)


def test_the_floor_counts_for_the_noise():
    floor = make_blocks(4, noisy(0.02, 1), "floor", [BASE])
    noise = pair_logs(floor, joules)
    assert noise.degrees == 2
    assert 0 < noise.variance < 0.01


def test_an_outlier_hardly_moves_noise_and_contrast():
    clean = make_blocks(6, noisy(0.01, 3))
    rng = random.Random(3)

    def disturbed(number, at, key, copy):
        outlier = 0.4 if (number, key) == (2, "threads=4") else 0.0
        return rng.gauss(0, 0.01) + outlier

    dirty = make_blocks(6, disturbed)
    before, after = pair_logs(clean, joules), pair_logs(dirty, joules)
    assert after.variance < 2.0 * before.variance
    contrast = after.compare("threads=4", "threads=5")
    assert contrast.log_ratio == pytest.approx(
        before.compare("threads=4", "threads=5").log_ratio, abs=0.01
    )
    assert contrast.trimmed < 0.02


def test_one_disturbed_visit_condemns_no_setting():
    def disturbed(number, at, key, copy):
        return 0.5 if (number, key) == (0, "threads=4") else 0.0

    blocks = make_blocks(2, disturbed)
    logs = pair_logs(blocks, joules)
    contrast = logs.compare("threads=4", "threads=5")
    assert contrast.log_ratio == pytest.approx(0.25)
    assert not contrast.exceeds(0.0, 0.001)


def test_both_copies_of_the_baseline_are_a_better_reference_than_one_visit():
    logs = pair_logs(make_blocks(4, noisy(0.01, 5)), joules)
    to_base = logs.compare("threads=2", BASE)
    to_other = logs.compare("threads=2", "threads=3")
    assert to_base.error**2 / to_other.error**2 == pytest.approx(1.5 / 2)


def test_the_error_is_that_of_the_estimate():
    """The interval at 95 % covers the true ratio in 95 % of simulations."""
    inside = 0
    for seed in range(400):
        logs = pair_logs(make_blocks(4, noisy(0.02, seed, {"threads=2": 0.1})), joules)
        found = logs.compare("threads=2", "threads=3")
        inside += abs(found.log_ratio - 0.1) <= found.margin(0.025)
    assert 0.92 <= inside / 400 <= 0.98


def test_what_is_unmeasured_is_left_out():
    blocks = [
        Block(0, "race", (visit("a", 0, None), visit("b", 0, 2.0), visit("b", 1, 0.0))),
        Block(1, "race", (visit("b", 1, 2.0), visit("b", 0, 4.0), visit("a", 0, 2.0))),
    ]
    logs = pair_logs(blocks, joules)
    contrast = logs.compare("a", "b")
    assert contrast.blocks == 1
    assert contrast.log_ratio == pytest.approx(-math.log(2) / 2)
    assert contrast.trimmed is None
    assert not contrast.exceeds(-9.0, 0.05)
    assert logs.compare("a", "c") is None
    assert logs.is_measured("a")
    assert not logs.is_measured("c")


def test_without_a_pair_of_blocks_nothing_is_beyond_doubt():
    blocks = make_blocks(1, lambda n, at, key, copy: float(key == "threads=2"))
    contrast = pair_logs(blocks, joules).compare("threads=2", BASE)
    assert contrast.degrees == 0
    assert contrast.margin(0.05) == math.inf
    assert contrast.describe().startswith("172 %")


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=18), st.floats(-3, 3))
def test_the_estimate_moves_with_its_values_and_stays_between_them(values, shift):
    estimate = hodges_lehmann(values)
    assert min(values) <= estimate <= max(values)
    assert hodges_lehmann([v + shift for v in values]) == pytest.approx(estimate + shift, abs=1e-9)
    assert hodges_lehmann([-v for v in values]) == pytest.approx(-estimate, abs=1e-9)
