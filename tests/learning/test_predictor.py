"""Fitted heads: what is fitted, what they predict, and damaged files."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Query
from etui.errors import InvalidFile, UsageError
from etui.learning.fit import (
    calibration_error,
    evaluate_curve_array,
    find_pairs,
    fit_accuracy,
    fit_curve,
)
from etui.learning.fitted_file import format_fitted, load_fitted, parse_fitted
from etui.learning.graded import ArmFacts, assign_folds, same_questions
from etui.learning.predictor import AccuracyPredictor, compute_both, evaluate_curve
from etui.routing.text_measures import QuestionText, format_question
from etui.stats.tests import wilson_low
from tests.learning import made
from tests.learning.made import ORIGIN

WEAK, STRONG = Arm("weak", "small"), Arm("strong", "large")


@pytest.fixture(scope="module")
def fitted():
    return fit_accuracy(made.graded(600), ORIGIN)


@pytest.fixture(scope="module")
def heads(fitted):
    return AccuracyPredictor(parse_fitted(format_fitted(fitted), "f"))


def asked(hard: bool, subject: str = "algebra") -> Query:
    tail = "where x = 17?" if hard else "is it?"
    words = made.WORDS[subject]
    stem = f"Which {' '.join(words[:4])} number 7 {tail}"
    return Query(format_question(QuestionText(stem, tuple(f"{word} 7" for word in words[4:]))))


def test_a_hard_question_is_less_likely_right(heads):
    easy = heads.accuracy(WEAK, asked(False), 0.9)
    hard = heads.accuracy(WEAK, asked(True), 0.9)
    assert easy.p > hard.p + 0.25
    assert heads.accuracy(STRONG, asked(True), 0.9).p > hard.p + 0.2
    assert (easy.source, easy.confidence, easy.n) == ("fitted", 0.9, 600)
    assert 0 < hard.low < hard.p
    lows = [heads.accuracy(WEAK, asked(True), each).low for each in (0.5, 0.8, 0.9, 0.99)]
    assert lows == sorted(set(lows), reverse=True), "the bound falls with its confidence"


def test_the_bound_holds_on_new_questions(heads):
    """At confidence 0.9 a band is at least as often right as the bound says, but for one in ten."""
    new = made.graded(600, seed=9)
    held = []
    for arm in (WEAK, STRONG):
        at = new.arms.index(arm.name)
        found = [heads.accuracy(arm, Query(format_question(q)), 0.9) for q in new.questions]
        for subject in made.WORDS:
            inside = [i for i, name in enumerate(new.subjects) if name == subject]
            bound = statistics.fmean(found[i].low for i in inside)
            held.append(new.correct[inside, at].mean() > bound)
        p = np.array([each.p for each in found])
        assert calibration_error(p, new.correct[:, at]) < 0.08
    assert sum(held) >= 5


def test_confidence_after_an_answer(heads):
    low, high = heads.calibrated(WEAK, None, 0.1), heads.calibrated(WEAK, None, 0.9)
    assert 0 < low < high < 1
    assert heads.calibrated(WEAK, 0.9, None) is not None
    assert heads.calibrated(WEAK, None, None) is None
    assert heads.calibrated(WEAK, float("nan"), None) is None
    other = Arm("weak", "another-model")
    assert heads.calibrated(other, 0.9, 0.9) is None
    for arm in (other, Arm("other", "small")):
        assert heads.accuracy(arm, asked(True), 0.9) is None


def test_needs_tell_reasoning_and_size_apart():
    table = made.graded(400)
    generator = np.random.default_rng(0)
    digits = np.array(["=" in q.stem for q in table.questions])
    thought = table.correct[:, 0] | (digits & (generator.random(400) < 0.7))
    facts = {
        "weak": ArmFacts("small", "direct", 10),
        "strong": ArmFacts("large", "direct", 20),
        "think": ArmFacts("small", "cot", 10),
    }
    table = replace(
        table,
        arms=("weak", "strong", "think"),
        correct=np.column_stack([table.correct, thought]),
        joules=None,
        confidence=None,
        margin=None,
        facts=facts,
    )
    assert find_pairs(table) == [("larger_model", 0, 1), ("reasoning", 0, 2)]
    heads = AccuracyPredictor(fit_accuracy(table, ORIGIN))
    needs = {need.need: need for need in heads.needs(asked(True))}
    calm = {need.need: need for need in heads.needs(asked(False))}
    assert (needs["reasoning"].base, needs["reasoning"].other) == ("weak", "think")
    assert needs["reasoning"].gain > calm["reasoning"].gain + 0.2
    assert needs["larger_model"].n == 400


def test_needs_are_as_frequent_as_they_are_predicted(heads):
    new = made.graded(600, seed=9)
    weak, strong = new.correct.T
    needs = [heads.needs(Query(format_question(question)))[0] for question in new.questions]
    gained, lost = (
        np.array([getattr(need, name) for need in needs]) for name in ("gained", "lost")
    )
    assert gained.mean() == pytest.approx((strong & ~weak).mean(), abs=0.06)
    assert lost.mean() == pytest.approx((weak & ~strong).mean(), abs=0.06)
    hard = np.array(["=" in question.stem for question in new.questions])
    assert gained[hard].mean() > gained[~hard].mean() + 0.2


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1))
def test_both_arms_are_right_as_often_as_is_possible(first, second, together):
    both = compute_both(first, second, together)
    assert max(0.0, first + second - 1) - 1e-12 <= both <= min(first, second) + 1e-12
    assert compute_both(first, second, 0.0) == pytest.approx(first * second, abs=1e-9)


def test_sizes_decide_which_model_is_larger():
    table = made.graded(60)
    facts = {"weak": ArmFacts("a", "direct", 90), "strong": ArmFacts("b", "direct", 20)}
    assert find_pairs(replace(table, facts=facts)) == [("larger_model", 1, 0)]
    same = {name: ArmFacts(None, "direct", None, "small") for name in table.arms}
    assert find_pairs(replace(table, facts=same)) == []


def test_few_answers_or_no_texts_give_the_rate_alone():
    table = made.graded(40)
    model = fit_accuracy(table, ORIGIN)
    assert model.joint is None
    assert model.arms["weak"].curves[0].kind == "platt"
    silent = fit_accuracy(replace(made.graded(200), questions=()), ORIGIN)
    for each, within in ((model, 0.2), (silent, 0.02)):
        p = AccuracyPredictor(each).accuracy(WEAK, asked(True), 0.9).p
        assert p == pytest.approx(each.arms["weak"].rate, abs=within)
    with pytest.raises(UsageError, match="too few"):
        fit_accuracy(table.take(np.arange(40) < 19), ORIGIN)
    table = made.graded(150)
    always = replace(table, correct=np.column_stack([np.ones(150, bool), table.correct[:, 1]]))
    model = fit_accuracy(always, ORIGIN)
    assert model.arms["weak"].quality.auc is None
    assert AccuracyPredictor(model).accuracy(WEAK, asked(True), 0.9).p > 0.95


def test_duplicates_share_a_fold():
    table = made.graded(60)
    doubled = replace(
        table,
        subjects=table.subjects * 2,
        rows=tuple(range(120)),
        questions=table.questions
        + tuple(QuestionText(q.stem.upper(), q.options) for q in table.questions),
        correct=np.concatenate([table.correct] * 2),
    )
    assert len(set(same_questions(doubled).tolist())) == 60
    folds = assign_folds(doubled, 5, 3)
    assert (folds[:60] == folds[60:]).all()
    assert sorted(np.bincount(folds).tolist()) == [24] * 5


@given(st.floats(0, 1), st.integers(1, 10_000), st.floats(0.5, 0.999))
def test_wilson_lies_below_p_and_comes_closer(p, n, confidence):
    low = wilson_low(p, n, confidence)
    assert 0 <= low <= p + 1e-9
    assert wilson_low(p, 4 * n, confidence) >= low - 1e-9
    # 8 of 10 at one-sided 95 %: z = 1.6449.
    assert wilson_low(0.8, 10, 0.95) == pytest.approx(0.5408, abs=2e-3)
    assert wilson_low(0.8, 0, 0.95) == 0.0


@pytest.mark.parametrize("count", [60, 400])
def test_curves_go_up_and_agree_with_their_vector_form(count):
    generator = np.random.default_rng(count)
    raw = generator.random(count)
    right = generator.random(count) < 0.2 + 0.7 * raw
    curve = fit_curve("margin", raw, right, np.arange(count) % 5)
    assert curve.kind == ("platt" if count < 200 else "isotonic")
    grid = np.linspace(-0.2, 1.2, 60)
    single = [evaluate_curve(curve, float(value)) for value in grid]
    assert single == sorted(single)
    assert 0 < single[0] < single[-1] < 1
    assert evaluate_curve_array(curve, grid) == pytest.approx(single, abs=1e-9)
    assert curve.ece < 0.15


def test_a_confidence_that_misleads_is_not_followed():
    raw = np.linspace(0, 1, 100)
    curve = fit_curve("margin", raw, raw < 0.5, np.arange(100) % 5)
    assert evaluate_curve(curve, 1.0) == pytest.approx(evaluate_curve(curve, 0.0))


def test_the_file_holds_no_text(fitted):
    text = format_fitted(fitted)
    assert text.count("\n") == 1
    # Any three letters may occur in the packed numbers of the joint model.
    assert set(fitted.joint.bands) == set(made.WORDS)
    text = format_fitted(fitted.model_copy(update={"joint": None})).replace("fields_sha256", "")
    assert not any(word in text for words in made.WORDS.values() for word in words)


def _without(document, key):
    return {name: value for name, value in document.items() if name != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "is empty"),
        (lambda text: text[: len(text) // 2], "is not valid JSON"),
        (lambda text: "[]", "is not a fitted model"),
        (lambda text: json.dumps(_without(json.loads(text), "arms")), "is not a fitted model"),
        (lambda text: text.replace('"version":3', '"version":7'), "has version 7"),
        (lambda text: text.replace('"has_equals"', '"has_equal"'), "its features differ"),
        (lambda text: text.replace('"idf":[', '"idf":[1,'), "2049 word buckets"),
        (lambda text: text.replace('"rate":', '"rate":1'), "arms."),
        (lambda text: text.replace('"sharpness":20.0', '"sharpness":NaN'), "sharpness"),
        (lambda text: text.replace('"sharpness"', '"sharp"'), "bands"),
        (lambda text: text.replace('"base":"weak"', '"base":"none"'), "its pairs have other arms"),
    ],
)
def test_a_damaged_file_is_said(fitted, change, said, tmp_path):
    file = tmp_path / "p.fitted.json"
    file.write_text(change(format_fitted(fitted)), encoding="utf-8")
    with pytest.raises(InvalidFile) as raised:
        load_fitted(file)
    assert said in raised.value.what
    assert raised.value.what.startswith(f"{file}: ")
    assert "etui policy fit" in raised.value.fix


@given(st.data())
def test_any_cut_or_change_is_read_or_refused(fitted, data):
    text = format_fitted(fitted)
    at = data.draw(st.integers(0, len(text)))
    put = data.draw(st.text(max_size=3))
    changed = text[:at] + put + text[at + data.draw(st.integers(0, 20)) :]
    try:
        heads = AccuracyPredictor(parse_fitted(changed, "f"))
    except InvalidFile:
        return
    found = heads.accuracy(WEAK, asked(True), 0.9)
    assert found is None or 0 <= found.low <= 1
