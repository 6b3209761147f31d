"""Grading rules, by name and version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.formats import FORMATS
from etui.bench.grading import RULES, find_rule, grade, grades_numbers
from etui.datasets.questions import Question

FLEXIBLE, NUMBER, LETTER = (RULES[x] for x in ("gsm8k-flexible@1", "number@1", "mmlu-pro@1"))


def asked(answer: str, choices=()) -> Question:
    return Question("s", 0, "?", choices, answer)


# A change of a rule is a change of what scores mean: raise its version then.
@pytest.mark.parametrize(
    ("text", "right", "choice", "correct", "strict"),
    [
        ("9 * 2 = 18\n#### 18", "18", "18", True, True),
        ("#### 1,800", "1800", "1800", True, True),
        ("The answer is $1,800.", "1,800", "1800", True, False),
        ("#### 18\nSo it is 19", "18", "19", False, True),
        ("#### 18.00", "18", "18.00", False, False),
        ("#### -5", "-5", "-5", True, True),
        ("first #### 3, then #### 4", "4", "4", True, False),
        ("####18", "18", "18", True, False),
        ("18 or so...", "18", None, False, False),
        ("no idea", "18", None, False, False),
        ("", "18", None, False, False),
    ],
)
def test_gsm8k_is_graded_as_text_by_the_last_and_by_the_stated_number(
    text, right, choice, correct, strict
):
    found = grade(FLEXIBLE, text, asked(right))
    assert (found.choice, found.correct, found.strict) == (choice, correct, strict)


@pytest.mark.parametrize(
    ("text", "right", "choice", "correct"),
    [
        ("$18.00", "18", "18", True),
        ("It is 18.", "18.0", "18", True),
        ("1,234.50 dollars", "1234.5", "1234.5", True),
        ("-0.50", "-.5", "-0.5", True),
        ("17 or 18", "17", "18", False),
        ("none", "18", None, False),
    ],
)
def test_numbers_of_a_chat_are_graded_by_value(text, right, choice, correct):
    found = grade(NUMBER, text, asked(right))
    assert (found.choice, found.correct, found.strict) == (choice, correct, None)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{}.", "${}", "It is {} now", "{:,}"]))
def test_a_whole_number_is_read_however_it_is_written(number, form):
    text = form.format(number)
    assert grade(NUMBER, text, asked(str(number))).correct or text.startswith("$-")
    assert grade(FLEXIBLE, text, asked(f"{number:,}")).correct or text.startswith("$-")


@given(st.text(), st.integers(0, 10**6))
def test_any_text_is_graded(text, number):
    for rule in (FLEXIBLE, NUMBER):
        found = grade(rule, text, asked(str(number)))
        assert found.choice is None or any(char.isdigit() for char in found.choice)
    assert grade(LETTER, text, asked("A", tuple("abc"))).choice in {None, *"ABCDEFGHIJ"}


def test_a_word_in_a_file_of_numbers_is_never_reached():
    assert not grade(NUMBER, "none", asked("none")).correct
    assert not grade(FLEXIBLE, "", asked("none")).correct


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("So the answer is (J).", "J"),
        ("the answer is B, the answer is C", "B"),
        ("The correct answer is (A) because", "A"),
        ("Answer: B", None),
        ("the answer is (b)", None),
        ("the answer is (K)", None),
    ],
)
def test_the_first_letter_after_answer_is_counts(text, choice):
    assert grade(LETTER, text, asked("B", tuple("abcdefghij"))).choice == choice


def test_every_format_has_its_rule():
    found = {
        (name, numbers): find_rule(format_, numbers=numbers)
        for name, format_ in FORMATS.items()
        for numbers in (False, True)
        if ("number" if numbers else "letter") in format_.fits
    }
    labels = {key: rule.label for key, rule in found.items() if rule is not None}
    assert labels == {
        ("chat", True): "number@1",
        ("cot", True): "number@1",
        ("gsm8k", True): "gsm8k-flexible@1",
        ("mmlu-pro", False): "mmlu-pro@1",
    }
    assert [grades_numbers(label) for label in (None, "number@1", "mmlu-pro@1", "new@9")] == [
        False, True, False, False,
    ]  # fmt: skip


def test_a_right_answer_with_an_exponent_is_its_value_and_not_its_exponent():
    """Files of questions may write numbers so; 3 was right for 1e3 once."""
    question = asked("1e3")
    assert grade(NUMBER, "It is 1,000.", question).correct
    assert grade(NUMBER, "It is 1e3.", question).correct
    assert not grade(NUMBER, "It is 3.", question).correct
