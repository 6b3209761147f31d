"""What is counted in a question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message, Query
from etui.routing.text_measures import (
    LANGUAGES,
    MEASURES,
    TEXT_LIMIT,
    TextFacts,
    detect,
    estimate_tokens,
)


def measure(name: str, text: str) -> float:
    return MEASURES[name](TextFacts(Query(text)))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("characters", "abc de", 6),
        ("words", "It's a well-known fact.", 4),
        ("words", "Wie heißt die Straße?", 4),
        ("sentences", "One. Two! Version 3.5 is out?", 3),
        ("lines", "a\nb\n\nc", 4),
        ("question_marks", "what? who?", 2),
        ("question_words", "What is it, and WHY?", 2),
        ("negations", "Which is NOT true, except one that isn't?", 3),
        ("statements", "Statement 1 | x\nStatement 2 | y", 2),
        ("statements", "I. x\nII. y\nIII. z", 3),
        ("statements", "I think so", 0),
        ("blanks", "The ___ is a ____.", 2),
        ("blanks", "snake_case", 0),
        ("digits", "17*230", 5),
        ("numbers", "17*230", 2),
        ("math_symbols", "x^2 + 1 = 0", 3),
        ("math_symbols", r"\frac{1}{2}", 1),
        ("code_blocks", "```\nx\n```\n\n```py\ny\n```", 2),
        ("code_blocks", "```\nnever closed", 1),
        ("code_blocks", "an inline `x`", 0),
        ("code_blocks", "Sum up.\n\nFile notes.md:\n```md\nMilk\n```", 0),
        ("code_blocks", "Paste 1:\n````text\na\n```py\nx\n```\nb\n````\n```\ny\n```", 1),
        ("mean_word_length", "ab abcd", 3),
        ("mean_word_length", "!!!", 0),
        ("tokens", "abcdefgh", 2),
    ],
)
def test_measures(name: str, text: str, value: float) -> None:
    assert measure(name, text) == value


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Which?\nA) x\nB) y\nC) z\nD) w", 4),
        ("Which?\nA. x\nB. y\nC. z", 3),
        ("Which? (A) x (B) y (C) z", 3),
        ("Which? a) x b) y", 2),
        ("Plan A: go home. Vitamin B. Next.", 0),
        ("Grade A) is the best", 0),
        ("B) y C) z", 0),
        ("A) x\nC) z\nD) w", 0),
        ("first A) x B) y then A) x B) y C) z", 3),
        ("", 0),
    ],
)
def test_options(text: str, count: int) -> None:
    assert measure("options", text) == count


def test_a_chat_counts_the_tokens_of_all_its_messages() -> None:
    query = Query("c d e f", history=(Message("user", "a b c d e"), Message("assistant", "x")))
    facts = TextFacts(query)
    assert facts.tokens == 2
    assert facts.chat_tokens == 6
    assert MEASURES["turns"](facts) == 2


def test_the_estimate_is_four_bytes_a_token() -> None:
    assert [estimate_tokens(t) for t in ("", "a", "abcd", "abcde", "日本")] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is the capital of France?", "en"),
        ("Was ist die Hauptstadt von Frankreich?", "de"),
        ("Quelle est la capitale de la France ?", "fr"),
        ("¿Cuál es la capital de Francia?", "es"),
        ("Qual è la capitale della Francia e perché?", "it"),
        ("Qual é a capital da França e por que você gosta?", "pt"),
        ("Wat is de hoofdstad van het land en waarom?", "nl"),
        ("Какая столица Франции?", "ru"),
        ("Яка столиця Франції?", "uk"),
        ("フランスの首都はどこですか", "ja"),
        ("法国的首都是哪里", "zh"),
        ("프랑스의 수도는 어디입니까", "ko"),
        ("ما هي عاصمة فرنسا؟", "ar"),
        ("Explain what the word Привет means in Russian", "en"),
        ("17*23", None),
        ("", None),
        ("Tokyo", None),
    ],
)
def test_languages(text: str, code: str | None) -> None:
    facts = TextFacts(Query(text or " "))
    assert detect(text, facts.words) == code
    assert code is None or code in LANGUAGES


def test_the_task_is_seen_before_and_behind_a_long_text() -> None:
    text = "Translate this: " + "word " * 10_000 + "\nWhat is 17*23?"
    facts = TextFacts(Query(text))
    assert facts.folded.startswith("translate this: ")
    assert facts.folded.endswith("17*23?")
    assert len(facts.text) <= TEXT_LIMIT + 1
    assert facts.tokens == estimate_tokens(text)


@given(st.text())
def test_any_text_has_every_measure(text: str) -> None:
    facts = TextFacts(Query(text))
    assert all(MEASURES[name](facts) >= 0 for name in MEASURES)
    assert facts.language is None or facts.language in LANGUAGES
