"""The arithmetic of routers: APGR and its interval, CPT, the oracle's curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.learning.router_curve import (
    accuracy_at,
    apgr,
    apgr_interval,
    choices_at,
    compute_curve,
    cost_at,
    cost_for,
    find_ends,
    gain_curve,
    oracle_curve,
)
from etui.stats.frontier import cheapest_correct

FIXED = np.array([1.0, 10.0])


def table(pairs: list[tuple[int, int]]):
    correct = np.array(pairs, dtype=bool)
    return correct, np.tile(FIXED, (len(correct), 1))


def area(p, correct, cost):
    curve = compute_curve(p, cost.mean(axis=0), correct, cost)
    return apgr(*gain_curve(curve, find_ends(correct, cost)))


def test_apgr_by_hand():
    # Sorted by score: gain, nothing, loss, gain. PGR over the share: 0, 1, 1, 0, 1.
    correct, cost = table([(0, 1), (1, 1), (1, 0), (0, 1)])
    p = np.array([[0.0, 0.9], [0.0, 0.6], [0.0, 0.3], [0.0, 0.1]])
    assert area(p, correct, cost) == pytest.approx(0.25 * (0.5 + 1 + 0.5 + 0.5))
    curve = compute_curve(p, FIXED, correct, cost)
    x, pgr = gain_curve(curve, find_ends(correct, cost))
    assert cost_for(x, pgr, 0.5) == pytest.approx(0.25)
    assert cost_for(x, pgr, 1.5) is None


def test_questions_of_equal_score_change_sides_together():
    correct, cost = table([(0, 1), (1, 1), (0, 0), (0, 1)])
    p = np.full((4, 2), 0.5)
    assert area(p, correct, cost) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=4, max_size=60))
def test_no_router_beats_the_oracle(pairs):
    correct, cost = table([*pairs, (0, 1)])
    ends = find_ends(correct, cost)
    if ends.gain <= 0:
        return
    best = apgr(*gain_curve(oracle_curve(correct, cost), ends))
    p = np.random.default_rng(len(pairs)).random(correct.shape)
    assert area(p, correct, cost) <= best + 1e-9
    taken = cheapest_correct(correct, cost)
    rows = np.arange(len(correct))
    assert correct[rows, taken].mean() == correct.any(axis=1).mean()
    # Where the cheap arm is right, or none is, the cheap arm is taken.
    assert not taken[correct[:, 0] | ~correct.any(axis=1)].any()


def test_a_router_over_three_arms_takes_each_where_it_pays():
    correct = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]] * 10, dtype=bool)
    cost = np.tile([1.0, 3.0, 9.0], (40, 1))
    curve = compute_curve(correct.astype(float), cost.mean(axis=0), correct, cost)
    assert curve.cost[0] == 1
    assert curve.accuracy[0] == 0.25
    assert curve.accuracy.max() == 0.75
    assert cost_at(curve, 0.75) == pytest.approx((1 + 3 + 9 + 1) / 4)
    assert cost_at(curve, 0.9) is None
    assert accuracy_at(curve, 1.0) == 0.25
    assert (np.diff(curve.cost) >= 0).all()
    taken = choices_at(correct.astype(float), np.array([1.0, 3.0, 9.0]), 0.01)
    assert taken[:4].tolist() == [0, 1, 2, 0]


def test_ends_are_the_cheapest_and_the_best_of_the_dearer():
    correct = np.array([[0, 1, 1], [0, 1, 0], [1, 1, 1]], dtype=bool)
    ends = find_ends(correct, np.tile([1.0, 4.0, 9.0], (3, 1)))
    assert (ends.weak, ends.strong) == (0, 1)
    assert ends.gain == pytest.approx(2 / 3)


def test_the_interval_of_apgr_holds_it():
    generator = np.random.default_rng(3)
    gain = generator.random(2000)
    weak, strong = generator.random(2000) < 0.5, generator.random(2000) < 0.5 + gain / 2
    found = apgr_interval(gain, weak, strong, seed=0, replicates=2000)
    correct = np.column_stack([weak, strong])
    exact = area(np.column_stack([0 * gain, gain]), correct, np.tile(FIXED, (2000, 1)))
    assert found.value == pytest.approx(exact, abs=2e-3)
    assert found.low < exact < found.high
    again = apgr_interval(generator.random(2000), weak, strong, seed=0, replicates=2000)
    assert again.low < 0.5 < again.high
