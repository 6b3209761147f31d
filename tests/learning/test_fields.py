"""The shipped classifier of fields: what it tells, and its file."""

from __future__ import annotations

import math
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.learning.features import (
    FIELD_BUCKETS,
    FILE,
    LEAST_SHARE,
    count_field_terms,
    load_classifier,
    parse_classifier,
    predict_fields,
)
from etui.routing.question_text import QuestionText

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


def test_the_file_is_small_and_has_its_licence_beside_it():
    raw = files("etui.learning").joinpath(FILE).read_bytes()
    assert len(raw) <= 600_000
    note = files("etui.learning").joinpath("mmlu_fields.md").read_text()
    assert "MIT License" in note
    assert "docs/generate.py" in note
    assert len(load_classifier().names) == 57


def test_damaged_bytes_are_refused():
    raw = files("etui.learning").joinpath(FILE).read_bytes()
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
