"""Options read from the text of a question."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.multiple_choice import MOST_CHARACTERS, Option, parse_options

EXPECTED = (Option("A", "one"), Option("B", "two words"), Option("C", "three"))


@pytest.mark.parametrize(
    "text",
    [
        "Which?\nA) one\nB) two words\nC) three",
        "Which?\n(A) one\n(B) two\n words\n(C) three\n\nThink well.",
        "Which?\n\nA. one\n\nB. two words\n\nC. three\nAnswer with a letter.",
        "Which? a) one, b) two words; c) three",
        "Which? (a) one (b) two words (c) three",
        "Which?\n  A: one\n  B: two words\n  C: three",
        "A) x\nB) y\nC) z\nAnswer: A\n\nWhich?\nA) one\nB) two words\nC) three",
    ],
)
def test_ways_to_write_options(text):
    assert parse_options(text) == EXPECTED


def test_a_bracket_within_an_option_is_no_label():
    found = parse_options("What is modelled?\nA. p(y|x, w)\nB. p(y, x)\nC. p(w|x, w)\nD. None")
    assert [option.text for option in found] == ["p(y|x, w)", "p(y, x)", "p(w|x, w)", "None"]
    assert parse_options("Which? (A) f (a) is 1 (B) two words (C) three")[1:] == EXPECTED[1:]


@pytest.mark.parametrize("text", ["", "A) alone", "B) two\nC) three", "Plan A: go. Plan B: stay."])
def test_what_has_no_options(text):
    assert parse_options(text) == ()


@given(texts=st.lists(st.from_regex(r"[a-z]{2,8}( [a-z]{2,8}){0,3}", fullmatch=True), max_size=10))
def test_what_is_written_is_read_again(texts):
    lines = [f"{letter}) {text}" for letter, text in zip("ABCDEFGHIJ", texts, strict=False)]
    found = parse_options("\n".join(["Which one?", *lines]))
    assert [option.text for option in found] == (texts if len(texts) > 1 else [])


@given(st.text(max_size=300))
def test_any_text_is_read(text):
    letters = [option.letter for option in parse_options(text)]
    assert letters == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")[: len(letters)]


def test_a_chat_of_megabytes_takes_no_longer_than_a_long_question():
    def measure(text: str) -> float:
        began = time.thread_time()
        assert [option.letter for option in parse_options(text)] == ["A", "B"]
        return time.thread_time() - began

    pair = "A) x\nB) y\n"
    long = min(measure(pair * (MOST_CHARACTERS // len(pair))) for _ in range(3))
    assert min(measure(pair * 700_000) for _ in range(3)) < 3 * long


def test_of_a_long_text_whole_lines_at_the_end_are_read():
    question = "Which?\nA) one\nB) two"
    assert parse_options(f"{'C) many words ' * 9_000}\n{question}") == parse_options(question)
    assert not parse_options(f"{question}\n{'no option at all ' * 9_000}")
    assert not parse_options("a" * 100_000)
