"""The joules of an arm that only audits have measured."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Query
from etui.curves.operating_curve import Speed
from etui.routing.decision import PredictedJoules
from etui.routing.joules import (
    LEAST_AUDITS,
    Line,
    LoggedModelFacts,
    MeasuredAudit,
    average_audits,
    fit_line,
    predict_by_audits,
    predict_joules,
    predict_seconds,
)
from etui.routing.text_measures import TextFacts

LARGE = Arm("large", "m", max_tokens=100)
TEXT = TextFacts(Query("Which river is long?"))
JOULES = [16.0, 18.0, 20.0, 22.0, 24.0, 20.0]
AUDITS = [MeasuredAudit(joules, None, joules / 10) for joules in JOULES]
FACTS = LoggedModelFacts(audits={"large": average_audits(AUDITS)}, load_joules=30.0)


def test_an_arm_that_only_audited_is_predicted_from_its_audits():
    said = predict_joules(LARGE, TEXT, FACTS, resident=True)
    assert (said.load, said.answer, said.total) == (0.0, 20.0, 20.0)
    assert (said.prefill, said.decode) == (None, None), "an audit has no phases, not phases of 0"
    assert said.uncertainty == pytest.approx(1.96 * stdev(JOULES) * math.sqrt(7 / 6))
    assert said.seconds == pytest.approx(2.0)
    assert said.source == "mean of 6 audits"
    assert predict_seconds(LARGE, TEXT, FACTS, resident=True) == pytest.approx(2.0)
    traced = said.trace()
    assert (traced["total"], traced["prefill"], traced["decode"]) == (20.0, None, None)


def test_the_load_is_added_and_unknown_seconds_of_it_stay_unknown():
    said = predict_joules(LARGE, TEXT, FACTS, resident=False)
    assert (said.load, said.total, said.seconds) == (30.0, 50.0, None)
    assert predict_seconds(LARGE, TEXT, FACTS, resident=False) is None
    timed = replace(FACTS, load_seconds=3.0)
    assert predict_seconds(LARGE, TEXT, timed, resident=False) == pytest.approx(5.0)


def test_turns_of_the_model_come_before_its_audits():
    turns = replace(FACTS, speed=Speed(400.0, 38.0, 50.0, 45.0))
    assert predict_joules(LARGE, TEXT, turns, resident=True).source.startswith("uncalibrated")
    unmeasured = replace(FACTS, speed=Speed(400.0, 38.0))
    assert predict_joules(LARGE, TEXT, unmeasured, resident=True).source == "mean of 6 audits"


def test_the_audits_of_another_arm_or_too_few_say_nothing():
    assert predict_joules(replace(LARGE, name="other"), TEXT, FACTS, resident=True) is None
    few = LoggedModelFacts(audits={"large": average_audits(AUDITS[: LEAST_AUDITS - 1])})
    assert predict_joules(LARGE, TEXT, few, resident=True) is None
    assert predict_seconds(LARGE, TEXT, few, resident=True) is None


def test_unmeasured_audits_have_a_duration_but_no_joules():
    audits = [replace(audit, joules=None) for audit in AUDITS]
    facts = LoggedModelFacts(audits={"large": average_audits(audits + AUDITS[:2])})
    assert predict_joules(LARGE, TEXT, facts, resident=True) is None
    assert predict_seconds(LARGE, TEXT, facts, resident=True) is not None


def test_phases_and_their_sum_are_not_both_unknown():
    with pytest.raises(ValueError, match="must be known"):
        PredictedJoules(0.0, None, None)
    with pytest.raises(ValueError, match="must be known"):
        PredictedJoules(0.0, 1.0, 2.0, whole=3.0)


@given(st.lists(st.floats(0, 1e6), min_size=LEAST_AUDITS, max_size=50), st.floats(0, 1))
def test_the_mean_lies_between_the_audits_and_the_spread_is_no_less_than_the_meter(joules, share):
    found = average_audits([MeasuredAudit(each, share * each, 1.0) for each in joules])
    said = predict_by_audits(found, 1e6)
    assert min(joules) * (1 - 1e-9) <= said.answer <= max(joules) * (1 + 1e-9)
    assert found.measured == len(joules)
    assert said.uncertainty >= min(share, 1) * said.answer * (1 - 1e-6) or not any(joules)


def test_a_longer_prompt_takes_more_where_the_audits_say_so():
    lengths = [40, 60, 80, 100, 120, 200, 300, 400, 600, 800]
    audits = [MeasuredAudit(2.0 + 0.2 * n, None, 0.1 + 0.01 * n, n) for n in lengths]
    facts = LoggedModelFacts(audits={"large": average_audits(audits)}, prompt_overhead=10.0)
    said = predict_joules(LARGE, TextFacts(Query("x" * 2000)), facts, resident=True)
    assert said.answer == pytest.approx(2.0 + 0.2 * 510)
    assert said.seconds == pytest.approx(0.1 + 0.01 * 510)
    assert said.uncertainty == pytest.approx(0.0, abs=1e-6)
    assert said.source == "10 audits, by length of the prompt"
    seconds = predict_seconds(LARGE, TextFacts(Query("x" * 2000)), facts, resident=True)
    assert seconds == pytest.approx(said.seconds)
    few = LoggedModelFacts(audits={"large": average_audits(audits[:9])})
    assert predict_joules(LARGE, TEXT, few, resident=True).source == "mean of 9 audits"


def test_audits_that_the_length_does_not_explain_have_their_mean():
    level = [MeasuredAudit(20.0 - n % 2, None, 1.0, 100.0 + n // 2) for n in range(20)]
    falling = [MeasuredAudit(20.0 - n, None, 1.0, 100.0 + n) for n in range(15)]
    assert average_audits(level).joules == Line(19.5)
    assert average_audits(falling).joules == Line(13.0)


@given(
    st.lists(
        st.tuples(st.none() | st.integers(1, 100_000), st.floats(0, 1e5)),
        min_size=LEAST_AUDITS,
        max_size=40,
    ),
    st.integers(1, 100_000),
)
def test_a_line_is_never_negative_and_never_falls(points, tokens):
    line, deviation = fit_line(points)
    assert line.base >= 0
    assert line.slope >= 0
    assert deviation >= 0
    assert line.compute_at(tokens + 100) >= line.compute_at(tokens)
