"""Predicted joules of an arm: by curve, by speed, or not at all."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, VoteStop
from etui.chat import Query
from etui.curves.operating_curve import Conditions, OperatingCurve, PhaseCurve, Speed
from etui.routing.decision import PredictedJoules
from etui.routing.joules import (
    LEAST_AUDITS,
    PRIOR_TURNS,
    ArmKey,
    Line,
    LoggedModelFacts,
    MeasuredAudit,
    PastOutput,
    average_audits,
    fit_line,
    predict_by_audits,
    predict_joules,
    predict_seconds,
    predict_tokens,
)
from etui.routing.text_measures import TextFacts

LARGE = Arm("large", "m", max_tokens=100)

TEXT = TextFacts(Query("Which river is long?"))

JOULES = [16.0, 18.0, 20.0, 22.0, 24.0, 20.0]

AUDITS = [MeasuredAudit(joules, None, joules / 10) for joules in JOULES]

AUDITED = LoggedModelFacts(audits={"large": average_audits(AUDITS)}, load_joules=30.0)


def test_an_arm_that_only_audited_is_predicted_from_its_audits():
    said = predict_joules(LARGE, TEXT, AUDITED, resident=True)
    assert (said.load, said.answer, said.total) == (0.0, 20.0, 20.0)
    assert said.uncertainty == pytest.approx(1.96 * stdev(JOULES) * math.sqrt(7 / 6))
    assert said.seconds == pytest.approx(2.0)
    assert said.source == "mean of 6 audits"
    assert predict_seconds(LARGE, TEXT, AUDITED, resident=True) == pytest.approx(2.0)
    traced = said.trace()  # an audit has no phases, not phases of 0
    assert (traced["total"], traced["prefill"], traced["decode"]) == (20.0, None, None)
    # The load is added, and unknown seconds of it stay unknown.
    said = predict_joules(LARGE, TEXT, AUDITED, resident=False)
    assert (said.load, said.total, said.seconds) == (30.0, 50.0, None)
    assert predict_seconds(LARGE, TEXT, AUDITED, resident=False) is None
    timed = replace(AUDITED, load_seconds=3.0)
    assert predict_seconds(LARGE, TEXT, timed, resident=False) == pytest.approx(5.0)


def test_turns_of_the_model_come_before_its_audits_and_few_audits_say_nothing():
    turns = replace(AUDITED, speed=Speed(400.0, 38.0, 50.0, 45.0))
    assert predict_joules(LARGE, TEXT, turns, resident=True).source.startswith("uncalibrated")
    unmeasured = replace(AUDITED, speed=Speed(400.0, 38.0))
    assert predict_joules(LARGE, TEXT, unmeasured, resident=True).source == "mean of 6 audits"
    assert predict_joules(replace(LARGE, name="other"), TEXT, AUDITED, resident=True) is None
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


CURVE = OperatingCurve(
    "c1", "2026-11-24", "m", "ab", Conditions("here", "build", 2), "counter", "calibration",
    prefill=PhaseCurve(1.0, 0.02, band=0.1), decode=PhaseCurve(2.0, 0.5, 1e-4, band=0.1),
    speed=Speed(1000.0, 50.0, 30.0, 40.0),
)  # fmt: skip
FACTS = LoggedModelFacts(curve=CURVE, load_joules=30.0, load_seconds=2.0, prompt_overhead=10.0)
DIRECT = Arm("quick", "m", max_tokens=100)
THINK = Arm("think", "m", "cot", think_tokens=200, max_tokens=100)
VOTE = Arm("vote", "m", "vote", think_tokens=50, max_tokens=50, votes=6, stop=VoteStop("all"))
CHOOSE = Arm("choose", "m", readout="choices")
OPTIONS = TextFacts(Query("Which is a planet?\nA) Mars\nB) Moon\nC) Sun\nD) Vega"))
PLAIN = TextFacts(Query("x" * 400))


def test_a_curve_prices_prompt_and_output():
    said = predict_joules(DIRECT, PLAIN, FACTS, resident=True)
    true = CURVE.joules(110, 0, 50)
    assert (said.load, said.prefill, said.decode) == (0.0, true.prefill, true.decode)
    assert said.uncertainty == pytest.approx(true.uncertainty)
    assert said.seconds == pytest.approx(110 / 1000 + 49 / 50)
    assert said.source == "operating curve"
    log = replace(FACTS, curve=replace(CURVE, source="log"))
    assert predict_joules(DIRECT, PLAIN, log, resident=True).source == "operating curve of the log"
    # A high limit is not what an answer takes.
    long, longer = (replace(DIRECT, max_tokens=most) for most in (1024, 4096))
    limited = predict_joules(long, PLAIN, FACTS, resident=True)
    assert limited.decode == CURVE.joules(110, 0, 150).decode
    assert limited == predict_joules(longer, PLAIN, FACTS, resident=True)
    # The load of a model that is not in memory is part of the price, or said to be unmeasured.
    away = predict_joules(DIRECT, PLAIN, FACTS, resident=False)
    assert away.total == pytest.approx(said.total + 30.0)
    assert away.seconds == pytest.approx(said.seconds + 2.0)
    assert "load" not in away.source
    unmeasured = predict_joules(DIRECT, PLAIN, replace(FACTS, load_joules=None), resident=False)
    assert "load is unmeasured" in unmeasured.source


def test_without_a_curve_speed_and_watts_tell_and_are_labelled():
    facts = LoggedModelFacts(speed=Speed(400.0, 38.2, 50.0, 45.4), prompt_overhead=0.0)
    said = predict_joules(DIRECT, PLAIN, facts, resident=True)
    assert said.source == "uncalibrated: 38 tok/s at 45 W"
    assert said.prefill == pytest.approx(100 / 400 * 50)
    assert said.decode == pytest.approx(49 / 38.2 * 45.4)
    assert said.uncertainty == pytest.approx(said.total / 2)


def test_an_arm_that_speculates_is_predicted_from_its_own_turns():
    lookup, auto = (replace(DIRECT, speculate=method) for method in ("lookup", "auto"))
    facts = replace(FACTS, speculated={"lookup": Speed(1000.0, 100.0, 30.0, 50.0)})
    said = predict_joules(lookup, PLAIN, facts, resident=True)
    assert said.decode == pytest.approx(49 / 100 * 50)
    assert said.source == "uncalibrated: 100 tok/s at 50 W, speculation lookup"
    plain = predict_joules(DIRECT, PLAIN, facts, resident=True)
    assert plain == predict_joules(DIRECT, PLAIN, FACTS, resident=True)
    unknown = predict_joules(auto, PLAIN, facts, resident=True)
    assert unknown.decode == plain.decode
    assert unknown.source == "operating curve, without speculation"


def test_of_an_unknown_model_nothing_is_predicted():
    assert predict_joules(DIRECT, PLAIN, LoggedModelFacts(), resident=True) is None
    unmeasured = LoggedModelFacts(speed=Speed(400.0, 38.0, None, None))
    assert predict_joules(DIRECT, PLAIN, unmeasured, resident=True) is None


def test_tokens_that_are_expected():
    assert predict_joules(CHOOSE, OPTIONS, FACTS, resident=True).decode == 0.0
    assert predict_joules(CHOOSE, PLAIN, FACTS, resident=True).decode > 0.0
    tokens = predict_tokens(DIRECT, PLAIN, FACTS, cached_tokens=80)
    assert (tokens.computed, tokens.cached) == (30.0, 80.0)
    assert predict_tokens(DIRECT, PLAIN, FACTS, cached_tokens=10_000).computed == 1.0
    # A thought costs its budget until turns with the same budget say otherwise.
    assert predict_tokens(THINK, PLAIN, FACTS).output == 0.8 * 200 + 0.5 * 100
    past = {ArmKey.of(THINK): PastOutput(45, 60.0)}
    output = predict_tokens(THINK, PLAIN, replace(FACTS, past=past)).output
    assert output == pytest.approx((45 * 60 + PRIOR_TURNS * 210) / 50)
    past = {ArmKey.of(replace(THINK, think_tokens=999)): PastOutput(100, 900.0)}
    assert predict_tokens(THINK, PLAIN, replace(FACTS, past=past)).output == 210


def test_votes_share_the_prefill_and_what_is_known_of_their_batches():
    said = predict_joules(VOTE, PLAIN, FACTS, resident=True)
    one = CURVE.joules(110, 0, 65)
    assert said.prefill == one.prefill
    assert said.decode == pytest.approx(6 * one.decode)
    assert said.source == "operating curve, votes one by one"
    past = {ArmKey.of(VOTE): PastOutput(1000, 390.0, 0.1)}
    batched = predict_joules(VOTE, PLAIN, replace(FACTS, past=past), resident=True)
    assert batched.decode == pytest.approx(0.1 * 390)
    early = predict_joules(replace(VOTE, stop=VoteStop("flip")), PLAIN, FACTS, resident=True)
    assert early.decode == pytest.approx(said.decode * 2 / 3)


@given(
    st.sampled_from([DIRECT, THINK, VOTE, CHOOSE]),
    st.text(max_size=300),
    st.integers(0, 5000),
    st.booleans(),
    st.floats(0, 1e4),
)
def test_no_part_is_negative_and_a_longer_question_is_never_cheaper(
    arm, words, cached, resident, overhead
):
    facts = replace(FACTS, prompt_overhead=overhead)
    said = predict_joules(
        arm, TextFacts(Query(words)), facts, resident=resident, cached_tokens=cached
    )
    longer = TextFacts(Query(words + "word " * 50))
    assert min(said.load, said.prefill, said.decode, said.uncertainty) >= 0
    more = predict_joules(arm, longer, facts, resident=resident, cached_tokens=cached)
    assert more.total >= said.total - 1e-9


ONE_TOKEN = {ArmKey.of(DIRECT): PastOutput(200, 1.0)}
UNDECODED = LoggedModelFacts(speed=Speed(400.0, None, 50.0, None), prompt_overhead=0.0)


def test_an_arm_that_never_decoded_is_predicted_from_its_prefill_and_says_so():
    said = predict_joules(DIRECT, PLAIN, replace(UNDECODED, past=ONE_TOKEN), resident=True)
    assert said.prefill == pytest.approx(100 / 400 * 50)
    assert said.decode == 0.0
    assert said.seconds == pytest.approx(100 / 400)
    assert said.source == (
        "uncalibrated: prefill 400 tok/s at 50 W, one output token assumed, as in 200 earlier turns"
    )
    seconds = predict_seconds(DIRECT, PLAIN, replace(UNDECODED, past=ONE_TOKEN), resident=True)
    assert seconds == pytest.approx(100 / 400)
    choice = predict_joules(CHOOSE, OPTIONS, UNDECODED, resident=True)
    assert choice.decode == 0.0
    assert choice.source.endswith("no decode expected")


@pytest.mark.parametrize(
    "past",
    [
        {},
        {ArmKey.of(DIRECT): PastOutput(PRIOR_TURNS - 1, 1.0)},
        {ArmKey.of(DIRECT): PastOutput(200, 1.1)},
        {ArmKey.of(replace(DIRECT, max_tokens=7)): PastOutput(200, 1.0)},
    ],
)
def test_no_rate_of_the_decode_is_made_up_for_longer_answers(past):
    facts = replace(UNDECODED, past=past)
    assert predict_joules(DIRECT, PLAIN, facts, resident=True) is None
    assert predict_seconds(DIRECT, PLAIN, facts, resident=True) is None


@pytest.mark.parametrize("known", [0, 1, 3, 5, 10, 40])
def test_four_of_five_answers_lie_in_the_predicted_range(known: int):
    rng, inside, rounds = random.Random(known), 0, 400
    arm = replace(LARGE, max_tokens=512)

    def draw() -> int:
        return min(512, 1 + round(rng.lognormvariate(4.0, 1.0)))

    for _ in range(rounds):
        lengths = [draw() for _ in range(known)]
        past = {ArmKey.of(arm): PastOutput(known, fmean(lengths), None, lengths)} if known else {}
        facts = LoggedModelFacts(speed=Speed(400.0, 40.0, 50.0, 40.0), past=past)
        said = predict_joules(arm, TEXT, facts, resident=True)
        low, high = said.range
        assert 0 <= low <= said.answer
        inside += low <= said.prefill + draw() - 1 <= high
    assert inside / rounds >= 0.8


def test_an_answer_of_known_length_has_a_narrow_range():
    question = TextFacts(Query("Which?\nA) x\nB) y"))
    facts = LoggedModelFacts(speed=Speed(400.0, 40.0, 50.0, 40.0), load_joules=30.0)
    said = predict_joules(replace(LARGE, readout="choices"), question, facts, resident=False)
    assert said.range == (
        pytest.approx(said.answer - 0.65 * said.uncertainty),
        pytest.approx(said.answer + 0.65 * said.uncertainty),
    )
