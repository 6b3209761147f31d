"""Prompts letter for letter, the suites that they fit, and how their answers are graded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.formats import (
    FORMATS,
    RULES,
    build_query,
    chat_messages,
    check_suite,
    choose_default_format,
    completion_text,
    count_examples,
    default_answer_tokens,
    ending_weight,
    find_rule,
    grade,
    grades_numbers,
    list_examples,
    messages_sha,
    prompt_text,
    sha16,
)
from etui.chat import DEFAULT_OUTPUT
from etui.datasets.questions import Question, Suite
from etui.errors import UsageError
from etui.multiple_choice import parse_options
from etui.reasoning.output import check_options

NUMBER = Question("gsm8k", 0, "How many? ", (), "18")

WORKED = Question("gsm8k", 1, "How much?", (), "1,000", "It is 1,000.\n#### 1,000")

LETTER = Question("computer_science", 0, "Which?", ("one ", " two"), "B")

SOLVED = Question(
    "computer_science", 1, "Who?", ("w", "x", "y"), "C",
    "A: Let's think step by step. It is y. The answer is (C).",
)  # fmt: skip


def test_a_solution_without_its_answer_gets_it():
    bare = Question("gsm8k", 1, "How much?", (), "7", "3 and 4 make 7.")
    assert "3 and 4 make 7.\n#### 7\n\n" in completion_text(FORMATS["gsm8k"], NUMBER, [bare])
    bare = Question("law", 1, "Who?", ("w", "x"), "B", "It is x.")
    assert "by step. It is x. The answer is (B).\n\n" in completion_text(
        FORMATS["mmlu-pro"], LETTER, [bare]
    )


@pytest.mark.parametrize(
    ("name", "asked", "shown", "version", "sha"),
    [
        ("gsm8k", NUMBER, WORKED, 1, "6822d8dccb38eeae"),
        ("mmlu-pro", LETTER, SOLVED, 1, "fe3199a104ccc4b9"),
    ],
)
def test_a_completion_changes_with_its_version_alone(name, asked, shown, version, sha):
    text = completion_text(FORMATS[name], asked, [shown])
    assert (FORMATS[name].version, sha16(text)) == (version, sha)


def test_a_completion_is_raw_with_stop_strings():
    query = build_query(FORMATS["gsm8k"], NUMBER, [WORKED])
    assert (query.options.raw, query.options.number) == (True, True)
    assert query.options.stop == ("Question:", "</s>", "<|im_end|>")
    check_options(query.options)
    assert messages_sha(query.messages()) == sha16(query.text)
    options = build_query(FORMATS["mmlu-pro"], LETTER, ()).options
    assert (options.raw, options.number, options.stop) == (True, False, ("Question:",))


def test_a_chat_has_its_examples_before_it_and_asks_nothing_of_the_form_for_letters():
    query = build_query(FORMATS["chat"], LETTER, [SOLVED])
    assert [message.role for message in query.messages()] == ["user", "assistant", "user"]
    assert query.options == DEFAULT_OUTPUT
    assert build_query(FORMATS["cot"], NUMBER, ()).options.number


ASKED = Question("high_school_physics", 0, " Which? \n", ("one", " two", "three ", "None"), "B")
SHOWN = Question("high_school_physics", 1, "Who?", ("w", "x", "y", "z"), "D")


def test_cloze_shows_no_options_and_weighs_by_characters():
    format_ = FORMATS["cloze"]
    prompt = prompt_text(format_, ASKED, [])
    assert prompt.text == (
        "The following are questions about high school physics.\nQuestion: Which?\nAnswer:"
    )
    assert prompt.endings["C"] == " three"
    assert ending_weight(format_, " three") == 5
    assert ending_weight(FORMATS["letters"], " A") == 1


def test_examples_of_a_chat_are_earlier_turns_and_its_options_are_found():
    *examples, last = chat_messages(ASKED, [SHOWN])
    assert [message.role for message in examples] == ["user", "assistant"]
    assert examples[1].content == "D"
    assert [option.letter for option in parse_options(last.content)] == ["A", "B", "C", "D"]


# A change of any of these is a change of what scores mean: raise the version then.
@pytest.mark.parametrize(
    ("name", "version", "sha"),
    [
        ("letters", 1, "315d7142781a0e2e"),
        ("letters-original", 1, "50419c02d1eaf45f"),
        ("cloze", 1, "5cb893bf10575014"),
        ("arc", 1, "19d5d584472eb0c7"),
    ],
)
def test_a_prompt_changes_with_its_version_alone(name, version, sha):
    format_ = FORMATS[name]
    assert (format_.version, prompt_text(format_, ASKED, [SHOWN]).sha) == (version, sha)


TEN = Question("law", 0, "Which?", tuple("abcdefghij"), "J")


@pytest.mark.parametrize("count", range(2, 11))
def test_a_question_has_as_many_letters_as_options(count):
    asked = Question("law", 0, "Which?", tuple("abcdefghij")[:count], "B")
    for name in ("letters", "letters-original"):
        prompt = prompt_text(FORMATS[name], asked, [TEN])
        assert list(prompt.endings) == list("ABCDEFGHIJ")[:count]
        assert prompt.endings["B"] == " B"
        assert "J. j\nAnswer: J\n\n" in prompt.shared
        assert prompt.own.count(". ") == count
    for name in ("cloze", "arc"):
        assert list(prompt_text(FORMATS[name], asked, []).endings) == list("ABCDEFGHIJ")[:count]
    (message,) = chat_messages(asked, [])
    assert len(parse_options(message.content)) == count


def test_arc_strips_nothing_and_has_no_header():
    prompt = prompt_text(FORMATS["arc"], ASKED, [SHOWN])
    assert prompt.text == "Question: Who?\nAnswer: z\n\nQuestion:  Which? \n\nAnswer:"
    assert prompt.endings["B"] == "  two"
    assert ending_weight(FORMATS["arc"], prompt.endings["B"]) == 4


def test_a_number_is_asked_for_without_options():
    asked = Question("sums", 0, " How many? ", (), "18")
    shown = Question("sums", 1, "How much?", (), "7", "3 + 4 = 7\n#### 7")
    first, second, last = chat_messages(asked, [shown])
    assert (first.content, second.content) == ("Answer with a number.\n\nHow much?", "7")
    assert last.content == "Answer with a number.\n\nHow many?"


LETTERS = {"law": (Question("law", 0, "Which?", tuple("abcde"), "E"),)}
NUMBERS = {"gsm8k": (Question("gsm8k", 0, "How many?", (), "18"),)}
SHOWN_NUMBERS = {
    "gsm8k": (Question("gsm8k", 1, "?", (), "3", "#### 3"), Question("g", 2, "?", (), "4"))
}


def suite(name="mine", questions=LETTERS, examples=None, grading="letter") -> Suite:
    return Suite(name, "test", "ab" * 32, questions, examples or {}, grading=grading)


def numbers(name="mine", examples=SHOWN_NUMBERS) -> Suite:
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


FLEXIBLE, BY_VALUE, BY_LETTER = (RULES[x] for x in ("gsm8k-flexible@1", "number@1", "mmlu-pro@1"))


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
    found = grade(BY_VALUE, text, asked(right))
    assert (found.choice, found.correct, found.strict) == (choice, correct, None)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{}.", "${}", "It is {} now", "{:,}"]))
def test_a_whole_number_is_read_however_it_is_written(number, form):
    text = form.format(number)
    assert grade(BY_VALUE, text, asked(str(number))).correct or text.startswith("$-")
    assert grade(FLEXIBLE, text, asked(f"{number:,}")).correct or text.startswith("$-")


@given(st.text(), st.integers(0, 10**6))
def test_any_text_is_graded(text, number):
    for rule in (FLEXIBLE, BY_VALUE):
        found = grade(rule, text, asked(str(number)))
        assert found.choice is None or any(char.isdigit() for char in found.choice)
    assert grade(BY_LETTER, text, asked("A", tuple("abc"))).choice in {None, *"ABCDEFGHIJ"}


def test_a_word_in_a_file_of_numbers_is_never_reached():
    assert not grade(BY_VALUE, "none", asked("none")).correct
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
    assert grade(BY_LETTER, text, asked("B", tuple("abcdefghij"))).choice == choice


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
    assert grade(BY_VALUE, "It is 1,000.", question).correct
    assert grade(BY_VALUE, "It is 1e3.", question).correct
    assert not grade(BY_VALUE, "It is 3.", question).correct
