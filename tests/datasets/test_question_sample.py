"""Samples drawn by a seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.datasets.questions import draw, match_subjects, split_proportionally
from etui.errors import UsageError

SIZES = st.dictionaries(st.text("abcdef_", min_size=1, max_size=4), st.integers(1, 300), min_size=1)


@given(SIZES, st.integers(1, 2000))
def test_shares_sum_to_the_limit_and_are_within_one_of_proportion(sizes, limit):
    shares = split_proportionally(sizes, limit)
    total = sum(sizes.values())
    assert sum(shares.values()) == min(limit, total)
    for name, share in shares.items():
        assert 0 <= share <= sizes[name]
        if limit < total:
            assert abs(share - limit * sizes[name] / total) < 1


@given(SIZES, st.integers(0, 99), st.integers(1, 500))
def test_a_seed_draws_the_same_again(sizes, seed, limit):
    drawn = draw(sizes, seed, limit)
    assert drawn == draw(dict(reversed(sizes.items())), seed, limit)
    for name, rows in drawn.items():
        assert list(rows) == sorted(set(rows))
        assert all(0 <= row < sizes[name] for row in rows)


@given(SIZES, st.integers(0, 9), st.integers(1, 50), st.integers(0, 50))
def test_more_of_each_subject_holds_what_fewer_held(sizes, seed, few, more):
    small, large = draw(sizes, seed, None, few), draw(sizes, seed, None, few + more)
    assert all(set(rows) <= set(large[name]) for name, rows in small.items())


def test_another_seed_draws_others_and_orders_the_subjects_anew():
    sizes = {f"s{i}": 100 for i in range(20)}
    one, other = draw(sizes, 0, 200), draw(sizes, 1, 200)
    assert list(one) != list(other)
    assert list(one) != sorted(one)
    assert any(one[name] != other[name] for name in sizes)


def test_all_are_all():
    sizes = {"a": 3, "b": 2}
    assert draw(sizes, 5) == {
        n: tuple(range(s)) for n, s in draw(sizes, 5).items() for s in [sizes[n]]
    }


def test_subjects_are_found_however_they_are_written():
    known = ("abstract_algebra", "anatomy")
    assert match_subjects(["Abstract Algebra", "anatomy", "anatomy"], known) == known


def test_a_subject_that_does_not_exist_has_near_names():
    with pytest.raises(UsageError) as caught:
        match_subjects(["abstract_algbra"], ("abstract_algebra", "anatomy"))
    assert "abstract_algebra" in caught.value.fix
