"""The price of a design: arithmetic on answers, curves and tokens that can be done by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.curves.operating_curve import Conditions, OperatingCurve, PhaseCurve, Speed
from etui.design.plan import PlanPrice, format_price
from etui.design.price import (
    Amount,
    ArmEvidence,
    ArmPrice,
    DesignPrice,
    Slopes,
    add_amounts,
    count_most_output,
    count_questions_within,
    extrapolate,
    price_arm,
    price_design,
)
from etui.log.past_answers import PastAnswer

DIRECT = Arm("direct", "m", max_tokens=10)
COT = Arm("cot", "m", "cot", think_tokens=30, max_tokens=10)
VOTE = Arm("vote", "m", "vote", think_tokens=30, max_tokens=10, votes=3, batch=1)
CURVE = OperatingCurve(
    "id", "now", "m", "ab", Conditions("here", "build", 2), "counter", "calibration",
    PhaseCurve(1.0, 0.1, 0.0, n=9, band=0.1), PhaseCurve(2.0, 0.5, 0.0, n=9, band=0.1),
    meter_share=0.05, speed=Speed(100.0, 10.0),
)  # fmt: skip
NO_SLOPES = Slopes()


def answer(joules=10.0, seconds=2.0, computed=100.0, output=20, uncertainty=1.0) -> PastAnswer:
    return PastAnswer(joules, uncertainty, seconds, computed, output, "counter")


def priced(
    arm: Arm, evidence: ArmEvidence, questions=100, tokens=100.0, slopes=NO_SLOPES
) -> ArmPrice:
    return price_arm(arm, "small", evidence, questions, tokens, slopes)


def test_a_readout_of_choices_decodes_nothing():
    assert count_most_output(replace(DIRECT, readout="choices")) == 0


def test_answers_are_extrapolated_by_their_mean():
    made = priced(COT, ArmEvidence([answer(8.0, 1.0), answer(12.0, 3.0)], origin="this run"))
    assert made.source == "answers"
    assert made.origin == "2 answers of this run"
    assert (made.joules.value, made.seconds.value, made.total_joules.value) == (10.0, 2.0, 1000.0)
    assert made.kind == "counter"
    # t of one degree of freedom is 12.706, the standard deviation sqrt(8)
    expected = 12.706 * math.sqrt(8 * (1 / 2 + 1 / 100))
    assert made.joules.scatter == pytest.approx(expected, rel=1e-3)
    assert made.joules.uncertainty == pytest.approx(math.hypot(expected, 1.0), rel=1e-3)


def test_longer_prompts_cost_more_than_those_that_were_measured():
    slopes = Slopes(joules_per_prompt_token=0.1, seconds_per_prompt_token=0.01)
    evidence = ArmEvidence([answer(), answer()])
    made = priced(COT, evidence, tokens=150.0, slopes=slopes)
    assert made.joules.value == pytest.approx(15.0)
    assert made.seconds.value == pytest.approx(2.5)


def test_one_answer_has_no_spread_and_is_not_extrapolated():
    made = priced(COT, ArmEvidence([answer()]))
    assert (made.source, made.joules, made.seconds) == ("none", None, None)
    assert made.total_joules is None
    assert made.most_output_tokens == 40


def test_unmeasured_answers_tell_seconds_and_no_joules():
    unmeasured = replace(answer(), joules=None, uncertainty=None, kind=None)
    made = priced(COT, ArmEvidence([unmeasured, unmeasured]))
    assert made.joules is None
    assert made.seconds is not None
    assert made.kind is None


@pytest.mark.parametrize(
    ("arm", "outputs", "joules", "seconds"),
    [
        (COT, [21, 21], 1 + 10 + 2 + 20 * 0.5, 1 + 2.0),
        (VOTE, [63], 1 + 10 + 3 * (2 + 20 * 0.5), 1 + 3 * 2.0),  # its votes share the prompt
        (replace(DIRECT, readout="choices"), [], 11.0, 1.0),  # it needs no past outputs
    ],
)
def test_a_curve_prices_an_arm_whose_outputs_are_known(arm, outputs, joules, seconds):
    made = priced(arm, ArmEvidence(outputs=outputs, curve=CURVE))
    assert made.source == "curve"
    assert made.joules.value == pytest.approx(joules)
    assert made.seconds.value == pytest.approx(seconds)
    if arm is COT:
        assert made.most_joules == pytest.approx(1 + 10 + 2 + 39 * 0.5)
        assert made.most_seconds == pytest.approx(1 + 3.9)


@given(st.lists(st.floats(0.1, 1e6), min_size=2, max_size=40), st.integers(1, 10**6))
def test_more_answers_and_more_questions_narrow_the_interval(values, questions):
    one = extrapolate(values, questions)
    twice = extrapolate(values * 2, questions)
    assert twice.scatter <= one.scatter * (1 + 1e-9)
    more = extrapolate(values, questions + 1)
    assert more.scatter <= one.scatter * (1 + 1e-9)
    assert min(values) * (1 - 1e-9) <= one.value <= max(values) * (1 + 1e-9)


def test_the_interval_holds_the_mean_of_further_answers():
    draw = random.Random(1)
    held = 0
    for _ in range(400):
        amount = extrapolate([draw.gauss(100, 10) for _ in range(5)], 20)
        later = sum(draw.gauss(100, 10) for _ in range(20)) / 20
        held += abs(later - amount.value) <= amount.scatter
    assert 0.92 <= held / 400 <= 0.98


def test_the_errors_of_a_sum_add_up():
    total = add_amounts([Amount(10, 3, 5), Amount(20, 4, math.hypot(4, 8))])
    assert total.value == 30
    assert total.scatter == pytest.approx(3 + 4)
    assert total.uncertainty == pytest.approx(math.hypot(3 + 4, 4 + 8))
    assert add_amounts([Amount(1, 1, 1), None]) is None
    assert add_amounts([Amount(1, None, None)]) == Amount(1, None, None)


def test_a_design_is_unknown_while_one_of_its_arms_is():
    known = priced(COT, ArmEvidence([answer(), answer()]))
    unknown = priced(DIRECT, ArmEvidence())
    whole = price_design(100, [known, unknown], None)
    assert (whole.joules, whole.seconds, whole.unknown) == (None, None, ("direct",))
    assert whole.total_seconds is None
    assert count_questions_within(whole, 3600, 0.1, 4) is None
    sure = price_design(100, [known], (20.0, 100.0))
    assert sure.total_seconds == pytest.approx(220.0)
    assert sure.total_joules == pytest.approx(1100.0)


def test_a_limit_of_time_suffices_for_whole_blocks():
    known = priced(COT, ArmEvidence([answer(), answer()]), questions=1000)
    price = price_design(1000, [known, known], (1e6, 1e6))
    # two arms of 2 s each; the curves take a tenth of 100 s
    assert count_questions_within(price, 100.0, 0.1, 1) == 22
    assert count_questions_within(price, 100.0, 0.1, 4) == 20
    assert count_questions_within(price, 1e9, 0.1, 4) == 1000


def test_a_finished_run_has_nothing_left_to_price() -> None:
    left = DesignPrice(0, (), None, None, None, None, 0.0, 0.0, ())
    lines = format_price(PlanPrice("quick", "sample", left, None), None)
    assert lines[-1] == "in all: every arm has answered every question"
