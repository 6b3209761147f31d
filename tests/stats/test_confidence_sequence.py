"""The boundary against simulation, the estimate against brute force, and what must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.stats.confidence_sequence import (
    SLOPE,
    boundary_height,
    build_covariates,
    compute_interval,
    crossing_probability,
    estimate_prefix_mean,
    fixed_sample,
    questions_needed,
    within_variance,
)


def bridge_crossing(height: float, slope: float) -> float:
    """The crossing probability from the end of the path: a Brownian bridge crosses a line in [0, 1]
    with probability exp(-2 a c), a and c its distances from the line at both ends."""
    ends = np.linspace(-12, height, 40_001)
    density = np.exp(-(ends**2) / 2) / math.sqrt(2 * math.pi)
    below = np.exp(-2 * (height + slope) * (height - ends)) * density
    above = 0.5 * math.erfc(height / math.sqrt(2))
    return float(np.trapezoid(below, ends)) + above


@given(st.floats(0.2, 3.5), st.floats(0, 12))
def test_the_closed_form_is_that_of_the_bridge(height, slope):
    assert crossing_probability(height, slope) == pytest.approx(
        bridge_crossing(height, slope), abs=1e-6
    )


@settings(max_examples=8)
@given(st.floats(0.5, 2.5), st.floats(0, 6))
def test_the_closed_form_is_that_of_simulated_paths(height, slope):
    generator = np.random.default_rng(1)
    steps, paths = 60, 20_000
    walk = generator.normal(0, math.sqrt(1 / steps), (paths, steps)).cumsum(axis=1)
    times = np.arange(1, steps + 1) / steps
    gaps = np.column_stack([np.full(paths, height + slope), height + slope * (1 - times) - walk])
    safe = np.where(
        gaps[:, :-1] * (gaps[:, 1:] > 0) > 0,
        1 - np.exp(-2 * gaps[:, :-1] * gaps[:, 1:].clip(0) * steps),
        0.0,
    )
    crossed = 1 - safe.prod(axis=1).mean()
    assert crossed == pytest.approx(crossing_probability(height, slope), abs=0.012)


@pytest.mark.parametrize("slope", [0.0, 1.0, SLOPE, 10.0])
def test_both_sides_together_have_five_percent(slope):
    assert 2 * crossing_probability(boundary_height(slope), slope) == pytest.approx(0.05)
    assert 1.96 < boundary_height(slope) < 2.25


def test_a_constant_boundary_is_the_reflection_principle():
    assert crossing_probability(1.3, 0.0) == pytest.approx(math.erfc(1.3 / math.sqrt(2)))


VALUES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=60
)  # fmt: skip


@given(VALUES, st.integers(0, 500))
def test_an_interval_holds_its_value_and_stays_in_its_bounds(rows, more):
    values, strata = (np.array(column) for column in zip(*rows, strict=True))
    estimate = estimate_prefix_mean(values.astype(float), strata, len(rows) + more)
    assert estimate.value == pytest.approx(values.mean())
    for half_width in (0.005, 0.03, 0.2):
        found = compute_interval(estimate, half_width)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.reached == (found.time >= 1)
        if found.reached:
            assert found.half_width <= half_width + 1e-12
        elif more:
            assert found.half_width > half_width or len(rows) < 30


def test_a_census_leaves_nothing_unknown():
    values = np.array([1.0, 0, 0, 1, 1])
    found = compute_interval(estimate_prefix_mean(values, np.zeros(5, int), 5), 0.01)
    assert (found.low, found.high, found.half_width) == (0.6, 0.6, 0.0)
    assert found.reached


def test_a_model_that_is_always_right_does_not_stop_at_once():
    def after(count):
        estimate = estimate_prefix_mean(np.ones(count), np.arange(count) % 7, 14_000)
        return compute_interval(estimate, 0.03)

    assert not after(30).reached
    assert not after(80).reached
    found = after(110)
    assert found.reached
    # with 3 % wrong answers, 110 right ones in a row still happen (3.5 %): 97 % is not excluded
    assert found.low <= 0.97
    assert found.high == 1.0


def test_nothing_is_claimed_of_a_few_questions():
    estimate = estimate_prefix_mean(np.array([1.0, 0.0]), np.array([0, 0]), 10)
    found = compute_interval(estimate, 0.4)
    assert (found.low, found.high, found.reached) == (0.0, 1.0, False)


@pytest.mark.parametrize("sizes", [(40, 40, 20), (5,) * 20, (1,) * 60 + (40,), (100,)])
def test_the_variance_within_strata_is_unbiased_or_too_large(sizes):
    """Over draws of a tenth to a half of each stratum, against the variance of the population."""
    generator = np.random.default_rng(3)
    strata = np.repeat(np.arange(len(sizes)), sizes)
    p = generator.uniform(0.1, 0.9, len(sizes))
    values = (generator.random(len(strata)) < p[strata]).astype(float)
    true = within_variance(values, strata)
    found = []
    for _ in range(400):
        keys = np.concatenate([(generator.permutation(n) + generator.random()) / n for n in sizes])
        asked = keys.argsort()[:40]
        sample = estimate_prefix_mean(values[asked], strata[asked], 10**9)
        found.append(sample.variance)
    pseudo = 1.96**2 / 2 / 40
    assert np.mean(found) > 0.97 * true
    assert np.mean(found) < true + pseudo + 0.08


def test_a_covariate_that_explains_half_halves_the_variance():
    generator = np.random.default_rng(0)
    strata = np.arange(20_000) % 10
    easy = generator.normal(0, 1, 20_000)
    values = easy + generator.normal(0, 1, 20_000)
    covariates = build_covariates(easy)
    assert np.abs(covariates.mean(axis=0)).max() < 1e-12
    asked = slice(0, 1000)
    bounds = (-4.0, 4.0)
    plain = estimate_prefix_mean(values[asked], strata[asked], 20_000, bounds=bounds)
    helped = estimate_prefix_mean(
        values[asked], strata[asked], 20_000, bounds=bounds, covariates=covariates[asked]
    )
    assert helped.variance / plain.variance == pytest.approx(0.5, abs=0.05)
    assert helped.correlation == pytest.approx(math.sqrt(0.5), abs=0.03)
    # the sample's covariates are not those of the population, and the value is corrected for it
    drawn = easy[:1000].mean() - easy.mean()
    assert helped.value == pytest.approx(plain.value - drawn, abs=0.02)


def test_a_corrected_value_stays_within_its_bounds():
    generator = np.random.default_rng(2)
    easy = generator.normal(0, 1, 3000)
    values = (easy > -2.2).astype(float)
    asked = np.argsort(easy + generator.normal(0, 0.5, 3000))[:200]  # far too many hard ones
    estimate = estimate_prefix_mean(
        values[asked], asked % 3, 3000, covariates=build_covariates(easy)[asked]
    )
    assert 0 <= estimate.value <= 1
    found = compute_interval(estimate, 0.03)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.integers(0, 50))
def test_a_useless_covariate_never_widens(seed):
    generator = np.random.default_rng(seed)
    values = (generator.random(100) < 0.6).astype(float)
    strata = np.arange(100) % 9
    noise = build_covariates(generator.random(1000))[:100]
    plain = estimate_prefix_mean(values, strata, 1000)
    for covariates in (noise, np.zeros((100, 2))):
        helped = estimate_prefix_mean(values, strata, 1000, covariates=covariates)
        assert (
            compute_interval(helped, 0.05).half_width
            <= compute_interval(plain, 0.05).half_width + 1e-9
        )
    assert helped.correlation == 0.0
    assert helped.value == plain.value


@given(
    st.floats(0.001, 1.0), st.integers(2, 20_000), st.floats(0.002, 0.4)
)  # fmt: skip
def test_the_fixed_sample_just_reaches_the_width(variance, total, half_width):
    def width(count: int) -> float:
        return 1.959963984540054 * math.sqrt(variance * (1 / count - 1 / total))

    count = fixed_sample(variance, total, half_width)
    assert 1 <= count <= total
    assert width(count) <= half_width * (1 + 1e-9)
    if count > 1:
        assert width(count - 1) >= half_width * (1 - 1e-9)


def test_the_predicted_number_of_questions_is_where_the_sequence_stops():
    generator = np.random.default_rng(5)
    values = (generator.random(14_000) < 0.7).astype(float)
    strata = np.arange(14_000) % 57
    early = estimate_prefix_mean(values[:300], strata[:300], 14_000)
    needed = questions_needed(early, 0.03)
    stop = next(
        count
        for count in range(300, 14_000, 5)
        if compute_interval(
            estimate_prefix_mean(values[:count], strata[:count], 14_000), 0.03
        ).reached
    )
    assert needed == pytest.approx(stop, rel=0.08)
    assert 0 < early.variance_error < 0.2


def test_equal_systems_are_known_to_be_equal_after_a_hundred_questions():
    estimate = estimate_prefix_mean(np.zeros(100), np.arange(100) % 5, 14_000, bounds=(-1.0, 1.0))
    found = compute_interval(estimate, 0.03)
    assert found.reached
    assert found.low == pytest.approx(-found.high)
