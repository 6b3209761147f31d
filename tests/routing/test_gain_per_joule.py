"""One rule trades accuracy against joules, in a replay and live: the Lagrangian over the hull."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Query
from etui.learning.judge import choices_at
from etui.routing.objective import weigh
from etui.routing.policy import ArmPlan, Objective
from etui.stats.frontier import hull
from tests.routing.known import Known

ARM = st.tuples(st.integers(1, 60), st.integers(0, 20))
"""Joules, and accuracy in twentieths: equal ones are common."""
ARMS = st.lists(ARM, min_size=1, max_size=7)
EXCHANGE = st.integers(1, 40).map(lambda number: number / 4)


def choose_live(arms, exchange):
    plans = {f"a{at}": ArmPlan("m", ("m",), Arm(f"a{at}", "m")) for at in range(len(arms))}
    objective = Objective(goal="accuracy", arms=tuple(plans), exchange=exchange)
    named = dict(zip(plans, arms, strict=True))
    stated = Known(
        {name: float(joules) for name, (joules, _) in named.items()},
        {name: (right / 20, right / 20) for name, (_, right) in named.items()},
    )
    found = weigh(
        objective,
        MappingProxyType(plans),
        Query("?"),
        lambda model: True,
        predictor=stated,
        resident=None,
    )
    return int(found.winner.arm.name[1:])


def choose_replayed(arms, price):
    joules, p = np.array(arms, dtype=float).T
    return int(choices_at(p[None, :] / 20, joules, price)[0])


@given(ARMS, EXCHANGE)
def test_live_and_replay_choose_alike(arms, exchange):
    # A percentage point may cost `exchange` joules: a joule is worth 1 / (100 * exchange).
    live, replayed = choose_live(arms, exchange), choose_replayed(arms, 1 / (100 * exchange))

    def value(arm):
        return 100 * exchange * arm[1] / 20 - arm[0]

    assert value(arms[live]) == pytest.approx(value(arms[replayed]))
    others = sorted(value(arm) for arm in set(arms) - {arms[live]})
    if not others or others[-1] < value(arms[live]) - 1e-6:
        assert arms[live] == arms[replayed]


@given(ARMS, st.floats(1e-4, 1.0))
def test_no_price_chooses_an_arm_below_the_hull(arms, price):
    chosen = arms[choose_replayed(arms, price)]
    points = {at: (float(joules), p / 20) for at, (joules, p) in enumerate(arms)}
    corners = [points[at] for at in hull(points)]
    joules, p = chosen[0], chosen[1] / 20
    best = max(y - price * x for x, y in corners)
    assert p - price * joules == pytest.approx(best)


@given(ARMS, st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=5))
def test_a_lower_price_never_buys_less(arms, prices):
    costs = [arms[choose_replayed(arms, price)][0] for price in sorted(prices, reverse=True)]
    assert costs == sorted(costs)


def test_of_equal_arms_the_cheaper_one_answers_in_any_order():
    arms = [(30, 15), (8, 15), (3, 10), (8, 15)]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        shuffled = [arms[at] for at in order]
        assert shuffled[choose_replayed(shuffled, 0.0)] == (8, 15)
        assert shuffled[choose_live(shuffled, 100.0)] == (8, 15)
