"""Arms that agree: what it says of their answers, and policies with ``agree`` over tables."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.learning.fit import find_agreed, fit_accuracy, fit_agreement
from etui.learning.fitted_file import (
    AgreementHead,
    ConfidenceCurve,
    FittedModel,
    Share,
    format_fitted,
    parse_fitted,
)
from etui.learning.graded import ArmFacts, Graded
from etui.learning.policy_replay import replay_policy
from etui.learning.predictor import AccuracyPredictor, compute_ceiling
from etui.routing.library import compile_text
from etui.routing.text_measures import QuestionText
from tests.learning.made import ORIGIN
from tests.learning.test_commands import call, run

PAIR = ("a", "b")
FOLDS = np.zeros(1000, dtype=np.int64)


def table(answers: list[list[int]], **more) -> Graded:
    """A table in which the answer 0 is right to every question."""
    given_ = np.array(answers, dtype=np.int64)
    n = len(answers)
    return Graded(
        tuple("abcde")[: given_.shape[1]],
        ("s",) * n,
        tuple(range(n)),
        (),
        given_ == 0,
        answers=given_,
        facts={"a": ArmFacts("small"), "b": ArmFacts("middle")},
        **more,
    )


def test_shares_of_answers_that_agree_and_of_those_that_differ():
    rows = [[0, 0]] * 6 + [[1, 1]] * 2 + [[0, 1]] * 3 + [[1, 2]]
    head = fit_agreement(table(rows + [[-1, -1]] * 2), PAIR, FOLDS[:14])
    assert head is not None
    assert (head.known, head.n, head.agreed.n, head.models) == (True, 14, 8, ("small", "middle"))
    assert head.agreed.p == pytest.approx(7 / 10)  # 6 of 8, one more right and one more wrong
    assert head.agreed.low < 6 / 8 < head.agreed.high
    # Two questions without an answer count as different ones.
    assert [(share.n, share.p) for share in head.apart] == [(6, 4 / 8), (6, 1 / 8)]
    head = fit_agreement(replace(table(rows), answers=None), PAIR, FOLDS[:12])
    assert head is not None
    assert (head.known, head.curve) == (False, None)
    # Three questions are wrong for both: each may be agreed on, or not.
    assert (head.agreed.n, head.agreed.p) == (9, 7 / 11)
    assert [share.n for share in head.apart] == [6, 6]
    # Labels that are only probable do not count.
    weights = np.array([[1.0, 1.0]] * 8 + [[1.0, 0.5]] * 4)
    head = fit_agreement(table(rows, weights=weights), PAIR, FOLDS[:12])
    assert head is not None
    assert (head.n, head.agreed.n) == (8, 8)


@given(
    st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=1, max_size=30),
    st.integers(2, 3),
)
def test_right_and_wrong_never_promise_more_than_the_answers_show(rows, arms):
    full = table([row[:arms] for row in rows])
    names = full.arms
    known, unknown = find_agreed(full, names), find_agreed(replace(full, answers=None), names)
    assert known.known
    assert not (unknown.agree & known.differ).any()
    assert not (unknown.differ & known.agree).any()
    exact = fit_agreement(full, names, FOLDS[: len(full)])
    bound = fit_agreement(replace(full, answers=None), names, FOLDS[: len(full)])
    assert exact is not None
    if bound is None:
        return
    assert bound.agreed.n >= exact.agreed.n
    shares = zip((exact.agreed, *exact.apart), (bound.agreed, *bound.apart), strict=True)
    for share, least in shares:
        right = round(share.p * (share.n + 2)) - 1
        assert right == round(least.p * (least.n + 2)) - 1
        assert share.n == 0 or right / share.n >= right / max(1, least.n)


def test_votes_agree_where_all_of_them_do():
    graded = table([[0], [0], [1], [2]], confidence=np.array([[1.0], [0.67], [1.0], [np.nan]]))
    assert find_agreed(graded, ("a",)).agree.tolist() == [True, False, True, False]
    assert fit_agreement(replace(graded, confidence=None), ("a",), FOLDS[:4]) is None


def test_a_fit_predicts_agreement_by_margin_for_the_models_it_knows():
    draw = np.random.default_rng(1)
    margin = draw.uniform(0, 1, (600, 2))
    right = draw.uniform(0, 1, 600) < margin.mean(axis=1)
    rows = [[0, 0] if each else [1, 1] for each in right]
    graded = table(rows, margin=margin, confidence=margin)
    model = fit_accuracy(graded, ORIGIN, agreements=[PAIR])
    heads = AccuracyPredictor(parse_fitted(format_fitted(model), "f.json"))
    arms = (Arm("a", "small"), Arm("b", "middle"))
    raws = [[(None, 0.1), (None, 0.2)], (), [(None, None), (None, 0.9)], [(None, 0.9), (None, 1.0)]]
    low, plain, partly, high = (heads.agreement(arms, raw) for raw in raws)
    assert low.agreed < 0.35 < plain.agreed < 0.65 < high.agreed
    assert plain.agreed == partly.agreed
    assert heads.agreement((arms[0], Arm("b", "another"))) is None
    assert heads.agreement((arms[1], arms[0])) is None
    assert fit_accuracy(graded, ORIGIN, agreements=()).agreements == ()
    assert [head.arms for head in fit_accuracy(graded, ORIGIN).agreements] == [PAIR]


UNIT = st.floats(0, 1)


@st.composite
def curves(draw: st.DrawFn) -> ConfidenceCurve:
    if draw(st.booleans()):
        slope, shift = (draw(st.floats(-20, 20)) for _ in range(2))
        return ConfidenceCurve(of="margin", kind="platt", a=slope, b=shift, n=9, ece=0.0)
    count = draw(st.integers(1, 6))
    x, p = (tuple(sorted(draw(UNIT) for _ in range(count))) for _ in range(2))
    return ConfidenceCurve(of="margin", kind="isotonic", x=x, p=p, n=9, ece=0.0)


@lru_cache(maxsize=1)
def fit_once() -> FittedModel:
    return fit_accuracy(table([[0, 0]] * 30 + [[1, 2]] * 30), ORIGIN, agreements=())


@given(curve=st.none() | curves(), share=UNIT, margins=st.tuples(UNIT, UNIT))
def test_no_agreed_answer_is_more_likely_right_than_the_ceiling(curve, share, margins):
    agreed = Share(p=share, low=0, high=1, n=9)
    head = AgreementHead(
        arms=PAIR, models=(None, None), n=9, known=True, agreed=agreed, apart=(agreed, agreed),
        curve=curve,
    )  # fmt: skip
    ceiling = compute_ceiling(head)
    heads = AccuracyPredictor(fit_once().model_copy(update={"agreements": (head,)}))
    arms = (Arm("a", "x"), Arm("b", "y"))
    for raw in ((), [(None, margin) for margin in margins], [(None, 1.0)] * 2, [(None, 0.0)] * 2):
        found = heads.agreement(arms, raw)
        assert found is not None
        assert found.agreed <= ceiling + 1e-12
        assert found.at_most == ceiling


# policies over tables of answers

MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
TEXT = f"""
version: 1
models: {{small: [{MODELS[0]}], middle: [{MODELS[1]}], large: [{MODELS[2]}]}}
arms: {{small: {{model: small}}, middle: {{model: middle}}, large: {{model: large}}}}
rules:
  - name: agree
    cascade: {{arms: [{{agree: [small, middle], accept: ACCEPT}}, large], accept_at: 0.7}}
"""


class _NoHeads(AccuracyPredictor):
    def __init__(self) -> None:
        pass

    def accuracy(self, *_):
        return None

    calibrated = agreement = accuracy


@pytest.fixture(scope="module")
def answered() -> Graded:
    """Two small arms that are more often right where they agree, and a large one."""
    draw, count = np.random.default_rng(3), 200
    easy = draw.uniform(size=count) < 0.5
    chance = np.stack([np.where(easy, 0.8, 0.3), np.where(easy, 0.85, 0.35), np.full(count, 0.9)])
    right = draw.uniform(size=(count, 3)) < chance.T
    answers = np.where(right, 0, draw.integers(1, 4, size=(count, 3)))
    answers[:5, 0] = -1  # a few have no letter
    return Graded(
        ("small", "middle", "large"),
        ("s",) * count,
        tuple(range(count)),
        tuple(QuestionText(f"Question {at}?", ("w", "x", "y", "z")) for at in range(count)),
        answers == 0,
        joules=np.tile((1.0, 3.0, 8.0), (count, 1)),
        confidence=draw.uniform(0.3, 0.6, (count, 3)),
        answers=answers.astype(np.int64),
    )


def fit_step(graded: Graded) -> AccuracyPredictor:
    """Fit the step alone: the confidences of single answers stay as they are."""
    model = fit_accuracy(graded, ORIGIN, agreements=[("small", "middle")])
    arms = {name: arm.model_copy(update={"curves": ()}) for name, arm in model.arms.items()}
    return AccuracyPredictor(model.model_copy(update={"arms": arms}))


@pytest.fixture(scope="module")
def heads(answered) -> AccuracyPredictor:
    return fit_step(answered)


def replay(text: str, graded: Graded, heads: AccuracyPredictor):
    policy = compile_text(text, "p", MODELS)
    return replay_policy(policy, graded, graded.joules, label="J", heads=heads)


def test_agreed_answers_are_taken_and_every_arm_that_answered_is_charged(answered, heads):
    routed = replay(TEXT.replace("ACCEPT", "0.6"), answered, heads)
    agree = find_agreed(answered, ("small", "middle")).agree
    silent = answered.answers[:, 0] < 0  # without a letter there is nothing to agree with
    assert (routed.chosen == np.where(agree, 1, 2)).all()
    assert (routed.cost == np.where(agree, 4.0, np.where(silent, 9.0, 12.0))).all()
    assert (routed.hops == np.where(agree, 2, np.where(silent, 2, 3))).all()
    assert (routed.correct == np.where(agree, *answered.correct[:, 1:].T)).all()
    # An acceptance that agreed answers do not reach asks the large arm alone.
    strict = replay(TEXT.replace("ACCEPT", "0.99"), answered, heads)
    assert set(strict.cost.tolist()) == {8.0}
    # With a limit that may forbid the large arm, the others are asked as well.
    text = TEXT.replace("ACCEPT", "0.99").replace(
        "accept_at: 0.7", "accept_at: 0.7, max_joules: 50"
    )
    limited = replay(text, answered, heads)
    assert set(limited.cost.tolist()) == {9.0, 12.0}
    assert (limited.chosen == strict.chosen).all()


def test_of_right_and_wrong_alone_agreement_is_bounded_and_the_report_says_so(answered):
    graded = replace(answered, answers=None)
    heads = fit_step(graded)
    routed = replay(TEXT.replace("ACCEPT", "0.4"), graded, heads)
    both_wrong = int((~graded.correct[:, :2]).all(axis=1).sum())
    full = replay(TEXT.replace("ACCEPT", "0.4"), answered, heads)
    assert routed.correct.mean() <= full.correct.mean()
    assert routed.cost.mean() <= full.cost.mean()
    assert f"on {both_wrong} questions all arms of `agree` are wrong" in routed.notes[0]
    strict = replay(TEXT.replace("ACCEPT", "0.75"), graded, heads)
    assert set(strict.chosen.tolist()) == {2}
    assert "only show the least that it can be right" in strict.notes[0]


def test_without_confidence_a_step_is_still_walked(answered, heads):
    graded = replace(answered, confidence=None)
    routed = replay(TEXT.replace("ACCEPT", "0.6"), graded, heads)
    assert set(routed.chosen.tolist()) == {1, 2}
    assert "an arm that answers alone is never sure enough" in routed.notes[0]


@pytest.mark.parametrize(("fallback", "unsure"), [("", 0), ("ask_constrained", 5)])
def test_an_answer_without_a_letter_is_accepted_as_in_a_turn(answered, fallback, unsure):
    text = TEXT.replace("{agree: [small, middle], accept: ACCEPT}", "small").replace("0.7", "0.2")
    text += f"fallbacks: {{no_answer: {fallback}}}\n" if fallback else ""
    routed = replay(text, answered, _NoHeads())
    # All confidences exceed 20 %; only the five answers without a letter are left.
    assert int((routed.chosen == 2).sum()) == unsure
    note = (
        "5 answers have no letter: a turn asks for it once more (no_answer: ask_constrained), "
        "which is not in the cost"
    )
    assert routed.notes == ((note,) if unsure else ())


def test_fit_says_what_agreement_is_worth_and_what_is_not_known(answered, tmp_path):
    rows = [f"s,{at},{','.join(map(str, row))}" for at, row in enumerate(answered.correct + 0)]
    outcomes, file = tmp_path / "outcomes.csv", tmp_path / "p.yaml"
    outcomes.write_text("\n".join(["subject,row,small,middle,large", *rows]) + "\n")
    file.write_text(TEXT.replace("ACCEPT", "0.6"))
    document = json.loads(run("fit", file, "--outcomes", outcomes, "--json").stdout)
    (found,) = document["agreements"]
    assert (found["arms"], found["known"], found["curve"]) == (["small", "middle"], False, None)
    assert 0.3 < found["agreed"]["p"] < found["agreed"]["high"]
    notes = "\n".join(document["notes"])
    assert "whether two wrong answers are the same is not known" in notes
    assert "60 % required, so never accepted" in notes
    file.write_text(TEXT.replace("ACCEPT", "0.2"))
    shown = call("fit", file, "--outcomes", outcomes).output
    assert "never accepted" not in shown
    assert "small and middle  200        unknown" in shown
    assert "at least" in shown
    costs = ("--costs", "small=1,middle=3,large=8")
    document = json.loads(run("replay", "--outcomes", outcomes, *costs, "--json").stdout)
    assert any("the votes and probes of an arm" in note for note in document["notes"])
