"""What agreement says of two arms: its formula, its bias, and the labels that follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Query
from etui.learning.agreement import (
    build_scale,
    compute_bias,
    estimate_agreement,
)
from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance
from etui.learning.labels import (
    Label,
    LabelledQuestion,
    build_label_table,
    join_tables,
    label_audit,
    label_grade,
    model_questions,
)
from etui.learning.predictor import AccuracyPredictor
from etui.routing.question_text import split_question

SHARE = st.floats(0.05, 0.95)


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


def test_the_pair_of_mmlu_is_told_from_its_agreement() -> None:
    """Both right on 62.8 %, only the small one on 5.4 %, neither on 13.8 % (7,026 questions)."""
    both, only_arm, neither = 0.628, 0.0537, 0.1383
    agreed = both + 0.35 * neither
    model = estimate_agreement(round(1e5 * agreed), 100_000, 0.808)
    assert model.arm == pytest.approx(both + only_arm, abs=0.005)
    assert model.both == pytest.approx(both, abs=0.005)
    assert model.neither == pytest.approx(neither, abs=0.005)


def test_a_grade_of_the_answer_decides_what_agreement_leaves_open() -> None:
    model = estimate_agreement(60, 100, 0.8)
    assert model.audit_right(True, True) == 1
    assert model.audit_right(True, False) == 0
    assert model.audit_right(False, True) == 0
    assert model.audit < model.audit_right(False, False) + 0.5
    labels = label_audit(model, "quick", "large", agrees=False, good=False)
    assert labels["quick"] == Label(0.0, 1.0)
    assert 0 < labels["large"].p < 1


def test_the_audit_arm_gains_most_in_the_middle_of_the_scale() -> None:
    scale = build_scale(estimate_agreement(675, 1000, 0.8))
    agreement = [model.agreement for model in scale]
    gain = [model.audit - model.arm for model in scale]
    assert agreement == sorted(agreement, reverse=True)
    assert 0 < int(np.argmax(gain)) < len(scale) - 1


def test_questions_that_agree_less_are_harder_for_both() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 600)
    texts = [split_question(f"What {('poem', 'integral')[k]} is {n}?") for n, k in enumerate(kinds)]
    agrees = rng.random(600) < np.where(kinds == 0, 0.9, 0.4)
    model = estimate_agreement(int(agrees.sum()), 600, 0.8)
    found = model_questions(texts, agrees.tolist(), model)
    assert found is not None
    easy = np.mean([each.arm for each, kind in zip(found, kinds, strict=True) if kind == 0])
    hard = np.mean([each.arm for each, kind in zip(found, kinds, strict=True) if kind == 1])
    assert easy > hard + 0.3
    assert model_questions(texts[:50], agrees[:50].tolist(), model) is None
    assert model_questions(texts, [True] * 600, model) is None


def test_the_mean_of_the_questions_is_that_of_all_audits() -> None:
    """Without a difference between questions, each has the accuracies of the pair, about."""
    rng = np.random.default_rng(1)
    agrees = rng.random(500) < 0.675
    texts = [split_question(f"What is river number {n}?") for n in range(500)]
    model = estimate_agreement(int(agrees.sum()), 500, 0.8)
    found = model_questions(texts, agrees.tolist(), model)
    assert found is not None
    assert np.mean([each.agreement for each in found]) == pytest.approx(0.675, abs=0.04)
    assert np.std([each.arm for each in found]) < 0.1
    assert all(each.neither >= 0 and each.only_arm <= each.only_audit + 0.01 for each in found)
    assert found == model_questions(texts, agrees.tolist(), model), "the same audits, the same fit"


def test_a_predicted_label_counts_whole_and_a_grade_stays_certain() -> None:
    model = estimate_agreement(60, 100, 0.8)
    predicted = label_audit(model, "quick", "large", agrees=True, predicted=True)
    assert predicted["quick"] == Label(model.arm, 1.0)
    graded = label_audit(model, "quick", "large", agrees=True, good=False, predicted=True)
    assert graded["quick"] == Label(0.0, 1.0)
    alone = label_audit(model, "quick", "large", agrees=True)
    assert alone["quick"].weight == 0.5


def test_a_table_has_a_row_for_each_possible_truth() -> None:
    question = split_question("What?")
    table = build_label_table(
        [
            LabelledQuestion(question, label_grade("quick", True)),
            LabelledQuestion(question, {"quick": Label(0.25, 0.5), "large": Label(1.0, 0.5)}),
        ]
    )
    assert table.arms == ("quick", "large")
    assert table.correct.tolist() == [[True, True], [True, True], [False, False]]
    assert table.weights is not None
    assert table.weights.tolist() == [[1.0, 0.0], [0.125, 0.5], [0.375, 0.0]]
    assert table.rows == (0, 1, 1)
    joined = join_tables(table, table.of_arms(["large"]))
    assert joined.arms == ("quick", "large")
    assert len(joined) == 6
    assert joined.weights is not None
    assert joined.weights[3:].tolist() == [[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]]
    assert len(build_label_table([])) == 0


def test_probable_labels_that_differ_between_arms_stay_apart_in_a_fit() -> None:
    """Both rows of a question weigh the same; only their parts differ from arm to arm."""
    labels = {"quick": Label(0.3, 0.5), "large": Label(0.9, 0.5)}
    words = ("river", "stone", "poem", "cell")
    table = build_label_table(
        [
            LabelledQuestion(split_question(f"What {words[n % 4]} is number {n}?"), labels)
            for n in range(400)
        ]
    )
    origin = Provenance(fitted_at="", source=(), data_sha256="", n=400, excluded=0, etui="")
    heads = AccuracyPredictor(fit_accuracy(table, origin, assess=False))
    found = [
        heads.accuracy(Arm(name, "any"), Query("What stone is it?"), 0.9)
        for name in ("quick", "large")
    ]
    assert [round(each.p, 1) for each in found if each is not None] == [0.3, 0.9]
