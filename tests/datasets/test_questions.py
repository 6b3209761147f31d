"""Hashes that identify files and questions."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from etui.datasets.questions import Question, hash_files, hash_questions

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
