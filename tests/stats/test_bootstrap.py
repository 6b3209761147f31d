"""Resamples: their spread against closed forms, and what seeds, strata and chunks change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.stats.bootstrap import (
    PLAIN_REPLICATES,
    STRATIFIED_REPLICATES,
    compute_interval,
    multinomial_draw,
    percentiles,
    ratio,
    resample_means,
    resample_sums,
    sum_weighted,
)


@settings(max_examples=15)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 10**6))
def test_the_bootstrap_has_the_variance_of_a_stratified_sum(
    size: int, strata: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(strata, size))
    labels = [f"s{at}" for at in range(strata) for _ in range(size)]
    sums = resample_sums(values.reshape(-1, 1), labels, seed, 6000)[:, 0]
    exact = sum(size * np.var(inside, ddof=1) for inside in values)
    assert np.var(sums) == pytest.approx(exact, rel=0.15)
    assert sums.mean() == pytest.approx(values.sum(), abs=5 * math.sqrt(exact / 6000) + 1e-9)


def test_the_bootstrap_keeps_each_stratum_to_itself() -> None:
    columns = [[1.0], [1.0], [5.0], [5.0], [5.0]]
    assert np.all(resample_sums(columns, ["a", "a", "b", "b", "b"], 0, 50) == pytest.approx(17.0))


def test_single_questions_are_pooled_and_one_alone_has_no_spread() -> None:
    pooled = resample_sums([[0.0], [1.0], [2.0]], ["a", "b", "c"], 0, 500)
    assert np.var(pooled) > 0
    joined = resample_sums([[0.0], [1.0], [7.0]], ["a", "a", "b"], 0, 500)
    assert np.var(joined) > 0
    assert np.all(resample_sums([[3.0]], ["a"], 0, 10) == 3.0)


def test_equal_seeds_give_equal_samples() -> None:
    columns, labels = [[float(at)] for at in range(30)], [str(at % 3) for at in range(30)]
    assert np.array_equal(resample_sums(columns, labels, 7), resample_sums(columns, labels, 7))
    assert not np.array_equal(resample_sums(columns, labels, 7), resample_sums(columns, labels, 8))


def test_an_infinite_end_is_none() -> None:
    above, below = np.ones(100), np.array([0.0] * 10 + [1.0] * 90)
    low, high = percentiles(ratio(above, below))
    assert (low, high) == (1.0, None)


def test_resamples_have_the_spread_of_a_mean():
    right = (np.arange(400) % 4 > 0).astype(float)[:, None]
    means = resample_means(right, seed=1)
    assert means.shape == (10_000, 1)
    assert means.mean() == pytest.approx(0.75, abs=0.002)
    assert means.std() == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.05)
    assert (means == resample_means(right, seed=1)).all()


def test_resamples_of_many_kinds_have_the_same_spread():
    columns = np.random.default_rng(0).lognormal(0, 1, (5000, 1))
    means = resample_means(columns, seed=1, replicates=2000)
    assert means.mean() == pytest.approx(columns.mean(), rel=2e-3)
    assert means.std() == pytest.approx(columns.std() / 5000**0.5, rel=0.06)
    assert (means == resample_means(columns, seed=1, replicates=2000)).all()


def test_pairs_keep_their_correlation():
    one = np.random.default_rng(2).random(300) < 0.6
    columns = np.column_stack([one, one]).astype(float)
    drawn = resample_means(columns, seed=0)
    same = compute_interval(columns, drawn, lambda means: means[:, 0] - means[:, 1])
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


seeds = st.integers(0, 2**32 - 1)
columns_of = st.integers(2, 40).flatmap(
    lambda n: st.lists(
        st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=n, max_size=n
    )
)


@given(columns_of, seeds)
def test_one_seed_gives_one_set_of_replicates(rows: list[tuple[float, float]], seed: int) -> None:
    labels = [str(at % 3) for at in range(len(rows))]
    columns = np.array(rows)
    for draw in (
        lambda: resample_sums(columns, labels, seed, 60),
        lambda: resample_means(columns, seed, 60),
    ):
        assert draw().shape == (60, 2)
        assert np.array_equal(draw(), draw())


@given(columns_of, seeds)
def test_the_name_of_a_stratum_changes_nothing(rows: list[tuple[float, float]], seed: int) -> None:
    one = resample_sums(rows, ["a"] * len(rows), seed, 40)
    assert np.array_equal(one, resample_sums(rows, ["z"] * len(rows), seed, 40))
    # Strata of one question each are pooled to a single stratum.
    assert np.array_equal(
        one, resample_sums(rows, [f"{at:03}" for at in range(len(rows))], seed, 40)
    )


@settings(max_examples=10)
@given(st.integers(30, 120), seeds)
def test_one_stratum_has_the_spread_of_the_plain_bootstrap(size: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(size, 1))
    sums = resample_sums(values, ["all"] * size, seed) / size
    means = resample_means(values, seed)
    assert (len(sums), len(means)) == (STRATIFIED_REPLICATES, PLAIN_REPLICATES)
    # Rao and Wu's weights estimate the variance without bias, the plain ones are (n-1)/n of it.
    assert sums.std() == pytest.approx(means.std() * math.sqrt(size / (size - 1)), rel=0.07)
    assert sums.mean() == pytest.approx(means.mean(), abs=6 * means.std() / math.sqrt(4000))


@settings(max_examples=10)
@given(st.integers(20, 60), seeds)
def test_the_interval_shrinks_with_the_root_of_the_questions(size: int, seed: int) -> None:
    few = np.random.default_rng(seed).normal(size=(size, 1))
    many = np.tile(few, (16, 1))

    def width(values: np.ndarray) -> float:
        found = compute_interval(values, resample_means(values, seed, 4000), lambda m: m[:, 0])
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        sums = resample_sums(values, ["all"] * len(values), seed) / len(values)
        low, high = percentiles(sums[:, 0])
        assert low is not None
        assert high is not None
        assert high - low == pytest.approx(found.high - found.low, rel=0.15)
        return found.high - found.low

    assert width(many) == pytest.approx(width(few) / 4, rel=0.15)


@given(columns_of, seeds)
def test_resamples_stay_within_the_values(rows: list[tuple[float, float]], seed: int) -> None:
    columns = np.array(rows)
    means = resample_means(columns, seed, 50)
    assert (means >= columns.min(axis=0) - 1e-9).all()
    assert (means <= columns.max(axis=0) + 1e-9).all()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 90), st.integers(1, 40))
def test_every_resample_holds_as_many_questions(
    counts: list[int], replicates: int, chunk: int
) -> None:
    draw = multinomial_draw(np.random.default_rng(0), np.array(counts))
    asked: list[int] = []

    def counted(rows: int) -> np.ndarray:
        asked.append(rows)
        return draw(rows)

    totals = sum_weighted(counted, np.ones(len(counts)), replicates, chunk)
    assert totals.tolist() == [sum(counts)] * replicates
    assert sum(asked) == replicates
    assert max(asked) <= chunk


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_both_ways_to_take_percentiles_are_a_rank_apart_at_most(values: list[float]) -> None:
    ordered = np.sort(values)
    for method in ("linear", "nearest"):
        low, high = percentiles(np.array(values), method)
        assert low is not None
        assert high is not None
        for end, tail in ((low, 0.025), (high, 0.975)):
            rank = tail * (len(ordered) - 1)
            slack = 1e-9 * (1 + abs(end))
            assert ordered[math.floor(rank)] - slack <= end <= ordered[math.ceil(rank)] + slack


def test_the_nearest_rank_needs_no_finite_neighbour() -> None:
    values = np.array([0.0] * 39 + [math.inf])
    assert percentiles(values, "nearest") == (0.0, 0.0)
    assert percentiles(values, "linear") == (0.0, None)
