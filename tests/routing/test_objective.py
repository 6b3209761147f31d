"""An objective that trades accuracy against joules at a stated rate."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.routing.objective import weigh
from etui.routing.policy import ArmPlan, Objective
from tests.routing.test_resolve import QUERY, Known

ARMS = {name: ArmPlan(name, (name,), Arm(name, name)) for name in ("quick", "large")}


def winner(known: Known, exchange: float) -> str:
    objective = Objective("accuracy", tuple(ARMS), exchange=exchange)
    weighed = weigh(objective, ARMS, QUERY, lambda _: True, predictor=known, resident=None)
    assert weighed.winner is not None
    return weighed.winner.arm.name


def known(quick: tuple[float, float], large: tuple[float, float]) -> Known:
    """Each arm's joules and probability of being right."""
    right = {"quick": (quick[1], quick[1]), "large": (large[1], large[1])}
    return Known({"quick": quick[0], "large": large[0]}, right, load=0.0)


def test_a_gain_is_bought_up_to_its_price_and_not_above_it() -> None:
    arms = known((10.0, 0.50), (60.0, 0.60))  # 50 J for ten points
    assert winner(arms, 5.1) == "large"
    assert winner(arms, 4.9) == "quick"


@given(
    st.tuples(st.floats(1, 1e4), st.floats(0, 1)),
    st.tuples(st.floats(1, 1e4), st.floats(0, 1)),
    st.floats(1e-3, 1e3),
)
def test_a_higher_rate_never_buys_less_accuracy(
    quick: tuple[float, float], large: tuple[float, float], exchange: float
) -> None:
    arms = known(quick, large)
    p = {"quick": quick[1], "large": large[1]}
    assert p[winner(arms, 2 * exchange)] >= p[winner(arms, exchange)] - 1e-9


@given(
    st.tuples(st.floats(1, 1e4), st.floats(0, 1)),
    st.tuples(st.floats(1, 1e4), st.floats(0, 1)),
    st.floats(1e-3, 1e3),
)
def test_the_winner_has_the_highest_worth(
    quick: tuple[float, float], large: tuple[float, float], exchange: float
) -> None:
    worth = {
        name: 100 * p * exchange - joules
        for name, (joules, p) in (("quick", quick), ("large", large))
    }
    assume(abs(worth["quick"] - worth["large"]) > 1e-6 * (1 + abs(worth["quick"])))
    assert winner(known(quick, large), exchange) == max(worth, key=lambda name: worth[name])


def test_an_arm_of_unknown_joules_is_not_taken() -> None:
    arms = known((10.0, 0.5), (60.0, 0.9))
    assert winner(Known({"quick": 10.0}, arms.right), 1e3) == "quick"
