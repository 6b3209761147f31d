"""The verdict claims nothing that its intervals do not show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.curves.context_share import ContextTerm, Share
from etui.design.analysis.analysis import analyse, judge_curves
from etui.design.analysis.leads import Lead
from etui.design.analysis.multiples import Multiple
from etui.design.analysis.operating_curves import ModelCurve
from etui.design.analysis.router_verdict import judge_replay
from etui.design.analysis.routing import BY_SUBJECT, FRUGAL, MIXTURE, ORACLE, Replay, RoutedFigures
from etui.design.analysis.statement import NEUTRAL, Statement
from etui.design.analysis.strategies import Layout, Strategy
from etui.design.analysis.thinking_verdict import (
    Comparisons,
    judge_arms,
    judge_replacements,
    judge_thinking,
)
from etui.stats.tests import Interval
from tests.design import synthetic
from tests.design.synthetic import Truth

SMALL = Strategy("small-direct", "small", "m-small", "direct", "direct")
LARGE = Strategy("large-direct", "large", "m-large", "direct", "direct")
COT = Strategy("small-cot-64", "small", "m-small", "cot", "CoT 64")
VOTE = Strategy("small-vote-3", "small", "m-small", "vote", "vote 3")
LAYOUT = Layout((SMALL, COT, VOTE, LARGE), {"small": "m-small", "large": "m-large"})


@st.composite
def intervals(draw: st.DrawFn, least: float, most: float) -> Interval:
    low, value, high = sorted(draw(st.lists(st.floats(least, most), min_size=3, max_size=3)))
    return Interval(value, low, high, "bootstrap")


P_VALUES = st.floats(0, 1)


@st.composite
def multiples(draw: st.DrawFn, strategy: Strategy, base: Strategy, against: str) -> Multiple:
    return Multiple(
        strategy, base, against, draw(st.integers(1, 5000)), draw(intervals(-1, 1)),  # type: ignore[arg-type]
        draw(st.floats(0.01, 1)), draw(P_VALUES), draw(P_VALUES), None,
        draw(st.none() | intervals(0.01, 200)), None, None, None, None,
    )  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> Comparisons:
    found = [
        *(draw(multiples(one, SMALL, "direct")) for one in (COT, VOTE)),
        *(draw(multiples(one, LARGE, "large")) for one in (SMALL, COT, VOTE)),
    ]
    leads = [
        Lead(one, (SMALL, LARGE), draw(intervals(-1, 1)), draw(st.floats(0.01, 1)),
             draw(st.booleans()), draw(P_VALUES))
        for one in draw(st.sampled_from([(), (COT,), (COT, VOTE)]))
    ]  # fmt: skip
    return Comparisons(LAYOUT, found, leads)


def check_claims(statements: list[Statement]) -> None:
    """No claim where an interval that decides includes no difference, or its test is not met."""
    for one in statements:
        assert one.text.endswith((".", ").")), one.text
        figures = {figure.name: figure for figure in one.evidence}
        assert set(one.decisive) <= set(figures)
        for name in one.decisive:
            figure = figures[name]
            neutral = NEUTRAL[figure.unit]
            above = figure.low is not None and figure.low > neutral
            below = figure.high is not None and figure.high < neutral
            assert above or below, one
            assert figure.p is None or figure.p < 0.05, one
        if one.outcome in ("undecided", "unknown"):
            assert not one.is_claim
        else:
            assert one.is_claim


@given(comparisons())
def test_no_claim_about_arms_includes_no_difference(found: Comparisons) -> None:
    check_claims(judge_thinking(found))
    check_claims(judge_replacements(found))
    check_claims(judge_arms(found))


@given(comparisons())
def test_claims_point_the_way_of_their_figures(found: Comparisons) -> None:
    for one in judge_thinking(found):
        lead = one.evidence[0]
        if one.outcome == "pays":
            assert lead.value > 0
        if one.outcome == "does not pay":
            assert all(figure.high < 0 for figure in one.evidence if figure.unit == "points")  # type: ignore[operator]
    for one in judge_replacements(found):
        if one.outcome == "replaces":
            accuracy, joules = one.evidence
            assert accuracy.low is not None
            assert accuracy.low > 0
            assert joules.high is not None
            assert joules.high < 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ORACLE, FRUGAL, MIXTURE, BY_SUBJECT]), intervals(-1, 1),
            intervals(-2, 1), st.none() | intervals(-1, 1),
        ),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_no_claim_about_a_router_includes_no_difference(rows) -> None:
    routed = tuple(
        RoutedFigures(name, 0.5, 10.0, difference, Interval(1, 1, 1, None), saved, lead, {"a": 1.0})
        for name, difference, saved, lead in rows
    )
    statements = judge_replay(Replay(LARGE, 100, routed))
    check_claims(statements)
    for one in statements:
        if one.outcome == "saves at a loss":
            assert one.evidence[1].high is not None
            assert one.evidence[1].high < 0


@given(st.lists(st.tuples(intervals(-1, 1), P_VALUES), min_size=1, max_size=4))
def test_no_claim_about_a_curve_includes_no_difference(rows) -> None:
    terms = tuple(
        ContextTerm("decode", 27, 640, 1e-5, 0, 1, p,
                    (Share(1024, one.value, one.low or 0.0, one.high or 0.0, measured=False),))
        for one, p in rows
    )  # fmt: skip
    curve = ModelCurve("small", "m", "counter", 27, 0, (), None, None, terms, "", None)
    check_claims(judge_curves([curve]))


def judge(truths, per_subject=20, seed=0, kind="counter", **options):
    run = synthetic.config(truths, per_subject)
    rows = synthetic.samples(run, truths, seed, kind, **options)
    return analyse(run, rows, lambda machines: {}, synthetic.ROLES).main


def test_thinking_that_adds_nothing_does_not_pay() -> None:
    truths = {
        "small-direct": Truth(0.4, 10, 4), "small-cot-64": Truth(0.4, 60, 60),
        "large-direct": Truth(0.7, 30, 4),
    }  # fmt: skip
    verdict = judge(truths).verdict
    assert verdict.headline == "Thinking does not pay for small"
    (thinking,) = verdict.about("thinking")
    assert thinking.outcome == "does not pay"
    assert "the only way gets fewer right than direct answers" in thinking.text
    (replacement,) = verdict.about("replacement")
    assert replacement.outcome == "less accurate"


def test_thinking_that_beats_the_large_model_pays_and_replaces_it() -> None:
    truths = {
        "small-direct": Truth(0.3, 10, 4), "small-cot-64": Truth(0.7, 20, 60),
        "large-direct": Truth(0.4, 40, 4),
    }  # fmt: skip
    verdict = judge(truths).verdict
    assert verdict.headline == "Thinking pays for small"
    assert [one.outcome for one in verdict.about("replacement")] == ["replaces"]
    assert "for the same joules" in verdict.about("thinking")[0].text


def test_few_questions_are_undecided_and_say_how_many_are_needed() -> None:
    truths = {"small-direct": Truth(0.4, 10, 4), "small-cot-64": Truth(0.43, 60, 60)}
    run = synthetic.config(truths, 1, {"small": "qwen2.5-coder-0.5b"})
    rows = synthetic.samples(run, truths, 1, "counter")
    found = analyse(run, rows, lambda machines: {}, {"small": "qwen2.5-coder-0.5b"}).main
    (thinking,) = found.verdict.about("thinking")
    assert found.verdict.headline == "Thinking is undecided for small"
    assert thinking.questions == 57
    assert thinking.questions_needed is not None
    assert thinking.questions_needed > 1000
    assert f"About {thinking.questions_needed:,} questions would show" in thinking.text
    (router,) = found.verdict.about("router")
    assert router.text.startswith("Nothing can be said about a router: the run has one model")


def test_without_joules_accuracy_is_judged_and_worth_is_unknown() -> None:
    truths = {
        "small-direct": Truth(0.3, 10, 4), "small-cot-64": Truth(0.6, 60, 60),
        "large-direct": Truth(0.6, 30, 4),
    }  # fmt: skip
    found = judge(truths, kind=None)
    (thinking,) = found.verdict.about("thinking")
    assert thinking.outcome == "unknown"
    assert "because joules are unmeasured" in thinking.text
    assert "more right than direct" in thinking.text
    assert found.kind is None
    assert all("unmeasured" in one.text for one in found.verdict.about("arm"))


def test_an_arm_apart_before_but_not_after_correction_is_called_so() -> None:
    one = Multiple(COT, SMALL, "direct", 100, Interval(0.1, 0.01, 0.2, "bootstrap"), 0.5, 0.03, 0.2,
                   None, Interval(6.0, 5.0, 7.0, "bootstrap"), None, None, None, None)  # fmt: skip
    (statement,) = judge_arms(Comparisons(LAYOUT, [one], []))
    assert statement.outcome == "undecided"
    assert statement.text == (
        "small CoT 64 costs 6.0x [5.0, 7.0] the joules of small direct for +10.0 points "
        "[1.0, 20.0] (not shown after correction for the other looks)."
    )
    (claimed,) = judge_arms(Comparisons(LAYOUT, [replace(one, p_holm=0.03)], []))
    assert claimed.outcome == "more accurate"


def test_no_thinking_arm_has_a_headline_too() -> None:
    truths = {"small-direct": Truth(0.3, 10, 4), "large-direct": Truth(0.6, 30, 4)}
    assert judge(truths, 2).verdict.headline == "No arm of this run thinks"


@pytest.mark.parametrize("seed", range(3))
def test_every_sentence_of_a_whole_run_holds_the_rules(seed: int) -> None:
    run = synthetic.config(per_subject=2)
    rows = synthetic.samples(run, seed=seed)
    points = {model: synthetic.points(seed=seed) for model in synthetic.ROLES.values()}
    found = analyse(run, rows, lambda machines: points, synthetic.ROLES).main
    check_claims(list(found.verdict.statements))
