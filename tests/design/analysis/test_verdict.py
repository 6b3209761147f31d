"""The sentences of a design claim nothing that its intervals do not show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.design._arms import Multiple, compute_arm_figures
from etui.design._paired import Layout, Strategy, build_layout, pair_samples
from etui.design._verdict import judge, write_headline
from etui.design.analysis import analyse
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
        draw(st.floats(0.01, 1)), draw(P_VALUES), draw(P_VALUES),
        draw(st.none() | intervals(0.01, 200)), None, None, None,
    )  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> list[Multiple]:
    return [
        *(draw(multiples(one, SMALL, "direct")) for one in (COT, VOTE)),
        *(draw(multiples(one, LARGE, "large")) for one in (SMALL, COT, VOTE)),
    ]


def figures(silent: dict[str, float] | None = None):
    """Figures of 100 questions of each arm of the layout, with shares without an answer."""
    truths = {one.arm: Truth(0.5, 10, 4) for one in LAYOUT.strategies}
    run = synthetic.config(truths, 1)
    rows = synthetic.samples(run, truths)
    found = compute_arm_figures(pair_samples(build_layout(run, synthetic.ROLES), rows), 0)
    lost = silent or {}
    return [
        replace(one, questions=100, outcomes={**dict.fromkeys(one.outcomes, 0), "right": 50,
                "no_answer": round(100 * lost.get(one.strategy.arm, 0))})
        for one in found
    ]  # fmt: skip


FIGURES = figures()


@given(comparisons())
def test_a_claim_excludes_no_difference_and_points_the_way_of_its_figure(
    found: list[Multiple],
) -> None:
    thinking, voting, models = judge(LAYOUT, FIGURES, found, "counter")
    for said, way in ((thinking, COT), (voting, VOTE)):
        (one,) = (m for m in found if m.against == "direct" and m.strategy == way)
        low, high = one.difference.low, one.difference.high
        assert low is not None
        assert high is not None
        side = (low > 0) - (high < 0) if one.p_holm < 0.05 else 0
        assert said.outcome == {1: "gain", -1: "loss", 0: "no difference"}[side]
        assert ("unmeasured" in said.text) == (one.joules is None)
        most = f"{100 * max(abs(low), abs(high)):.0f} points"
        assert (f"no difference above {most}" in said.text) == (side == 0)
    for one in (m for m in found if m.against == "large"):
        low, high = one.difference.low, one.difference.high
        assert low is not None
        assert high is not None
        if "wins against" not in models.text and "loses to" not in models.text:
            shown = one.p_holm < 0.05 and (low > 0 or high < 0)
            dearer = one.joules is not None and (one.joules.low or 0) > 1
            assert not (not shown and dearer)
    assert write_headline([thinking, voting, models])[0].isupper()


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value, low, high, "bootstrap")


def against(
    strategy: Strategy, base: Strategy, points: tuple[float, float, float], times: float, p=0.001
) -> Multiple:
    gain = interval(*(each / 100 for each in points))
    return Multiple(
        strategy, base, "large" if base == LARGE else "direct", 100, gain, 0.5, p, p,
        interval(times, 0.9 * times, 1.1 * times), None, None, None,
    )  # fmt: skip


def test_the_larger_model_wins_where_the_smaller_one_takes_more_joules_for_nothing() -> None:
    (said,) = judge(
        Layout((SMALL, COT, VOTE, LARGE), LAYOUT.roles),
        FIGURES,
        [
            against(SMALL, LARGE, (-8, -20, 4), 0.4, 0.8),
            against(COT, LARGE, (-15, -25, -5), 0.6),
            against(VOTE, LARGE, (-9, -22, 3), 2.3, 0.8),
        ],
        "counter",
    )[-1:]
    assert said.text == (
        "Large direct wins against small vote 3 (2.3x [2.1, 2.5] its joules for at most 3 points "
        "more); it gets more right than small CoT 64 (at 0.60x [0.54, 0.66] its joules); it shows "
        "no difference above 20 points from the cheaper small direct (at 0.40x [0.36, 0.44] its "
        "joules)."
    )
    assert said.brief.startswith("large direct wins against small vote 3")
    assert "small direct" not in said.brief


def test_what_shows_no_difference_is_one_clause_behind_the_gains() -> None:
    found = [against(COT, SMALL, (12, 2, 22), 1.7), against(VOTE, SMALL, (3, -5, 9), 3.0, 0.5)]
    found.append(against(SMALL, LARGE, (-8, -20, 4), 0.4, 0.8))
    both = [found[1], replace(found[0], p_holm=0.5), found[2]]
    assert write_headline(judge(LAYOUT, FIGURES, both, "counter")).startswith(
        "Thinking with small and voting with small show no difference above 22 points for 1.7x to "
        "3.0x the joules of a direct answer; large direct shows no difference above 20 points"
    )
    assert write_headline(judge(LAYOUT, FIGURES, found, "counter")).startswith(
        "Thinking with small gets more right (CoT 64: +12.0 points [2.0, 22.0] for 1.7x [1.5, 1.9] "
        "the joules of small direct); voting with small shows no difference above 9 points for 3.0x"
    )


def test_arms_that_leave_more_questions_open_are_not_compared() -> None:
    found = [against(COT, SMALL, (12, 2, 22), 1.7), against(VOTE, SMALL, (3, -5, 9), 3.0, 0.5)]
    shares = figures({"small-direct": 0.32, "small-cot-64": 0.01, "small-vote-3": 0.30})
    thinking, voting = judge(LAYOUT, shares, found, "counter")[:2]
    assert thinking.outcome == "not compared"
    assert "12" not in thinking.text
    assert thinking.text == (
        "Thinking with small is not compared. Not compared with small direct, of which 32 % of the "
        "questions have no answer: small CoT 64 (1 %). More than two points apart, the comparison "
        "would be one of readouts."
    )
    assert voting.outcome == "no difference", "30 % and 32 % are alike"
    shares = figures({"small-direct": 0.02, "small-cot-64": 0.0})
    assert judge(LAYOUT, shares, found, "counter")[0].outcome == "gain"


def main(truths, per_subject=20, seed=0, kind="counter", **options):
    run = synthetic.config(truths, per_subject)
    rows = synthetic.samples(run, truths, seed, kind, **options)
    return analyse(run, rows, {}, synthetic.ROLES)


def test_thinking_that_beats_the_large_model_says_so_with_its_joules() -> None:
    truths = {
        "small-direct": Truth(0.3, 10, 4), "small-cot-64": Truth(0.7, 20, 60),
        "large-direct": Truth(0.4, 40, 4),
    }  # fmt: skip
    found = main(truths)
    thinking, models = found.statements
    assert thinking.outcome == "gain"
    assert thinking.text.startswith("Thinking with small gets more right: CoT 64 is at +")
    assert " for 1.99x" in thinking.text
    assert "each further right answer takes" in thinking.text
    assert "loses to small CoT 64 (more right for 0.5" in models.text
    assert found.headline.startswith("Thinking with small gets more right (CoT 64: +")
    assert found.headline.endswith("its joules)")


def test_few_questions_show_no_difference_and_say_how_many_are_needed() -> None:
    truths = {"small-direct": Truth(0.4, 10.0, 4), "small-cot-64": Truth(0.43, 60.0, 60)}
    roles = {"small": "qwen2.5-coder-0.5b"}
    run = synthetic.config(truths, 1, roles)
    rows = synthetic.samples(run, truths, 1, "counter")
    found = analyse(run, rows, {}, roles)
    (thinking,) = found.statements
    assert found.headline.startswith("Thinking with small shows no difference above ")
    assert found.headline.endswith(" the joules of a direct answer")
    assert "questions would show a difference of 3 points." in thinking.text


def test_a_difference_before_but_not_after_correction_is_no_claim() -> None:
    one = replace(against(COT, SMALL, (10, 1, 20), 6.0, 0.03), p_holm=0.2)
    thinking = judge(LAYOUT, FIGURES, [one], "counter")[0]
    assert thinking.text.startswith(
        "Thinking with small shows no difference above 20 points: its best arm, CoT 64, is at "
        "+10.0 points [1.0, 20.0] for 6.0x [5.4, 6.6] the joules of small direct."
    )
    assert judge(LAYOUT, FIGURES, [replace(one, p_holm=0.03)], "counter")[0].outcome == "gain"


def test_no_thinking_arm_has_a_headline_too() -> None:
    truths = {"small-direct": Truth(0.3, 10, 4), "large-direct": Truth(0.6, 30, 4)}
    assert main(truths, 2).headline.startswith("No arm of this run thinks; large direct ")
    said = judge(LAYOUT, [], [], None)
    assert write_headline(said) == (
        "Thinking with small is not judged; voting with small is not judged"
    )


@pytest.mark.parametrize("outcome", ["no arm of it answers directly", "no question"])
def test_why_thinking_is_not_judged_is_said(outcome: str) -> None:
    layout = Layout((COT, LARGE), LAYOUT.roles) if "directly" in outcome else LAYOUT
    said = judge(layout, [], [], None)[0]
    assert said.outcome == "unknown"
    assert outcome in said.text
