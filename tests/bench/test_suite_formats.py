"""Which formats fit which suites."""

from __future__ import annotations

import pytest

from etui.bench.formats import (
    FORMATS,
    check_suite,
    choose_default_format,
    count_examples,
    default_answer_tokens,
    list_examples,
)
from etui.datasets.questions import Question, Suite
from etui.errors import UsageError

LETTERS = {"law": (Question("law", 0, "Which?", tuple("abcde"), "E"),)}
NUMBERS = {"gsm8k": (Question("gsm8k", 0, "How many?", (), "18"),)}
SOLVED = {"gsm8k": (Question("gsm8k", 1, "?", (), "3", "#### 3"), Question("g", 2, "?", (), "4"))}


def suite(name="mine", questions=LETTERS, examples=None, grading="letter") -> Suite:
    return Suite(name, "test", "ab" * 32, questions, examples or {}, grading=grading)


def numbers(name="mine", examples=SOLVED) -> Suite:
    return suite(name, NUMBERS, examples, "number")


@pytest.mark.parametrize(
    ("asked", "generates", "name"),
    [
        (suite("mmlu"), False, "letters"),
        (suite(), False, "letters"),
        (suite("arc-challenge"), False, "arc"),
        (suite("mmlu-pro"), False, "mmlu-pro"),
        (numbers("gsm8k"), False, "gsm8k"),
        (numbers(), False, "gsm8k"),
        (numbers("gsm8k", {}), False, "chat"),
        (suite("gsm8k"), False, "letters"),
        (suite("mmlu-pro"), True, "chat"),
        (numbers("gsm8k"), True, "chat"),
    ],
)
def test_the_default_follows_the_suite(asked, generates, name):
    format_ = choose_default_format(asked, generates=generates)
    assert format_.name == name
    check_suite(format_, asked)


@pytest.mark.parametrize("name", ["letters", "letters-original", "cloze", "arc", "mmlu-pro"])
def test_options_cannot_be_asked_for_where_there_are_none(name):
    with pytest.raises(UsageError, match="whose answer is a number") as caught:
        check_suite(FORMATS[name], numbers())
    assert "use --format chat, cot or gsm8k" in str(caught.value)


def test_a_number_cannot_be_asked_for_where_there_are_options():
    with pytest.raises(UsageError, match=r"gsm8k cannot ask .* the letter of an option") as caught:
        check_suite(FORMATS["gsm8k"], suite())
    assert "letters" in str(caught.value)


def test_raw_formats_show_examples_with_a_solution_only():
    assert count_examples(FORMATS["gsm8k"], numbers()) == 1
    assert count_examples(FORMATS["chat"], numbers()) == 2
    assert [each.row for each in list_examples(FORMATS["gsm8k"], numbers(), "gsm8k")] == [1]
    assert count_examples(FORMATS["gsm8k"], numbers(examples={})) == 0


def test_an_answer_gets_the_tokens_that_it_needs():
    tokens = [
        default_answer_tokens(FORMATS[name], each, 64)
        for name, each in (
            ("chat", suite()), ("chat", numbers()), ("gsm8k", numbers()), ("mmlu-pro", suite()),
        )
    ]  # fmt: skip
    assert tokens == [64, 256, 256, 2048]
