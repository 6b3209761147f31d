"""Means of a few values: coverage by simulation, exact cases, and what symmetry demands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from etui.stats.arrays import Floats
from etui.stats.distributions import t_p_value, t_quantile
from etui.stats.small_samples import (
    count_freedom,
    count_trimmed,
    estimate_means,
)

SAMPLES = 1500
NOISES = ("normal", "skewed", "outliers")


def draw(kind: str, size: int, seed: int = 7) -> list[Floats]:
    """Log differences of a visit to the mean of two others, with the true mean 0."""
    random = np.random.default_rng(seed)
    shape = (SAMPLES, size, 3)
    if kind == "normal":
        noise = 0.01 * random.normal(size=shape)
    else:
        noise = 0.01 * (random.gamma(2.0, 1.0, size=shape) - 2) / math.sqrt(2)  # skewness 1.4
    if kind == "outliers":
        noise += math.log(1.2) * (random.random(shape) < 0.05)
    return list(noise[..., 0] - noise[..., 1:].mean(axis=-1))


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 8, 10, 12, 20])
def test_intervals_hold_at_few_values(kind: str, size: int) -> None:
    found = estimate_means(draw(kind, size), seed=0)
    held = sum(one.low <= 0 <= one.high for one in found)  # type: ignore[operator]
    assert held / SAMPLES >= 0.93
    # And they are not wide for nothing: outliers alone make Student's t conservative.
    assert kind == "outliers" or held / SAMPLES <= 0.975


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("size", [4, 8, 12])
def test_p_values_are_below_a_level_no_more_often_than_it(kind: str, size: int) -> None:
    found = [one.p for one in estimate_means(draw(kind, size), seed=0)]
    assert sum(p < 0.05 for p in found if p is not None) / SAMPLES <= 0.065
    assert sum(p < 0.01 for p in found if p is not None) / SAMPLES <= 0.02


def test_an_outlier_of_eight_hides_no_difference() -> None:
    values = np.array([-0.05, -0.048, -0.052, -0.05, -0.051, -0.049, -0.05, 0.15])
    (found,) = estimate_means([values], seed=0)
    assert found.mean == pytest.approx(-0.05, abs=0.001)
    assert found.high is not None
    assert found.high < -0.04
    assert found.p is not None
    assert found.p < 0.001


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=7), st.integers(0, 99))
def test_fewer_than_eight_values_have_students_interval(values: list[float], seed: int) -> None:
    sample = np.array(values)
    if sample.std() < 1e-6:
        return
    (found,) = estimate_means([sample], seed)
    want = stats.ttest_1samp(sample, 0.0)
    interval = want.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.p == pytest.approx(want.pvalue, abs=1e-9)
    assert found.method == "student"


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=30))
def test_more_values_have_a_trimmed_mean_and_its_error(values: list[float]) -> None:
    sample = np.sort(values)
    size, cut = len(sample), count_trimmed(len(values))
    spread = stats.mstats.winsorize(sample, (cut / size, cut / size)).std(ddof=1)
    if spread < 1e-6:
        return
    (found,) = estimate_means([sample], seed=1)
    assert found.mean == pytest.approx(stats.trim_mean(sample, cut / size + 1e-9), abs=1e-9)
    assert found.deviation == pytest.approx(spread / (1 - 2 * cut / size), rel=1e-6)
    error = spread / (1 - 2 * cut / size) / math.sqrt(size)
    assert found.p == pytest.approx(t_p_value(found.mean / error, count_freedom(size)), abs=1e-9)
    assert found.low is not None
    assert found.low <= found.mean - t_quantile(0.025, count_freedom(size)) * error + 1e-9
    assert found.method == "bootstrap"


samples = st.lists(st.floats(-1, 1), min_size=2, max_size=16)


@given(samples, st.integers(0, 99))
def test_negated_values_have_the_negated_interval(values: list[float], seed: int) -> None:
    own, negated = estimate_means([np.array(values), -np.array(values)], seed)
    assert own.low is not None
    assert own.high is not None
    assert negated.mean == pytest.approx(-own.mean, abs=1e-12)
    assert (negated.low, negated.high) == pytest.approx((-own.high, -own.low), abs=1e-9)
    assert negated.p == pytest.approx(own.p, abs=1e-9)


@given(samples, st.randoms(use_true_random=False), st.integers(0, 99))
def test_the_order_of_the_values_changes_nothing(values, random, seed) -> None:
    shuffled = random.sample(values, len(values))
    assert estimate_means([np.array(values)], seed) == estimate_means([np.array(shuffled)], seed)


@given(samples, st.floats(0.01, 100))
def test_a_factor_scales_the_interval(values: list[float], factor: float) -> None:
    own, scaled = estimate_means([np.array(values), factor * np.array(values)], seed=3)
    assert own.low is not None
    assert scaled.low == pytest.approx(factor * own.low, rel=1e-6, abs=1e-9)
    assert scaled.mean == pytest.approx(factor * own.mean, rel=1e-6, abs=1e-9)


def test_samples_of_several_sizes_keep_their_order() -> None:
    sizes = [9, 1, 4, 9, 1]
    found = estimate_means([np.full(size, float(at)) for at, size in enumerate(sizes)], seed=0)
    assert [one.mean for one in found] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [one.values for one in found] == sizes


def test_one_value_has_no_interval_and_equal_values_have_no_width() -> None:
    one, zeros, equal = estimate_means([np.array([0.3]), np.zeros(9), np.full(9, 0.3)], seed=0)
    assert (one.mean, one.low, one.high, one.p) == (0.3, None, None, None)
    assert (zeros.low, zeros.high, zeros.p) == (0.0, 0.0, 1.0)
    assert (equal.low, equal.high, equal.p) == (pytest.approx(0.3), pytest.approx(0.3), 0.0)
