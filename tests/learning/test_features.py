"""What a fitted head sees of a question."""

from __future__ import annotations

import math
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.learning.features import (
    FEATURE_NAMES,
    FIELD_BUCKETS,
    FILE,
    LEAST_SHARE,
    compute_features,
    count_field_terms,
    load_classifier,
    parse_classifier,
    predict_fields,
)
from etui.routing.text_measures import (
    BUCKETS,
    QuestionText,
    count_terms,
    format_question,
    hash_word,
    split_question,
    tf_idf,
)

ASKED = {
    "astronomy": "Which planet of the solar system has the largest mass and orbits the sun?",
    "high_school_physics": "A block slides down a frictionless incline; what is its acceleration?",
    "nutrition": "Which vitamins and dietary fibre does a diet of whole grains provide?",
    "marketing": "Which pricing strategy do marketers use to position a brand to consumers?",
}


@pytest.mark.parametrize("field", list(ASKED))
def test_a_plain_question_is_told(field):
    classifier = load_classifier()
    p = classifier.predict(QuestionText(ASKED[field]))
    ranked = sorted(zip(p, classifier.names, strict=True), reverse=True)
    assert field in [name for _, name in ranked[:3]]


def test_the_file_has_its_licence_beside_it_and_damage_is_refused():
    raw = files("etui.learning").joinpath(FILE).read_bytes()
    assert len(raw) <= 600_000
    note = files("etui.learning").joinpath("mmlu_fields.md").read_text()
    assert "MIT License" in note
    assert "docs/generate.py" in note
    assert len(load_classifier().names) == 57
    for damaged in (raw[:-1], raw + b"x", b"{}\n" + raw, b"", b"not json"):
        with pytest.raises((ValueError, KeyError)):
            parse_classifier(damaged)


@given(st.text(max_size=300))
def test_any_text_gives_probabilities(text):
    p = load_classifier().predict(QuestionText(text))
    assert math.isclose(sum(p), 1)
    assert all(value == 0 or value >= LEAST_SHARE for value in p)


def test_the_integer_lanes_are_the_scores():
    classifier = load_classifier()
    question = QuestionText("Solve the equation " * 300, ("one", "two"))
    counts = count_field_terms(question)
    value = {b: (1 + math.log(n)) * classifier.idf[b] for b, n in counts.items()}
    length = math.sqrt(sum(v * v for v in value.values()))
    weights = np.frombuffer(classifier.weights, np.uint8).reshape(FIELD_BUCKETS, -1).astype(float)
    scores = sum((v / length) * (weights[b] - 128) for b, v in value.items()) * classifier.step
    raised = np.exp(classifier.sharpness * (scores + classifier.bias))
    p = raised / raised.sum()
    p = np.where(p < LEAST_SHARE, 0, p)
    found = predict_fields([question])[0]
    assert np.abs(found - p / p.sum()).max() < 2e-3


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
    plain = named(QuestionText("Name the largest ocean."))
    assert not any(plain[name] for name in FEATURE_NAMES if name.startswith(("has_", "option")))
    assert plain["question_share"] == 1.0


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


def test_typed_and_tabled_questions_look_alike_and_a_long_text_is_cut_to_its_ends():
    typed = split_question(format_question(QUESTION) + "\nAnswer:")
    assert typed == QUESTION
    cut = split_question("a " * 50_000 + "\nWhich is it?\nA) one\nB) two")
    assert len(cut.stem) < 9000
    assert cut.options == ("one", "two")
