"""Prompts, letter for letter."""

from __future__ import annotations

import pytest

from etui.bench.formats import (
    FORMATS,
    build_query,
    chat_messages,
    completion_text,
    ending_weight,
    messages_sha,
    prompt_text,
    sha16,
)
from etui.chat import DEFAULT_OUTPUT
from etui.datasets.questions import Question
from etui.multiple_choice import parse_options
from etui.reasoning.output import check_options

NUMBER = Question("gsm8k", 0, "How many? ", (), "18")

WORKED = Question("gsm8k", 1, "How much?", (), "1,000", "It is 1,000.\n#### 1,000")

LETTER = Question("computer_science", 0, "Which?", ("one ", " two"), "B")

SOLVED = Question(
    "computer_science", 1, "Who?", ("w", "x", "y"), "C",
    "A: Let's think step by step. It is y. The answer is (C).",
)  # fmt: skip

HEADER = (
    "The following are multiple choice questions (with answers) about computer science. Think step "
    'by step and then finish your answer with "the answer is (X)" where X is the correct letter '
    "choice.\n"
)


def test_the_text_of_gsm8k():
    assert completion_text(FORMATS["gsm8k"], NUMBER, [WORKED]) == (
        "Question: How much?\nAnswer: It is 1,000.\n#### 1,000\n\nQuestion: How many? \nAnswer:"
    )


def test_the_text_of_mmlu_pro():
    steps = "Answer: Let's think step by step."
    assert completion_text(FORMATS["mmlu-pro"], LETTER, [SOLVED]) == (
        f"{HEADER}Question:\nWho?\nOptions:\nA. w\nB. x\nC. y\n{steps} It is y. The answer is (C)."
        f"\n\nQuestion:\nWhich?\nOptions:\nA. one\nB. two\n{steps}"
    )


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


def test_formats_that_have_no_such_prompt_are_an_error():
    with pytest.raises(ValueError, match="generates nothing"):
        build_query(FORMATS["letters"], LETTER, ())
    with pytest.raises(ValueError, match="no raw prompt"):
        completion_text(FORMATS["chat"], LETTER, ())


ASKED = Question("high_school_physics", 0, " Which? \n", ("one", " two", "three ", "None"), "B")
SHOWN = Question("high_school_physics", 1, "Who?", ("w", "x", "y", "z"), "D")
BLOCK = "\nA. one\nB.  two\nC. three \nD. None\nAnswer:"


def test_letters_have_one_space_and_a_stripped_question():
    prompt = prompt_text(FORMATS["letters"], ASKED, [SHOWN])
    assert prompt.text == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        f"Who?\nA. w\nB. x\nC. y\nD. z\nAnswer: D\n\nWhich?{BLOCK}"
    )
    assert prompt.own == f"Which?{BLOCK}"
    assert prompt.endings == {"A": " A", "B": " B", "C": " C", "D": " D"}


def test_the_original_has_two_spaces_and_strips_nothing():
    prompt = prompt_text(FORMATS["letters-original"], ASKED, [])
    assert prompt.text == (
        "The following are multiple choice questions (with answers) about  high school physics.\n\n"
        f" Which? \n{BLOCK}"
    )


def test_cloze_shows_no_options_and_weighs_by_characters():
    format_ = FORMATS["cloze"]
    prompt = prompt_text(format_, ASKED, [])
    assert prompt.text == (
        "The following are questions about high school physics.\nQuestion: Which?\nAnswer:"
    )
    assert prompt.endings["C"] == " three"
    assert ending_weight(format_, " three") == 5
    assert ending_weight(FORMATS["letters"], " A") == 1


def test_examples_of_cloze_end_in_their_answer():
    prompt = prompt_text(FORMATS["cloze"], ASKED, [SHOWN])
    assert "Question: Who?\nAnswer: z\n\nQuestion: Which?\nAnswer:" in prompt.text


def test_examples_of_a_chat_are_earlier_turns_and_its_options_are_found():
    *examples, last = chat_messages(ASKED, [SHOWN])
    assert [message.role for message in examples] == ["user", "assistant"]
    assert examples[1].content == "D"
    assert [option.letter for option in parse_options(last.content)] == ["A", "B", "C", "D"]


def test_a_format_that_generates_has_no_prompt_of_its_own():
    with pytest.raises(ValueError, match="chat"):
        prompt_text(FORMATS["chat"], ASKED, [])


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


def test_the_messages_of_a_chat_change_with_its_version_alone():
    text = "\n\n".join(message.content for message in chat_messages(ASKED, [SHOWN]))
    assert (FORMATS["chat"].version, sha16(text)) == (1, "8a42c1c0c2722728")


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
