"""Figures: medians, their intervals, and sides that take turns."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Figure, in_turn, median_interval, median_of, ratio_of

pytestmark = pytest.mark.slow


def test_a_ratio_is_the_median_over_the_rounds():
    found = ratio_of("a : b", [(1.0, 2.0), (3.0, 2.0), (8.0, 4.0)])
    assert found == Figure("a : b", 1.5, "x", "ratio", 3, 0.5, 2.0)
    assert ratio_of("a : b", [(1.0, 4.0)], "%") == Figure("a : b", 25.0, "%", "ratio", 1)


def test_an_absolute_figure_says_so():
    assert median_of("a", [3.0, 1.0], "ms", "absolute").kind == "absolute"


def test_sides_go_first_by_turns():
    order: list[str] = []
    pairs = in_turn(lambda: order.append("a") or 1, lambda: order.append("b") or 2, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert pairs == [(1, 2)] * 3


@pytest.mark.parametrize(
    ("n", "skipped"), [(2, 0), (4, 0), (5, 0), (7, 0), (8, 1), (10, 1), (20, 5)]
)
def test_the_interval_of_a_median_by_hand(n, skipped):
    # Of 8 values the second to the seventh cover the median with 1 - 2 * 9 / 256 = 93 %,
    # the third to the sixth with 71 %; of 20 the sixth to the fifteenth with 95.9 %.
    assert median_interval(list(range(n))) == (skipped, n - 1 - skipped)


@given(st.integers(5, 60))
def test_the_interval_covers_ninety_percent_and_is_the_shortest_that_does(n):
    low, _ = median_interval(list(range(n)))
    assert low is not None

    def coverage(skip: int) -> float:
        return 1 - 2 * sum(math.comb(n, k) for k in range(skip + 1)) / 2**n

    assert coverage(int(low)) >= 0.9
    assert coverage(int(low) + 1) < 0.9


def test_one_value_has_no_interval():
    assert median_interval([3.0]) == (None, None)
