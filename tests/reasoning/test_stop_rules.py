"""Stop rules of a vote against enumeration and against all the votes."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import VoteStop
from etui.reasoning.vote_count import flip_probability, majority_probability, tally, verdict

KEYS = st.sampled_from(["A", "B", "C", "D", None])
WEIGHTS = st.floats(0.0, 1.0)
LEAD = VoteStop("lead")


def casts(keys, weights=None):
    return list(zip(keys, weights or [1.0] * len(keys), strict=True))


def flips_by_enumeration(a: int, b: int, left: int) -> Fraction:
    """Every sequence of the votes to come, each drawn with the share seen so far (Laplace)."""
    lost = Fraction(0)
    for future in product((True, False), repeat=left):
        chance, x, y = Fraction(1), a, b
        for for_leader in future:
            chance *= Fraction((x if for_leader else y) + 1, x + y + 2)
            x, y = (x + 1, y) if for_leader else (x, y + 1)
        if x <= y:
            lost += chance
    return lost


@pytest.mark.parametrize("left", range(8))
@pytest.mark.parametrize(("a", "b"), [(1, 0), (2, 0), (3, 0), (3, 1), (4, 2), (2, 2), (5, 1)])
def test_flip_is_exact(a, b, left):
    assert flip_probability(a, b, left) == pytest.approx(
        float(flips_by_enumeration(a, b, left)), abs=1e-12
    )


@given(a=st.integers(0, 30), b=st.integers(0, 30))
def test_adaptive_is_the_upper_half_of_a_beta(a, b):
    a, b = max(a, b), min(a, b)
    # The integral of p^a (1-p)^b over the upper half, term by term, over its whole.
    upper = sum(
        Fraction((-1) ** i * comb(b, i)) * (1 - Fraction(1, 2 ** (a + i + 1))) / (a + i + 1)
        for i in range(b + 1)
    )
    whole = Fraction(1, (a + b + 1) * comb(a + b, a))
    assert majority_probability(a, b) == pytest.approx(float(upper / whole), abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "chance"),
    [(2, 0, 0.875), (3, 0, 0.938), (4, 0, 0.969), (4, 1, 0.891), (5, 1, 0.938), (6, 1, 0.965)],
)
def test_adaptive_has_the_published_values(a, b, chance):
    assert majority_probability(a, b) == pytest.approx(chance, abs=5e-4)


@given(
    votes=st.lists(st.tuples(KEYS, WEIGHTS), min_size=1, max_size=12), stop_after=st.integers(1, 12)
)
def test_lead_never_changes_the_winner(votes, stop_after):
    cast = list(votes)
    for count in range(1, len(cast) + 1):
        state = tally(cast[:count])
        if verdict(state, len(cast) - count, LEAD).stop:
            assert tally(cast).key == state.key
            return
    raise AssertionError("the last vote always ends it")


@given(keys=st.lists(KEYS, min_size=1, max_size=10), rule=st.sampled_from(["flip", "adaptive"]))
def test_the_other_rules_stop_no_later_than_lead(keys, rule):
    state = tally(casts(keys))
    for left in range(6):
        if verdict(state, left, LEAD).stop:
            assert verdict(state, left, VoteStop(rule)).stop


@given(keys=st.lists(KEYS, min_size=1, max_size=10), left=st.integers(0, 9))
def test_chances_are_probabilities(keys, left):
    for rule in ("flip", "adaptive"):
        chance = verdict(tally(casts(keys)), left, VoteStop(rule)).chance
        assert chance is None or 0.0 <= chance <= 1.0
    assert verdict(tally(casts(keys)), left, VoteStop("all")).stop is (left == 0)


def test_three_of_eight_that_agree_are_enough_at_five_percent():
    assert not verdict(tally(casts("AA")), 6, VoteStop("flip")).stop
    found = verdict(tally(casts("AAA")), 5, VoteStop("flip"))
    assert (found.stop, found.rule) == (True, "flip")
    assert found.chance == pytest.approx(0.0397, abs=1e-4)
    state = tally(casts("AAA"))
    assert not verdict(state, 5, VoteStop("flip", eps=0.01)).stop
    assert not verdict(state, 5, VoteStop("adaptive")).stop
    assert verdict(state, 5, VoteStop("adaptive", threshold=0.9)).stop


def test_of_equal_sums_the_earlier_leader_wins():
    assert tally(casts("ABBA")).key == "B"  # B had two first
    assert tally(casts("AB")).key == "A"
    assert tally(casts("BA")).key == "B"


def test_votes_without_an_answer_count_for_nobody():
    state = tally(casts([None, "A", None]))
    assert (state.key, state.leader, state.count, state.for_leader) == ("A", 1.0, 3, 1)
    assert state.agreement == pytest.approx(1 / 3)
    assert tally(casts([None, None])).key is None
    assert tally([]).agreement == 0.0


def test_weights_can_overrule_the_count_and_nothing_decides_nothing():
    state = tally(casts("AAB", [0.2, 0.2, 0.9]))
    assert (state.key, state.for_leader) == ("B", 1)
    state = tally(casts("AAA", [0.0, 0.0, 0.0]))
    assert not verdict(state, 2, VoteStop("flip")).stop


@given(st.lists(KEYS, min_size=1, max_size=9), st.integers(1, 9))
def test_unanimous_stops_exactly_at_the_first_vote_that_differs(keys, left):
    first = next((at for at, key in enumerate(keys) if key is None or key != keys[0]), None)
    for count in range(1, len(keys) + 1):
        stopped = verdict(tally(casts(keys[:count])), left, VoteStop("unanimous")).stop
        assert stopped == (first is not None and count > first)
