"""The findings of a design claim nothing that its intervals do not show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.design._arms import Multiple
from etui.design._paired import Layout, Strategy
from etui.design.analysis import analyse, judge, write_headline
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
def comparisons(draw: st.DrawFn) -> list[Multiple]:
    return [
        *(draw(multiples(one, SMALL, "direct")) for one in (COT, VOTE)),
        *(draw(multiples(one, LARGE, "large")) for one in (SMALL, COT, VOTE)),
    ]


@given(comparisons())
def test_a_claim_excludes_no_difference_and_points_the_way_of_its_figure(
    found: list[Multiple],
) -> None:
    thinking, against_large = judge(LAYOUT, found)
    for one, against in ((thinking, "direct"), (against_large, "large")):
        inside = [m for m in found if m.against == against]
        best = max(inside, key=lambda m: m.difference.value)
        low, high = best.difference.low, best.difference.high
        assert low is not None
        assert high is not None
        side = (low > 0) - (high < 0) if best.p_holm < 0.05 else 0
        assert one.outcome == {1: "more right", -1: "fewer right", 0: "undecided"}[side]
        assert one.text.startswith(f"{best.strategy.label} is at ")
        assert one.text.endswith(".")
        assert ("unmeasured" in one.text) == (best.joules is None)


def main(truths, per_subject=20, seed=0, kind="counter", **options):
    run = synthetic.config(truths, per_subject)
    rows = synthetic.samples(run, truths, seed, kind, **options)
    return analyse(run, rows, lambda machines: {}, synthetic.ROLES).main


def test_thinking_that_beats_the_large_model_says_so_with_its_joules() -> None:
    truths = {
        "small-direct": Truth(0.3, 10, 4), "small-cot-64": Truth(0.7, 20, 60),
        "large-direct": Truth(0.4, 40, 4),
    }  # fmt: skip
    found = main(truths)
    assert found.headline == "Thinking gets more right with small"
    assert [one.outcome for one in found.statements] == ["more right", "more right"]
    assert "against small direct (more right), at 1.99x" in found.statements[0].text
    assert "against large direct (more right), at 0.5" in found.statements[1].text


def test_few_questions_are_undecided_and_say_how_many_are_needed() -> None:
    truths = {"small-direct": Truth(0.4, 10, 4), "small-cot-64": Truth(0.43, 60, 60)}
    roles = {"small": "qwen2.5-coder-0.5b"}
    run = synthetic.config(truths, 1, roles)
    rows = synthetic.samples(run, truths, 1, "counter")
    found = analyse(run, rows, lambda machines: {}, roles).main
    (thinking,) = found.statements
    assert found.headline == "Thinking is undecided with small"
    assert "questions would show a difference of 3 points." in thinking.text
    assert found.replay.why_not.startswith("the run has one model")


def test_a_difference_before_but_not_after_correction_is_no_claim() -> None:
    one = Multiple(COT, SMALL, "direct", 100, Interval(0.1, 0.01, 0.2, "bootstrap"), 0.5, 0.03, 0.2,
                   None, Interval(6.0, 5.0, 7.0, "bootstrap"), None, None, None, None)  # fmt: skip
    (statement,) = judge(LAYOUT, [one])
    assert statement.outcome == "undecided"
    assert statement.text.startswith(
        "small CoT 64 is at +10.0 points [1.0, 20.0] against small direct (no difference shown), "
        "at 6.0x [5.0, 7.0] the joules."
    )
    assert judge(LAYOUT, [replace(one, p_holm=0.03)])[0].outcome == "more right"


def test_no_thinking_arm_has_a_headline_too() -> None:
    truths = {"small-direct": Truth(0.3, 10, 4), "large-direct": Truth(0.6, 30, 4)}
    assert main(truths, 2).headline == "No arm of this run thinks"
    assert write_headline(judge(LAYOUT, [])) == "Thinking is not judged with small"


@pytest.mark.parametrize("outcome", ["no arm of it answers directly", "no question"])
def test_why_thinking_is_not_judged_is_said(outcome: str) -> None:
    layout = Layout((COT, LARGE), LAYOUT.roles) if "directly" in outcome else LAYOUT
    (statement,) = judge(layout, [])
    assert statement.outcome == "unknown"
    assert outcome in statement.text
