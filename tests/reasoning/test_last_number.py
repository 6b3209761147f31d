"""The number of an answer, by lm-eval's rules."""

from __future__ import annotations

import pytest

from etui.reasoning.extraction import extract
from etui.reasoning.quantity import (
    find_last_number,
    find_stated_number,
    last_number_value,
    strip_number,
)


@pytest.mark.parametrize(
    ("text", "last", "stated"),
    [
        ("3 + 4 = 7\n#### 7", "7", "7"),
        ("#### 1,234", "1,234", "1,234"),
        ("it costs $5.", "$5.", None),
        ("#### 7 and then 9", "9", "7"),
        ("#### -7", "-7", "-7"),
        ("well...", "...", None),
        ("x", None, None),
    ],
)
def test_the_patterns(text, last, stated):
    assert (find_last_number(text), find_stated_number(text)) == (last, stated)


@pytest.mark.parametrize(
    ("text", "bare", "value"),
    [
        ("$1,234.", "1234", "1234"),
        ("a\nb\n#### 18", "18", "18"),
        ("18.00", "18.00", "18"),
        ("...", None, None),
        ("1.2.3", "1.2.3", None),
    ],
)
def test_what_is_ignored(text, bare, value):
    assert strip_number(text) == bare
    assert last_number_value(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("about 1e3 of them", "1000"),
        ("1.5E-3", "0.0015"),
        ("-2e+2.", "-200"),
        ("−3", "-3"),
        ("3 eggs, 4e", "4"),
        ("1e1000", "1000"),
    ],
)
def test_a_value_has_its_exponent_and_its_sign(text, value):
    assert last_number_value(text) == value


def test_an_answer_known_to_be_a_number_needs_no_question_that_asks_for_one():
    asked = "A) 3 apples\nB) 4 apples\nTell me the number of apples."
    assert extract("There are 4 apples.", asked, number=True).key == "4"
    assert extract("Three.", asked, number=True).status == "no_answer"
    assert extract("There are", asked, truncated=True, number=True).status == "truncated"
