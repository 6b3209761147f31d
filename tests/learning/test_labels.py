"""Labels of different worth: what agreement says of two arms, and how weights count in a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Query
from etui.learning.fit import fit_accuracy
from etui.learning.graded import Graded
from etui.learning.labels import (
    Label,
    LabelledQuestion,
    build_label_table,
    build_scale,
    compute_bias,
    estimate_agreement,
    join_tables,
    label_audit,
    label_grade,
    model_questions,
)
from etui.learning.predictor import AccuracyPredictor
from etui.routing.text_measures import split_question
from tests.learning.made import ORIGIN

SHARE = st.floats(0.05, 0.95)
WORDS = ("river", "stone", "number", "poem", "cell", "court")


@given(st.integers(0, 1000), SHARE, st.floats(0.0, 0.6))
def test_the_model_is_one_of_probabilities(agreed: int, audit: float, same: float) -> None:
    model = estimate_agreement(agreed, 1000, audit, same)
    assert model.audit == pytest.approx(audit, abs=1e-6)
    assert model.arm <= model.audit + 1e-9
    parts = (model.both, model.only_arm, model.only_audit, model.neither)
    assert all(part >= 0 for part in parts)
    assert sum(parts) == pytest.approx(1)
    assert model.bias == pytest.approx(compute_bias(model.neither, model.only_arm, same))
    for agrees in (True, False):
        assert 0 <= model.arm_right(agrees) <= 1
        assert 0 <= model.audit_right(agrees) <= 1
    share = model.agreement if model.observed is None else model.observed
    assert share == pytest.approx((agreed + 1) / 1002, abs=1e-3) or share > (agreed + 1) / 1002
    mean = share * model.arm_right(True) + (1 - share) * model.arm_right(False)
    assert mean == pytest.approx(model.arm), "labels are neither better nor worse than their arm"
    mean = share * model.audit_right(True) + (1 - share) * model.audit_right(False)
    assert model.observed is None or mean == pytest.approx(model.audit)


def test_the_pair_of_mmlu_is_found_from_its_agreement() -> None:
    """Both right on 62.8 %, only the small one on 5.4 %, neither on 13.8 % (7,026 questions)."""
    model = estimate_agreement(round(1e5 * (0.628 + 0.35 * 0.1383)), 100_000, 0.808)
    found = model.arm, model.both, model.neither
    assert found == pytest.approx((0.628 + 0.0537, 0.628, 0.1383), abs=0.005)
    scale = build_scale(estimate_agreement(675, 1000, 0.8))
    agreement = [model.agreement for model in scale]
    assert agreement == sorted(agreement, reverse=True)
    gain = [model.audit - model.arm for model in scale]
    assert 0 < int(np.argmax(gain)) < len(scale) - 1, "the audit arm gains most in the middle"


def test_a_grade_decides_what_agreement_leaves_open() -> None:
    model = estimate_agreement(60, 100, 0.8)
    assert model.audit_right(True, True) == 1
    assert model.audit_right(True, False) == model.audit_right(False, True) == 0
    assert model.audit < model.audit_right(False, False) + 0.5
    labels = label_audit(model, "quick", "large", agrees=False, good=False)
    assert labels["quick"] == Label(0.0, 1.0)
    assert 0 < labels["large"].p < 1
    # A predicted label counts whole, and a grade stays certain.
    predicted = label_audit(model, "quick", "large", agrees=True, predicted=True)
    assert predicted["quick"] == Label(model.arm, 1.0)
    graded = label_audit(model, "quick", "large", agrees=True, good=False, predicted=True)
    assert graded["quick"] == Label(0.0, 1.0)
    assert label_audit(model, "quick", "large", agrees=True)["quick"].weight == 0.5


def test_questions_that_agree_less_are_harder_for_both() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 600)
    texts = [split_question(f"What {('poem', 'integral')[k]} is {n}?") for n, k in enumerate(kinds)]
    agrees = rng.random(600) < np.where(kinds == 0, 0.9, 0.4)
    model = estimate_agreement(int(agrees.sum()), 600, 0.8)
    found = model_questions(texts, agrees.tolist(), model)
    assert found is not None
    arms = np.array([each.arm for each in found])
    assert arms[kinds == 0].mean() > arms[kinds == 1].mean() + 0.3
    assert model_questions(texts[:50], agrees[:50].tolist(), model) is None
    assert model_questions(texts, [True] * 600, model) is None


def test_without_a_difference_each_question_has_about_the_accuracies_of_the_pair() -> None:
    agrees = np.random.default_rng(1).random(500) < 0.675
    texts = [split_question(f"What is river number {n}?") for n in range(500)]
    model = estimate_agreement(int(agrees.sum()), 500, 0.8)
    found = model_questions(texts, agrees.tolist(), model)
    assert found is not None
    assert np.mean([each.agreement for each in found]) == pytest.approx(0.675, abs=0.04)
    assert np.std([each.arm for each in found]) < 0.1
    assert all(each.neither >= 0 and each.only_arm <= each.only_audit + 0.01 for each in found)
    assert found == model_questions(texts, agrees.tolist(), model), "the same audits, the same fit"


def test_a_table_has_a_row_for_each_possible_truth() -> None:
    question = split_question("What?")
    probable = {"quick": Label(0.25, 0.5), "large": Label(1.0, 0.5)}
    asked = [label_grade("quick", True), probable]
    table = build_label_table([LabelledQuestion(question, labels) for labels in asked])
    assert (table.arms, table.rows, table.question_count) == (("quick", "large"), (0, 1, 1), 2)
    assert table.correct.tolist() == [[True, True], [True, True], [False, False]]
    assert table.label_weights.tolist() == [[1.0, 0.0], [0.125, 0.5], [0.375, 0.0]]
    joined = join_tables(table, table.of_arms(["large"]))
    assert (joined.arms, len(joined)) == (("quick", "large"), 6)
    assert joined.label_weights[3:].tolist() == [[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]]
    assert len(build_label_table([])) == 0


def test_probable_labels_that_differ_between_arms_stay_apart_in_a_fit() -> None:
    """Both rows of a question weigh the same; only their parts differ from arm to arm."""
    labels = {"quick": Label(0.3, 0.5), "large": Label(0.9, 0.5)}
    texts = [split_question(f"What {WORDS[n % 4]} is number {n}?") for n in range(400)]
    table = build_label_table([LabelledQuestion(text, labels) for text in texts])
    heads = AccuracyPredictor(fit_accuracy(table, ORIGIN))
    query = Query("What stone is it?")
    found = [heads.accuracy(Arm(name, "any"), query, 0.9) for name in ("quick", "large")]
    assert [round(each.p, 1) for each in found if each is not None] == [0.3, 0.9]


def make_table(count: int = 400) -> Graded:
    """Make answers of two arms: the small one is right where the question has an even word."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, len(WORDS), count)
    texts = [
        split_question(f"What is the {WORDS[at]} of case {n} {WORDS[n % 6]}?")
        for n, at in enumerate(kind)
    ]
    correct = np.c_[(kind % 2 == 0) ^ (rng.random(count) < 0.1), rng.random(count) < 0.9]
    subjects = ("",) * count
    return Graded(("small", "large"), subjects, tuple(range(count)), tuple(texts), correct)


def test_labels_of_weight_zero_are_ignored() -> None:
    plain = make_table()
    half = np.arange(len(plain)) % 2 == 0
    weights = np.ones(plain.correct.shape)
    weights[~half, 0] = 0
    wrong = plain.correct.copy()
    wrong[~half, 0] ^= True  # what an ignored label says must not matter
    first = fit_accuracy(replace(plain, weights=weights), ORIGIN).arms["small"]
    assert first.n == half.sum()
    again = fit_accuracy(replace(plain, weights=weights, correct=wrong), ORIGIN)
    assert again.arms["small"] == first
    weights[:, 1] = 0  # an arm without any label keeps an even chance
    head = fit_accuracy(replace(plain, weights=weights), ORIGIN).arms["large"]
    assert head.rate == 0.5


def test_a_probable_label_is_two_rows() -> None:
    plain = make_table()
    twice = replace(
        plain,
        subjects=plain.subjects * 2,
        rows=plain.rows * 2,
        questions=plain.questions * 2,
        correct=np.r_[plain.correct, ~plain.correct],
        weights=np.r_[np.full(plain.correct.shape, 0.8), np.full(plain.correct.shape, 0.2)],
    )
    head, sure = (fit_accuracy(each, ORIGIN).arms["small"] for each in (twice, plain))
    share = (plain.correct[:, 0] * 0.6 + 0.2).sum()
    assert head.rate == pytest.approx((share + 1) / (len(plain) + 2))
    assert head.n == len(plain)
    assert abs(head.rate - 0.5) < abs(sure.rate - 0.5)
    assert twice.of_arms(["large"]).label_weights[:1].tolist() == [[0.8]]
    assert twice.take(np.arange(800) > 797).label_weights.tolist() == [[0.2, 0.2]] * 2
