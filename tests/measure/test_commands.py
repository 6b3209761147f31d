"""Means of runs, and differences of pairs of runs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.measure.commands import Cost, compare_pairs, estimate_mean, plan_pairs


@given(st.integers(1, 60), st.integers(0, 9))
def test_as_many_pairs_begin_with_each_command(pairs, seed):
    orders = plan_pairs(pairs, random.Random(seed))
    first = [order[0] for order in orders]
    assert len(orders) == pairs
    assert abs(first.count(0) - first.count(1)) <= 1
    assert all(sorted(order) == [0, 1] for order in orders)


def noisy(pairs, ratio, noise, seed=1):
    draw = random.Random(seed)
    made = []
    for _ in range(pairs):
        common = draw.uniform(0.5, 2)  # what both runs of a pair have in common cancels
        a, b = (common * (1 + draw.gauss(0, noise)) for _ in range(2))
        made.append((Cost(100 * a, 5 * a), Cost(100 * b * ratio, 5 * b)))
    return made


def test_a_difference_of_pairs_is_found_though_the_pairs_differ_more():
    found = compare_pairs(noisy(30, 1.03, 0.01))
    assert found.joules is not None
    assert found.joules.is_claimed
    assert found.joules.low < 3.0 < found.joules.high
    assert found.joules_floor_percent == pytest.approx(0.75, rel=0.4)
    assert not found.seconds.is_claimed


@given(st.integers(0, 30))
def test_swapped_commands_have_the_reciprocal_difference(seed):
    pairs = noisy(9, 1.2, 0.05, seed)
    one, other = compare_pairs(pairs), compare_pairs([(b, a) for a, b in pairs])
    factor = (1 + one.joules.percent / 100) * (1 + other.joules.percent / 100)
    assert factor == pytest.approx(1)
    assert one.joules.is_claimed == other.joules.is_claimed


def test_unmeasured_joules_are_not_compared_and_seconds_are():
    pairs = [(Cost(None, a.seconds), b) for a, b in noisy(5, 1.0, 0.01)]
    found = compare_pairs(pairs)
    assert found.joules is None
    assert found.joules_floor_percent is None
    assert found.seconds is not None


def test_one_pair_claims_nothing():
    found = compare_pairs(noisy(1, 2.0, 0.01))
    assert not found.joules.is_claimed
    assert found.joules_floor_percent is None
    assert compare_pairs([]).joules is None


def test_the_meters_half_width_widens_a_mean_and_no_run_is_negative():
    alone = estimate_mean([10.0], [0.5])
    assert (alone.low, alone.high) == (9.5, 10.5)
    assert estimate_mean([10.0]).low is None
    scatter, both = estimate_mean([9.0, 10, 11]), estimate_mean([9.0, 10, 11], [3.0] * 3)
    assert both.high - 10 == pytest.approx(((scatter.high - 10) ** 2 + 9) ** 0.5)
    assert estimate_mean([0.1, 5.0]).low == 0.0
