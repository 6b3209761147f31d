"""Hashes that identify files and questions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.datasets.questions import (
    Question,
    draw,
    hash_files,
    hash_questions,
    match_subjects,
    split_proportionally,
)
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


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
QUESTION = st.builds(
    Question,
    subject=TEXT,
    row=st.integers(0, 99),
    text=TEXT,
    choices=st.lists(TEXT, max_size=4).map(tuple),
    answer=TEXT,
    solution=TEXT,
    id=st.none() | TEXT,
)


def test_the_hash_goes_by_names_and_not_by_the_order_of_reading():
    assert hash_files({"b": b"2", "a": b"1"}) == hash_files({"a": b"1", "b": b"2"})
    assert hash_files({"a": b"2", "b": b"1"}) != hash_files({"a": b"1", "b": b"2"})


@given(st.lists(QUESTION, max_size=3), st.lists(QUESTION, max_size=3))
def test_questions_hash_by_all_that_is_asked(one, other):
    def asked(questions):
        return [replace(q, row=0, id=None) for q in questions]

    assert (hash_questions(one) == hash_questions(other)) == (asked(one) == asked(other))
