"""Titles of chats: short, one line, made of whole words."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etui.text import (
    MOST_TITLE_CHARACTERS,
    cut_at_word,
    title_from_answer,
    title_from_question,
)


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("What is Zig?", "What is Zig?"),
        ("  \n\n# Explain\tthis  code\n```python\nx\n```", "Explain this code"),
        ("```python\nprint(1)\n```\nwhy?", "print(1) why?"),
        ("1. First the one\n2. then the other", "First the one then the other"),
        ("- ", "-"),
        ("", ""),
        ("Write a function that computes the n-th Fibonacci number in Python, please",
         "Write a function that computes the n-th Fibonacci number in…"),
        ("x" * 80, "x" * 59 + "…"),
    ],
)  # fmt: skip
def test_a_question_gives_its_first_words(question, title):
    assert title_from_question(question) == title


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ('"Zig, a systems language."', "Zig, a systems language"),
        ("Title: **Primes up to 100**", "Primes up to 100"),
        ("\n\n# The title is: Oceans\nIt is about oceans.", "Oceans"),
        ("```\nFibonacci\n```", "Fibonacci"),
        ("Here is a possible title:\n\n**Cold lakes**", "Cold lakes"),
        ('Sure! Here\'s a title for this conversation: "Cold lakes"', "Cold lakes"),
        ("Here is a possible title for this conversation", ""),
        ("Heretics of the north", "Heretics of the north"),
        ('""', ""),
        ("", ""),
    ],
)
def test_an_answer_gives_a_title_without_its_wrapping(answer, title):
    assert title_from_answer(answer) == title


@example("\r")
@given(st.text(max_size=300))
def test_a_title_is_one_short_line(text):
    for title in (title_from_question(text), title_from_answer(text)):
        assert len(title) <= MOST_TITLE_CHARACTERS
        assert title == " ".join(title.split())
        assert "\x1b" not in title
    assert bool(title_from_question(text)) == bool(text.split())


@given(st.text("ab ,", max_size=120), st.integers(2, 60))
def test_a_cut_line_keeps_whole_words(text, most):
    line = " ".join(text.split())
    cut = cut_at_word(line, most)
    assert len(cut) <= most
    kept = cut.removesuffix("…")
    assert line.startswith(kept)
    if cut != line and " " in line[: most - 1]:
        assert not line[len(kept) :][:1].isalpha()


def test_the_name_of_an_attached_text_is_no_part_of_the_title():
    question = "sum up @notes.md\n\nFile notes.md:\n```md\nalpha\n```"
    assert title_from_question(question) == "sum up @notes.md"
