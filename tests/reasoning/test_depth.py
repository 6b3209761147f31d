"""Decisions on the depth of thought: numbers in, a reason or none out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import EarlyExit, TokenCost
from etui.reasoning.cot import JoulesSpent, ProbedAnswer, check_confidence, check_gain, check_joules

PRICE = TokenCost(0.5, 0.001, 0.05)
COUNTS = st.integers(0, 2000)


def probed(*seen):
    return [ProbedAnswer(key, probability) for key, probability in seen]


@given(context=COUNTS, first=COUNTS, second=COUNTS)
def test_chunks_cost_what_they_cost_together(context, first, second):
    whole = PRICE.decode_joules(context, first + second)
    parts = PRICE.decode_joules(context, first) + PRICE.decode_joules(context + first, second)
    assert parts == pytest.approx(whole)


def test_the_price_is_the_integral_over_the_context():
    one_by_one = sum(0.5 + 0.001 * (100 + n + 0.5) for n in range(48))
    assert PRICE.decode_joules(100, 48) == pytest.approx(one_by_one)


@pytest.mark.parametrize(
    ("seen", "fires"),
    [
        ((("A", 0.95), ("A", 0.96)), True),
        ((("B", 0.99), ("A", 0.95), ("A", 0.9)), True),
        ((("A", 0.95),), False),
        ((("A", 0.95), ("B", 0.95)), False),
        ((("A", 0.89), ("A", 0.95)), False),
        (((None, 0.95), (None, 0.95)), False),
        ((), False),
    ],
)
def test_an_answer_must_be_confident_and_stable(seen, fires):
    assert (check_confidence(probed(*seen), EarlyExit(48, 0.9, 2)) is not None) == fires


def test_one_look_can_be_enough():
    reason = check_confidence(probed(("A", 0.97)), EarlyExit(48, 0.9, 1))
    assert reason == "the answer was 97 % certain"


def test_a_chunk_that_does_not_fit_is_too_dear():
    # 100 prompt tokens at 0.05 J, 48 of thought, 48 more, 10 for the answer.
    flat = TokenCost(0.5, 0.0, 0.05)
    needed = 100 * 0.05 + (48 + 48 + 10) * 0.5
    fits = JoulesSpent(flat, needed, 100, 10)
    assert check_joules(fits, 148, 48, 48) is None
    short = JoulesSpent(flat, needed - 4.0, 100, 10)
    assert check_joules(short, 148, 48, 48) == (
        "48 more tokens would cost ≈24 J, but only ≈20 J of 54.0 J is left for thinking"
    )


@pytest.mark.parametrize(
    "spending", [JoulesSpent(None, 10.0, 100, 10), JoulesSpent(PRICE, None, 100, 10)]
)
def test_without_a_price_or_a_limit_nothing_is_too_dear(spending):
    assert check_joules(spending, 10_000, 9_000, 1_000) is None


@given(limit=st.floats(1, 1e4), context=COUNTS, thought=COUNTS, chunk=st.integers(1, 200))
def test_a_larger_budget_never_stops_earlier(limit, context, thought, chunk):
    small = check_joules(JoulesSpent(PRICE, limit, 50, 20), context + thought, thought, chunk)
    large = check_joules(JoulesSpent(PRICE, 2 * limit, 50, 20), context + thought, thought, chunk)
    assert small is not None or large is None


def test_thought_that_gains_nothing_is_not_worth_it():
    flat = probed(("A", 0.5), ("A", 0.5), ("A", 0.5))
    assert "0 % more confidence" in str(check_gain(flat, PRICE, 1e6, 100, 48))
    gaining = probed(("A", 0.4), ("A", 0.5), ("A", 0.6))
    cost = PRICE.decode_joules(100, 48)
    assert check_gain(gaining, PRICE, cost / 10.0 * 1.001, 100, 48) is None
    assert check_gain(gaining, PRICE, cost / 10.0 * 0.999, 100, 48) is not None
    near = probed(("A", 0.5), ("A", 0.75), ("A", 0.99))  # one point at most is left
    assert check_gain(near, PRICE, cost / 2.0, 100, 48) is not None


def test_two_gains_are_waited_for_and_a_price():
    assert check_gain(probed(("A", 0.5), ("A", 0.4)), PRICE, 0.001, 100, 48) is None
    assert check_gain(probed(*[("A", 0.5)] * 5), None, 0.001, 100, 48) is None
