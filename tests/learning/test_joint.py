"""The joint model of all arms: fitted, exported, and the same in the file as in a replay."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from etui.arm import Arm
from etui.chat import Query
from etui.errors import InvalidFile
from etui.learning._joint import (
    Calibration,
    JointPredictor,
    QuestionColumns,
    fit_calibration,
    fit_joint,
)
from etui.learning.fit import export_joint, fit_accuracy
from etui.learning.fitted_file import JointPart, format_fitted, parse_fitted
from etui.learning.graded import ArmFacts, Graded, assign_folds
from etui.learning.policy_replay import compute_shares, cross_fit
from etui.learning.predictor import AccuracyPredictor
from etui.learning.regressions import build_corpus, compute_idf, compute_tf_idf
from etui.routing.text_measures import BUCKETS, format_question
from tests.learning import made
from tests.learning.made import ORIGIN

ARMS = 6


def answers(count: int, trust: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Predictions and answers, with a part of the predicted differences between arms that holds."""
    draw = np.random.default_rng(seed)
    ability = np.linspace(-0.8, 0.8, ARMS)
    ease = draw.normal(0, 1, (count, 1))
    differences = draw.normal(0, 0.8, (count, ARMS))
    differences -= differences.mean(axis=1, keepdims=True)
    p = expit(ease + ability + differences)
    y = draw.random(p.shape) < expit(ease + ability + trust * differences)
    rates = np.repeat(expit(ability)[None, :], count, axis=0)
    return p, rates, y.astype(float), np.ones(p.shape)


def test_differences_are_trusted_as_far_as_they_hold_and_arms_keep_their_accuracies():
    p, rates, y, heavy = answers(3000, 1.0)
    found = fit_calibration(p, rates, y, heavy)
    assert 0.9 < found.spread < 1.1
    np.testing.assert_allclose(found.slope, 1.0, atol=0.15)
    p, rates, y, heavy = answers(3000, 0.0)
    found = fit_calibration(p, rates, y, heavy)
    assert found.spread < 0.15
    np.testing.assert_allclose(found.apply(p, rates).mean(axis=0), y.mean(axis=0), atol=0.015)
    assert (found.apply(p, rates).argmax(axis=1) == ARMS - 1).mean() > 0.8
    # Rates of bands add what the trees missed.
    draw = np.random.default_rng(5)
    own = draw.normal(0, 0.7, p.shape)
    own -= own.mean(axis=1, keepdims=True)
    y = (draw.random(p.shape) < expit(logit(y.mean(axis=0)) + own)).astype(float)
    assert fit_calibration(p, expit(logit(rates) + own), y, heavy).band_spread > 0.7


def test_few_answers_one_arm_and_a_perfect_arm_are_calibrated():
    p, rates, y, heavy = answers(12, 1.0)
    found = fit_calibration(p, rates, y, 0.01 * heavy)  # few answers leave the prior
    assert abs(found.spread - 0.4) < 0.05
    assert np.abs(found.slope - 1).max() < 0.05
    p, rates, y, heavy = answers(400, 1.0)
    one = [each[:, :1] for each in (p, rates, y, heavy)]
    assert np.isfinite(fit_calibration(*one).apply(*one[:2])).all()
    y[:, 0], p[:, 0], rates[:, 0] = 1.0, 1.0, 1.0
    perfect = fit_calibration(p, rates, y, heavy).apply(p, rates)
    assert np.isfinite(perfect).all()
    assert perfect[:, 0].mean() > 0.97


def test_the_parts_are_added_in_logits():
    one = Calibration(np.array([1.0, 2.0]), 0.5, 0.25, 0.1, np.array([0.3, -0.3]))
    p, rates = np.array([[0.6, 0.8]]), np.array([[0.5, 0.7]])
    z, band = logit(p), logit(rates)
    expected = one.slope * z.mean() + 0.5 * (z - z.mean()) + one.offset
    expected = expected + 0.25 * band.mean() + 0.1 * (band - band.mean())
    np.testing.assert_allclose(one.apply(p, rates), expit(expected))


def table(arms: int, count: int = 400) -> Graded:
    """Made questions with so many arms: drawn from the two made ones, better and better."""
    base = made.graded(count)
    draw = np.random.default_rng(1)
    columns = [
        base.correct[:, 0] | (draw.random(count) < 0.15 * at) if at else base.correct[:, 1]
        for at in range(arms)
    ]
    names = tuple(f"arm{at}" for at in range(arms))
    return replace(
        base,
        arms=names,
        correct=np.column_stack(columns),
        joules=None,
        confidence=None,
        margin=None,
        facts={name: ArmFacts(None, "direct", None) for name in names},
    )


def columns_of(graded: Graded) -> tuple[QuestionColumns, np.ndarray]:
    corpus = build_corpus(graded.questions, len(graded))
    idf = compute_idf(corpus.counts, np.ones(len(graded), dtype=bool))
    words = compute_tf_idf(corpus.counts, idf)
    return QuestionColumns(corpus.features, words, (compute_shares(graded),)), idf


def words_of(columns: QuestionColumns, row: int) -> dict[int, float]:
    found = columns.words[row]
    return dict(zip(found.indices.tolist(), found.data.tolist(), strict=True))


@pytest.mark.parametrize("arms", [1, 2, 5])
def test_the_exported_model_predicts_as_the_fit(arms):
    graded = table(arms)
    columns, _ = columns_of(graded)
    fit = fit_joint(graded.correct, columns, assign_folds(graded), trees=40)
    bands = sorted(set(graded.subjects))
    part = export_joint(fit, graded.arms, bands)
    part = JointPart.model_validate_json(part.model_dump_json())
    predictor = JointPredictor(part)
    exact = fit.predict(columns)
    found = np.array(
        [
            list(
                predictor.predict(
                    columns.features[row].tolist(),
                    words_of(columns, row),
                    dict(zip(bands, columns.shares[0][row].tolist(), strict=True)),
                ).values()
            )
            for row in range(len(graded))
        ]
    )
    # A value that lies on a threshold may cross it by the rounding of the words: one tree of many.
    assert np.median(np.abs(found - exact)) < 1e-4
    assert np.abs(found - exact).max() < 0.02


def test_trees_of_a_large_fit_draw_a_part_of_the_questions(monkeypatch):
    graded = table(2, 600)
    columns, _ = columns_of(graded)

    def fit() -> tuple[int, np.ndarray]:
        found = fit_joint(graded.correct, columns, assign_folds(graded), trees=20)
        trees = [tree.tree_ for forest in found.forests for tree in forest.estimators_]
        return sum(tree.node_count for tree in trees), found.left_out

    nodes, p = fit()
    monkeypatch.setattr("etui.learning._joint.TREE_ROWS", 150)
    fewer, other = fit()
    assert fewer < 0.6 * nodes
    assert np.corrcoef(p.ravel(), other.ravel())[0, 1] > 0.9


@settings(max_examples=6)
@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(2, 6))
def test_the_export_of_any_forest_walks_as_sklearn_does(seed, arms, trees):
    draw = np.random.default_rng(seed)
    graded = table(arms, 240)
    shuffled = replace(graded, correct=draw.random(graded.correct.shape) < draw.random(arms))
    columns, _ = columns_of(shuffled)
    fit = fit_joint(shuffled.correct, columns, assign_folds(shuffled), seed=seed, trees=5 * trees)
    predictor = JointPredictor(export_joint(fit, shuffled.arms, sorted(set(shuffled.subjects))))
    width = len(fit.forests[0].estimators_[0].tree_.value[0])
    asked = draw.normal(0, 1, (8, fit.forests[0].n_features_in_)).astype(np.float32)
    raw = sum(forest.predict(asked) for forest in fit.forests) / len(fit.forests)
    walked = np.array([predictor._walk(row) for row in asked])
    count = sum(len(forest.estimators_) for forest in fit.forests)
    assert np.abs(walked / (8192 * count) - raw.reshape(8, width)).max() < 1e-4


def test_live_equals_replay():
    """The fit of a fold predicts through its file what the router predicts in the replay."""
    graded = replace(made.graded(600), confidence=None, margin=None)
    used = assign_folds(graded, 5, 0) != 0
    model = fit_accuracy(graded.take(used), ORIGIN)
    heads = AccuracyPredictor(parse_fitted(format_fitted(model), ""))
    arms = [Arm("weak", "small"), Arm("strong", "large")]
    queries = [Query(format_question(each)) for each in graded.take(~used).questions]
    live, same = (
        np.array([[each.accuracy(arm, query, 0.9).p for arm in arms] for query in queries])
        for each in (heads, AccuracyPredictor(model))
    )
    assert (live == same).all(), "the file gives the p of the fit"
    replayed = cross_fit(graded, routers=("joint",))["joint"][~used]
    # The replay knows the subject, the chat tells it from the words: the same but for that.
    assert np.corrcoef(live.ravel(), replayed.ravel())[0, 1] > 0.95


def test_what_one_arm_shows_of_a_question_informs_another_with_few_labels():
    graded = made.graded(600)
    weights = np.ones(graded.correct.shape)
    weights[60:, 0] = 0.0
    columns, _ = columns_of(graded)
    fit = fit_joint(graded.correct, columns, assign_folds(graded), weights=weights)
    new = made.graded(400, seed=8)
    corpus = build_corpus(new.questions, len(new))
    idf = compute_idf(build_corpus(graded.questions, 600).counts, np.ones(600, dtype=bool))
    p = fit.predict(
        QuestionColumns(corpus.features, compute_tf_idf(corpus.counts, idf), (compute_shares(new),))
    )
    right = new.correct[:, 0]
    assert p[right, 0].mean() > p[~right, 0].mean()


def test_arms_that_are_always_right_or_wrong_are_predicted_so():
    graded = table(3)
    correct = graded.correct.copy()
    correct[:, 0], correct[:, 1] = False, True
    heads = AccuracyPredictor(fit_accuracy(replace(graded, correct=correct), ORIGIN))
    query = Query("Which equation matrix ring group?")
    wrong, right = (heads.accuracy(Arm(name, "m"), query, 0.9).p for name in ("arm0", "arm1"))
    assert 0 <= wrong < 0.05
    assert 0.95 < right <= 1
    assert heads.accuracy(Arm("new", "m"), query, 0.9) is None, "an arm of the policy alone"


def test_too_few_questions_or_no_texts_have_no_joint_model():
    assert fit_accuracy(made.graded(90), ORIGIN).joint is None
    silent = replace(made.graded(400), questions=())
    assert fit_accuracy(silent, ORIGIN).joint is None
    assert list(cross_fit(silent)) == ["subject"]
    assert np.isfinite(cross_fit(made.graded(120))["joint"]).all()


def test_hidden_subjects_are_not_seen():
    graded = made.graded(200)
    shuffled = replace(graded, subjects=tuple(reversed(graded.subjects)))
    one, other = (cross_fit(each, hide_subjects=True) for each in (graded, shuffled))
    assert list(one) == ["subject", "joint"]
    for name, p in one.items():
        assert np.allclose(p, other[name]), name


def test_an_old_file_still_works_and_damage_is_refused():
    model = fit_accuracy(table(2), ORIGIN)
    old = json.loads(format_fitted(model))
    del old["joint"], old["bands"]["source"], old["bands"]["fields_sha256"]
    old["version"] = 1
    heads = AccuracyPredictor(parse_fitted(json.dumps(old), "f"))
    assert heads.accuracy(Arm("arm0", "m"), Query("Which ring?"), 0.9) is not None
    # A file of version 2 has regressions, which are left out.
    document = json.loads(format_fitted(model))
    regression = {"intercept": 1.0, "features": [0.0] * 22, "band": 0.5}
    parts = [document["arms"]["arm0"], document["joint"], *document["needs"]]
    for part, key in zip(parts, ("logistic", "mixed_offset", *["gained"] * 9), strict=False):
        part[key] = regression
    query, arm = Query("Which ring?"), Arm("arm0", "m")
    older = AccuracyPredictor(parse_fitted(json.dumps(document | {"version": 2}), "f"))
    assert older.accuracy(arm, query, 0.9) == AccuracyPredictor(model).accuracy(arm, query, 0.9)
    document = json.loads(format_fitted(model))
    assert len(model.joint.words.unpack()) == BUCKETS * (model.joint.components + 3)
    for change in (
        {"roots": [10**6]},
        {"slope": [1.0]},
        {"arms": ["a", "b"]},
        {"column": {"type": "B", "data": "AAAA"}},
        {"child": {"type": "I", "data": "not base64"}},
        {"words": {"type": "H", "data": "AAAA"}},
    ):
        damaged = {**document, "joint": {**document["joint"], **change}}
        with pytest.raises(InvalidFile, match="joint"):
            parse_fitted(json.dumps(damaged), "f")
    other = {**document, "bands": {**document["bands"], "source": "fields", "fields_sha256": "0"}}
    with pytest.raises(InvalidFile, match="fields"):
        parse_fitted(json.dumps(other), "f")
