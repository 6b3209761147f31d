"""Shares and tests against brute force and against closed forms."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.tests import holm, mcnemar, wilson

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
