"""What agreement is worth: from the answers of arms, and what right and wrong alone can say."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.learning.confidence import find_agreed, fit_agreement
from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import (
    AgreementHead,
    ConfidenceCurve,
    FittedModel,
    Provenance,
    Share,
    format_fitted,
    parse_fitted,
)
from etui.learning.graded import ArmFacts, Graded
from etui.learning.predictor import AccuracyPredictor, compute_ceiling

PAIR = ("a", "b")
FOLDS = np.zeros(1000, dtype=np.int64)


def table(answers: list[list[int]], right: int = 0, **more) -> Graded:
    """A table in which the answer ``right`` is right to every question."""
    given_ = np.array(answers, dtype=np.int64)
    n = len(answers)
    return Graded(
        tuple("abcde")[: given_.shape[1]],
        ("s",) * n,
        tuple(range(n)),
        (),
        given_ == right,
        answers=given_,
        facts={"a": ArmFacts("small"), "b": ArmFacts("middle")},
        **more,
    )


def test_shares_of_answers_that_agree_and_of_those_that_differ():
    graded = table([[0, 0]] * 6 + [[1, 1]] * 2 + [[0, 1]] * 3 + [[1, 2]] + [[-1, -1]] * 2)
    head = fit_agreement(graded, PAIR, FOLDS[:14])
    assert head is not None
    assert head.known
    assert (head.n, head.agreed.n, head.models) == (14, 8, ("small", "middle"))
    assert head.agreed.p == pytest.approx(7 / 10)  # 6 of 8, one more right and one more wrong
    assert head.agreed.low < 6 / 8 < head.agreed.high
    # Two questions without an answer count as different ones.
    assert [(share.n, share.p) for share in head.apart] == [(6, 4 / 8), (6, 1 / 8)]


def test_right_and_wrong_alone_bound_the_shares():
    graded = replace(table([[0, 0]] * 6 + [[1, 1]] * 2 + [[0, 1]] * 3 + [[1, 2]]), answers=None)
    head = fit_agreement(graded, PAIR, FOLDS[:12])
    assert head is not None
    assert not head.known
    assert head.curve is None
    # Three questions are wrong for both: each may be agreed on, or not.
    assert (head.agreed.n, head.agreed.p) == (9, 7 / 11)
    assert [share.n for share in head.apart] == [6, 6]


answers = st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=1, max_size=30)


@given(answers, st.integers(2, 3))
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
    if bound is not None:
        assert bound.agreed.n >= exact.agreed.n
        for share, least in zip(
            (exact.agreed, *exact.apart), (bound.agreed, *bound.apart), strict=True
        ):
            right = round(share.p * (share.n + 2)) - 1
            assert right == round(least.p * (least.n + 2)) - 1
            assert share.n == 0 or right / share.n >= right / max(1, least.n)


def test_votes_agree_where_all_of_them_do():
    graded = table([[0], [0], [1], [2]], confidence=np.array([[1.0], [0.67], [1.0], [np.nan]]))
    found = find_agreed(graded, ("a",))
    assert found.agree.tolist() == [True, False, True, False]
    assert fit_agreement(replace(graded, confidence=None), ("a",), FOLDS[:4]) is None


def test_a_fit_predicts_agreement_by_margin_for_the_models_it_knows():
    draw = np.random.default_rng(1)
    margin = draw.uniform(0, 1, (600, 2))
    right = draw.uniform(0, 1, 600) < margin.mean(axis=1)
    rows = [[0, 0] if each else [1, 1] for each in right]
    graded = table(rows, margin=margin, confidence=margin)
    origin = Provenance(fitted_at="", source=(), data_sha256="", n=600, excluded=0, etui="")
    model = fit_accuracy(graded, origin, agreements=[PAIR])
    heads = AccuracyPredictor(parse_fitted(format_fitted(model), "f.json"))
    arms = (Arm("a", "small"), Arm("b", "middle"))
    low = heads.agreement(arms, [(None, 0.1), (None, 0.2)])
    high = heads.agreement(arms, [(None, 0.9), (None, 0.95)])
    plain = heads.agreement(arms)
    assert low is not None
    assert high is not None
    assert plain is not None
    assert low.agreed < 0.35 < plain.agreed < 0.65 < high.agreed
    assert plain.agreed == heads.agreement(arms, [(None, None), (None, 0.9)]).agreed  # type: ignore[union-attr]
    assert heads.agreement((arms[0], Arm("b", "another"))) is None
    assert heads.agreement((arms[1], arms[0])) is None
    assert fit_accuracy(graded, origin, agreements=()).agreements == ()
    assert [head.arms for head in fit_accuracy(graded, origin).agreements] == [PAIR]


def test_labels_that_are_only_probable_do_not_count():
    weights = np.array([[1.0, 1.0]] * 6 + [[1.0, 0.5]] * 4)
    graded = table([[0, 0]] * 6 + [[1, 1]] * 4, weights=weights)
    head = fit_agreement(graded, PAIR, FOLDS[:10])
    assert head is not None
    assert (head.n, head.agreed.n) == (6, 6)


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
    graded = table([[0, 0]] * 30 + [[1, 2]] * 30)
    origin = Provenance(fitted_at="", source=(), data_sha256="", n=60, excluded=0, etui="")
    return fit_accuracy(graded, origin, agreements=())


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
