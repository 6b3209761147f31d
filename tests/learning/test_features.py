"""What a fitted head sees of a question."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.learning.features import FEATURE_NAMES, compute_features
from etui.learning.policy_replay import format_question
from etui.routing.question_text import (
    BUCKETS,
    QuestionText,
    count_terms,
    hash_word,
    split_question,
    tf_idf,
)

QUESTION = QuestionText(
    "Statement 1 | All rings are groups. Statement 2 | Find x = 12, except where it is not ___?",
    ("True, True", "False, False", "True, False", "All of the above"),
)


def named(question: QuestionText) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, compute_features(question), strict=True))


def test_features_of_one_question():
    seen = named(QUESTION)
    flags = ("has_digit", "has_equals", "negation", "statements", "question_mark", "blank")
    assert [seen[name] for name in flags] == [1.0] * len(flags)
    assert seen["calculate_words"] == 1.0
    assert seen["log_digits"] == pytest.approx(math.log1p(4))
    assert seen["options_closed"] == 1.0
    assert 0 < seen["options_alike"] < 1
    assert seen["math_symbols"] == 0.0


def test_a_plain_question_has_none_of_them():
    seen = named(QuestionText("Name the largest ocean."))
    assert not any(seen[name] for name in FEATURE_NAMES if name.startswith(("has_", "option")))
    assert seen["question_share"] == 1.0


@given(st.text(max_size=300), st.lists(st.text(max_size=30), max_size=5))
def test_features_are_finite_for_any_text(stem, options):
    seen = compute_features(QuestionText(stem, tuple(options)))
    assert len(seen) == len(FEATURE_NAMES)
    assert all(math.isfinite(value) for value in seen)


def test_the_hash_is_the_same_everywhere():
    # A fitted file holds weights by bucket: another hash would make them noise.
    assert hash_word("Ocean") == hash_word("ocean")
    assert [hash_word(word) for word in ("ring", "empire", "nerve")] == [1398, 550, 1689]


@given(st.text(max_size=200))
def test_tf_idf_has_length_one(text):
    words = tf_idf(count_terms(QuestionText(text)), [1.0] * BUCKETS)
    assert not words or sum(v * v for v in words.values()) == pytest.approx(1.0)


def test_typed_and_tabled_questions_look_alike():
    typed = split_question(format_question(QUESTION) + "\nAnswer:")
    assert typed == QUESTION
    assert compute_features(typed) == compute_features(QUESTION)


def test_a_long_text_is_cut_to_its_ends():
    text = "a " * 50_000 + "\nWhich is it?\nA) one\nB) two"
    cut = split_question(text)
    assert len(cut.stem) < 9000
    assert cut.options == ("one", "two")
