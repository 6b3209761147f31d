"""Prompts of generated answers, letter for letter."""

from __future__ import annotations

import pytest

from etui.bench.formats import FORMATS, build_query, completion_text, messages_sha, sha16
from etui.chat import DEFAULT_OUTPUT
from etui.datasets.questions import Question
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
