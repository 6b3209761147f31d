"""Answers found in what models write."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.multiple_choice import Option, parse_options
from etui.reasoning.extraction import extract, normal_text
from etui.reasoning.quantity import normal_number

QUESTION = "Which planet is red?\nA) Venus\nB) Mars\nC) The Sun\nD) A comet"
OPTIONS = parse_options(QUESTION)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B) Mars", "B"),
        ("Option B is correct.", "B"),
        ("B is the right one", "B"),
        ("It is Mars.", "B"),
        ("The answer is Mars.", "B"),
        ("The answer is E.", None),
    ],
)
def test_letters(text, letter):
    """Those of the contract's golden numbers are not repeated here."""
    found = extract(text, QUESTION, OPTIONS)
    assert (found.key, found.status) == (letter, "answered" if letter else "no_answer")


@pytest.mark.parametrize("text", ["The Sun.", "the sun", "sun!", "**The Sun**", "Answer: the sun."])
def test_free_text_that_says_the_same(text):
    assert extract(text, "Which star is near?").key == "sun"


@pytest.mark.parametrize(
    ("text", "question", "truncated", "key", "status"),
    [
        ("Well, let me", QUESTION, True, None, "truncated"),
        ("Well.", QUESTION, False, None, "no_answer"),
        ("The answer is B, for", QUESTION, True, "B", "answered"),
        ("The answer is 12", "How many?", True, None, "truncated"),
        ("The answer is 12 or", "How many?", True, "12", "answered"),
        ("A star is", "What is a star?", True, None, "truncated"),
        ("", "What?", False, None, "no_answer"),
        ("1,000", "What is the price?", False, "1000", "answered"),
        ("1000.", "The price?", False, "1000", "answered"),
    ],
)
def test_cut_is_not_silent(text, question, truncated, key, status):
    options = OPTIONS if question is QUESTION else ()
    found = extract(text, question, options, truncated=truncated)
    assert (found.key, found.status) == (key, status)


@given(st.integers(-(10**15), 10**15))
def test_thousands_separators_do_not_matter(number):
    written = f"{number:,}"
    assert normal_number(written) == str(number)
    assert extract(f"it is {written} in all", "How many are there?").key == str(number)
    if abs(number) >= 10**6:
        assert normal_number(written.replace(",", ".")) == str(number)
    assert normal_number(written.replace(",", " ")) == str(number)


@given(st.decimals(-(10**9), 10**9, places=3))
def test_decimals_keep_their_value(number):
    found = normal_number(str(number))
    assert found is not None
    assert Decimal(found) == number
    assert normal_number(found) == found


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1e9999999999", None),
        ("1e300", None),
        ("1e20", "1" + 20 * "0"),
        ("1/0", "1/0"),
        ("007", "7"),
        ("-0.0", "0"),
    ],
)
def test_odd_numbers(text, form):
    assert normal_number(text) == form


@given(st.text(max_size=200), st.booleans())
def test_any_text_is_read(text, truncated):
    for options in ((), OPTIONS):
        found = extract(text, QUESTION, options, truncated=truncated)
        assert (found.key is None) == (found.status != "answered")
    assert normal_text(normal_text(text)) == normal_text(text)


@given(letter=st.sampled_from("ABCD"), rest=st.sampled_from([".", ")", "", "\nBecause."]))
def test_every_letter_is_found(letter, rest):
    assert extract(f"Answer: {letter}{rest}", QUESTION, OPTIONS).key == letter
    twice = (Option("A", "same"), Option("B", "same"))  # not told apart by words
    assert extract("same", "?", twice).key is None
