"""The hull and its mixtures: one set of points, and many sets at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.frontier import hull, mixture_accuracies, mixture_costs
from tests.support.mixture import mixture_accuracy

points = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.floats(0.01, 100), st.floats(0, 1)),
    min_size=1,
    max_size=7,
)
# Costs a millionth apart or equal: sets of points take those within 1e-12 for equal.
costs_apart = st.floats(0.1, 120).map(lambda cost: round(cost, 6))
arms = st.lists(
    st.tuples(costs_apart, st.integers(0, 100).map(lambda n: n / 100)), min_size=1, max_size=6
)


def columns(found: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """One resample: costs and accuracies, shape (1, arms)."""
    return np.array([[x for x, _ in found]]), np.array([[y for _, y in found]])


@given(points)
def test_nothing_is_above_the_hull(found: dict[str, tuple[float, float]]) -> None:
    on = hull(found)
    assert on
    costs = [found[name] for name in on]
    assert costs == sorted(costs)
    for joules, accuracy in found.values():
        best = mixture_accuracy(found, joules)
        assert best is not None
        assert best >= accuracy - 1e-9
    assert mixture_accuracy(found, costs[0][0] * 0.5) is None
    assert mixture_accuracy(found, costs[-1][0] * 2) == costs[-1][1]


@given(points)
def test_the_hull_rises_ever_more_slowly(found: dict[str, tuple[float, float]]) -> None:
    corners = [found[name] for name in hull(found)]
    for (x0, y0), (x1, y1) in pairwise(corners):
        assert x0 < x1
        assert y0 < y1
    for (x0, y0), (x1, y1), (x2, y2) in zip(corners, corners[1:], corners[2:], strict=False):
        assert (y1 - y0) * (x2 - x0) > (y2 - y0) * (x1 - x0)


@given(arms, st.floats(0, 1))
def test_a_mixture_is_concave_in_its_cost(found: list[tuple[float, float]], share: float) -> None:
    named = dict(enumerate(found))
    corners = [named[at] for at in hull(named)]
    first, last = corners[0][0], corners[-1][0]
    for x0, x1 in ((first, last), (first, 2 * last), ((first + last) / 2, last)):
        between = share * x0 + (1 - share) * x1
        low, mid, high = (mixture_accuracy(named, max(first, x)) for x in (x0, between, x1))
        assert low is not None
        assert mid is not None
        assert high is not None
        assert mid >= share * low + (1 - share) * high - 1e-6


@given(points)
def test_the_hull_of_a_hull_is_itself(found: dict[str, tuple[float, float]]) -> None:
    on = hull(found)
    assert hull({name: found[name] for name in on}) == on


@given(arms)
def test_of_equal_points_the_first_is_taken(found: list[tuple[float, float]]) -> None:
    on = hull(dict(enumerate([*found, *found])))
    assert on == [found.index(found[at]) for at in on]


@given(arms, costs_apart)
def test_many_sets_have_the_mixtures_of_each(found: list[tuple[float, float]], at: float) -> None:
    named = dict(enumerate(found))
    cheapest = min(found)[0]
    mixed = mixture_accuracies(*columns(found), np.array([at]))[0]
    assert mixed == pytest.approx(mixture_accuracy(named, max(at, cheapest)), abs=1e-6)
    cost, right = columns(found)
    twice = mixture_accuracies(np.tile(cost, (2, 1)), np.tile(right, (2, 1)), np.array([at, at]))
    assert twice.tolist() == [mixed, mixed]


@given(arms, st.floats(0, 1))
def test_the_cost_of_a_mixture_reaches_its_accuracy(
    found: list[tuple[float, float]], wanted: float
) -> None:
    cost, right = columns(found)
    needed = mixture_costs(cost, right, np.array([wanted]))[0]
    if wanted > right.max() + 1e-9:
        assert np.isinf(needed)
    elif np.isfinite(needed):
        assert mixture_accuracies(cost, right, np.array([needed]))[0] >= wanted - 1e-6
