"""The frontier: nothing on it is dominated, and everything off it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.tests import Interval
from etui.sweep.analysis import Candidate, _list_candidates, find_frontier
from etui.sweep.result import Accuracy, Difference

figures = st.integers(-3, 3).map(float)
with_all = st.tuples(figures, figures, figures)
without_some = st.tuples(st.none() | figures, figures, st.none() | figures)


def beats(one: Candidate, other: Candidate) -> bool:
    pairs = list(zip(one[:2], other[:2], strict=True))
    pairs.append((-(one[2] or 0.0), -(other[2] or 0.0)))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(st.lists(with_all, min_size=1, max_size=12))
def test_the_frontier_holds_no_dominated_setting_and_leaves_none_out(candidates):
    named = {str(at): one for at, one in enumerate(candidates)}
    frontier = find_frontier(named)
    assert frontier
    for key, one in named.items():
        dominated = any(beats(other, one) for other in named.values())
        assert (key in frontier) == (not dominated)
        if dominated:
            assert any(beats(named[other], one) for other in frontier)


@given(st.lists(without_some, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_changes_nothing_and_a_missing_figure_is_no_zero(candidates, random):
    named = [(str(at), one) for at, one in enumerate(candidates)]
    shuffled = random.sample(named, len(named))
    assert set(find_frontier(dict(named))) == set(find_frontier(dict(shuffled)))
    # A setting that is the only one with its figures is on the frontier, as nothing compares.
    kinds = [(one[0] is None, one[2] is None) for one in candidates]
    for key, one in named:
        if kinds.count((one[0] is None, one[2] is None)) == 1:
            assert key in find_frontier(dict(named))


def difference(percent: float) -> Difference:
    return Difference(percent, percent - 1, percent + 1, 0.01, 8, True)


def accuracy(share: float, p: float | None) -> Accuracy:
    return Accuracy(0, 100, Interval(share, None, None, None), None, p, "x")


@pytest.mark.parametrize(("p", "on"), [(0.5, ("a", "b")), (0.001, ("a", "b", "c"))])
def test_accuracy_within_noise_counts_as_equal(p, on):
    candidates = _list_candidates(
        ("a", "b", "c"),
        {
            ("joules", "b"): difference(-20),
            ("joules", "c"): difference(-10),
            ("seconds", "b"): difference(5),
            ("seconds", "c"): difference(6),
        },
        {"a": accuracy(0.5, None), "b": accuracy(0.5, 1.0), "c": accuracy(0.6, p)},
    )
    assert find_frontier(candidates) == on


def test_a_setting_without_seconds_is_no_candidate():
    assert list(_list_candidates(("a", "b"), {}, {})) == ["a"]
    (baseline,) = _list_candidates(("a",), {}, {}).values()
    assert baseline == (None, 0.0, None)
