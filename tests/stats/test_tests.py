"""Shares and tests against brute force and against closed forms."""

from __future__ import annotations

import math
import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.distributions import fit_non_negative, t_quantile
from etui.stats.tests import (
    compute_capital,
    count_questions_needed,
    estimate_paired_mean,
    holm,
    mcnemar,
    wilson,
)

DIFFERENCES = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=60)


@given(DIFFERENCES)
def test_the_interval_contains_the_mean_and_is_never_a_point(values: list[float]) -> None:
    found = estimate_paired_mean(np.array(values))
    assert found.value == pytest.approx(np.mean(values))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01
    assert 0 <= found.p <= 1


@given(DIFFERENCES)
def test_swapping_the_sides_negates_the_result(values: list[float]) -> None:
    one, other = (estimate_paired_mean(np.array(values) * sign) for sign in (1, -1))
    assert one.low == pytest.approx(-other.high)
    assert one.p == pytest.approx(other.p)


def test_three_unanimous_answers_are_no_evidence() -> None:
    found = estimate_paired_mean(np.array([1.0, 1.0, 1.0]))
    assert found.low < 0
    assert found.p > 0.05


@pytest.mark.parametrize(
    ("gain", "loss", "count"), [(0.05, 0.05, 12), (0.2, 0.1, 30), (0.1, 0, 40)]
)
def test_the_interval_covers_the_truth_at_few_questions(gain, loss, count) -> None:
    draw = np.random.default_rng(1)
    rows = draw.choice([1.0, -1.0, 0.0], p=[gain, loss, 1 - gain - loss], size=(1500, count))
    found = [estimate_paired_mean(row) for row in rows]
    covered = sum(one.low <= gain - loss <= one.high for one in found) / len(found)
    assert covered >= 0.945


def test_more_questions_are_needed_for_smaller_differences_and_more_looks() -> None:
    assert count_questions_needed(0.5, 0.1) == 197
    assert count_questions_needed(0.5, 0.05) > 3.9 * 197
    assert count_questions_needed(0.5, 0.1, looks=7) > 197


def test_the_needed_questions_show_the_difference_in_four_of_five_runs() -> None:
    gain, loss = 0.3, 0.15
    deviation = math.sqrt(gain + loss - (gain - loss) ** 2)
    count = count_questions_needed(deviation, gain - loss)
    draw = np.random.default_rng(2)
    rows = draw.choice([1.0, -1.0, 0.0], p=[gain, loss, 1 - gain - loss], size=(800, count))
    shown = sum(estimate_paired_mean(row).low > 0 for row in rows) / len(rows)
    assert shown == pytest.approx(0.8, abs=0.05)


def test_coefficients_of_exact_values_are_found():
    rows = [(1.0, x, y) for x, y in ((1.0, 2.0), (3.0, 1.0), (5.0, 7.0), (2.0, 9.0))]
    values = [2 + 3 * x + 0.5 * y for _, x, y in rows]
    assert fit_non_negative(rows, values) == pytest.approx([2, 3, 0.5])


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-100, 100)), min_size=3, max_size=20))
def test_no_coefficient_is_negative(points):
    found = fit_non_negative([(1.0, x) for x, _ in points], [y for _, y in points])
    assert all(coefficient >= 0 for coefficient in found)


@given(st.lists(st.floats(-1, 1), max_size=50))
def test_capital_is_at_least_the_start_and_never_falls_with_more_values(
    values: list[float],
) -> None:
    assert compute_capital(values) >= 1
    assert compute_capital([*values, 1.0]) >= compute_capital(values)


def test_without_a_mean_few_series_are_rejected_at_any_time() -> None:
    draw = random.Random(0)
    wrong = sum(compute_capital(draw.choice((-1, 1)) for _ in range(300)) >= 20 for _ in range(400))
    assert wrong / 400 <= 0.05


def test_a_mean_above_zero_is_found() -> None:
    draw = random.Random(0)
    found = sum(
        compute_capital(draw.uniform(-0.6, 1.0) for _ in range(300)) >= 20 for _ in range(50)
    )
    assert found >= 45


def test_a_long_series_does_not_overflow_and_a_value_out_of_range_is_refused() -> None:
    assert compute_capital([1.0] * 5000) >= 1e200
    with pytest.raises(ValueError, match="not in"):
        compute_capital([1.5])


@pytest.mark.parametrize(
    ("tail", "degrees", "value"),
    [(0.025, 1, 12.706), (0.025, 10, 2.228), (0.05, 5, 2.015), (0.0005, 20, 3.850), (0.5, 3, 0.0)],
)
def test_quantiles_are_those_of_the_table(tail, degrees, value):
    assert t_quantile(tail, degrees) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(("tail", "degrees"), [(0.0, 3), (0.6, 3), (0.05, 0)])
def test_what_has_no_quantile_is_refused(tail, degrees):
    with pytest.raises(ValueError, match="quantile"):
        t_quantile(tail, degrees)


counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_ends_are_where_the_score_test_just_rejects(pair: tuple[int, int]) -> None:
    successes, trials = pair
    found = wilson(successes, trials)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    for end in (found.low, found.high):
        if 1e-9 < end < 1 - 1e-9:
            score = (found.value - end) / math.sqrt(end * (1 - end) / trials)
            assert abs(score) == pytest.approx(1.959964, abs=1e-5)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


@given(st.integers(0, 6), st.integers(0, 6))
def test_mcnemar_counts_every_split_at_least_as_uneven(first: int, second: int) -> None:
    total = first + second
    extreme = abs(first - second)
    splits = [sum(bits) for bits in product((0, 1), repeat=total)]
    uneven = sum(abs(2 * k - total) >= extreme for k in splits)
    assert mcnemar(first, second) == pytest.approx(uneven / len(splits))


def test_mcnemar_without_a_discordant_pair_shows_nothing() -> None:
    assert mcnemar(0, 0) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= 1
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    assert [adjusted[at] for at in order] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


@pytest.mark.parametrize(("few", "trials"), [(0, 64), (20, 70), (3, 999), (480, 1001)])
def test_counts_of_numpy_give_the_p_value_of_whole_numbers(few: int, trials: int) -> None:
    counted = mcnemar(np.int64(few), np.int64(trials - few))  # type: ignore[arg-type]
    assert 0 < counted == mcnemar(few, trials - few) < 1


def test_the_p_value_of_many_questions_is_computed_at_once() -> None:
    # A sum of binomial coefficients that are each computed alone takes minutes here.
    few, trials = 29_700, 60_000
    height = (trials - 2 * few - 1) / math.sqrt(trials)
    assert mcnemar(few, trials - few) == pytest.approx(math.erfc(height / math.sqrt(2)), rel=1e-3)
