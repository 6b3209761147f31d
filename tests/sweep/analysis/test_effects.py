"""Effects of axes from unbalanced blocks: exact without noise, and interactions only where real."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.sweep._differences import FIGURES, fit_setting_means
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
