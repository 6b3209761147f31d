"""Predictions judged by measurements."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.curves.fit import TurnPoint
from etui.log.curve_lookup import LoggedTurn
from etui.log.filters import TurnFilter
from etui.log.prediction_quality import (
    LEAST_DRIFT_TURNS,
    PredictionOutcome,
    compute_accuracy,
    group_accuracy,
    measure_drift,
    read_outcomes,
    summarise_shadows,
)
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.turn.record import HopRecord, Tokens
from tests.log.test_curve_rows import CURVE, DECODE, PREFILL

QUICK = PredictionOutcome("m", "quick", "counter", 10.0, 8.0, None)


def shadow(arm, predicted=None, model="m"):
    return {"policy": "frugal", "arm": arm, "model": model, "predicted_joules": predicted}


def test_mean_error_and_bias_of_each_group():
    found = [
        QUICK,
        replace(QUICK, predicted_joules=8.0, measured_joules=10.0),
        replace(QUICK, arm="think", predicted_joules=50.0, measured_joules=40.0),
        replace(QUICK, predicted_joules=None),
        replace(QUICK, measured_joules=None),
    ]
    quick, think = group_accuracy(found, lambda one: one.arm)
    assert (quick.key, quick.n) == ("quick", 2)
    assert quick.mape == pytest.approx((0.25 + 0.2) / 2)
    assert (quick.factor, quick.inside) == (pytest.approx(1.25), None)
    assert quick.bias == pytest.approx(0.0)
    assert (think.key, think.n, think.bias) == ("think", 1, pytest.approx(0.25))


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=30), st.floats(0.1, 5.0))
def test_a_constant_factor_is_both_the_error_and_the_bias(measured, factor):
    judged = compute_accuracy(
        "m",
        [replace(QUICK, predicted_joules=factor * m, measured_joules=m) for m in measured],
    )
    assert judged.factor == pytest.approx(max(factor, 1 / factor))
    assert judged.mape == pytest.approx(abs(factor - 1), abs=1e-9)
    assert judged.bias == pytest.approx(factor - 1, abs=1e-9)


def test_the_share_of_answers_in_the_predicted_range():
    ranged = replace(QUICK, predicted_range=(4.0, 9.0))
    judged = compute_accuracy("m", [QUICK, ranged, ranged, replace(ranged, measured_joules=9.5)])
    assert judged.inside == pytest.approx(2 / 3)


def test_what_the_policy_on_trial_would_have_done():
    found = [
        QUICK,
        replace(QUICK, shadow=shadow("quick", 4.0)),
        replace(QUICK, shadow=shadow("think", 30.0)),
        replace(QUICK, shadow=shadow("quick", 4.0, model="other")),
        replace(QUICK, shadow=shadow("think")),
        replace(QUICK, shadow=shadow(None)),
    ]
    (summary,) = summarise_shadows(found)
    assert (summary.policy, summary.turns) == ("frugal", 5)
    assert (summary.elsewhere, summary.undecided, summary.compared) == (3, 1, 2)
    assert summary.joules_difference == pytest.approx((30 - 10) + (4 - 10))
    assert summarise_shadows([QUICK]) == []


def logged(count, factor, noise=0.0, uncertainty=0.0, seed=0):
    rng = random.Random(seed)
    turns = []
    for _ in range(count):
        computed, output = rng.randint(20, 400), rng.randint(10, 200)
        f = factor * (1 + rng.gauss(0, noise))
        prefill, decode = f * PREFILL.joules(0, computed), f * DECODE.joules(computed, output - 1)
        point = TurnPoint(
            computed, 0, output, prefill, decode, uncertainty * prefill, uncertainty * decode
        )
        turns.append(LoggedTurn("2026-11-25", point, "counter", (), {}, False))
    return turns


@pytest.mark.parametrize(
    ("turns", "meter_share", "drifted", "error"),
    [
        (logged(20, 1.0, noise=0.01), 0.01, False, 0.0),
        (logged(20, 1.4, noise=0.02), 0.01, True, 0.4),
        (logged(LEAST_DRIFT_TURNS - 1, 3.0), 0.01, False, 2.0),  # few turns
        ([replace(turn, created_at="2026-11-01") for turn in logged(20, 3.0)], 0.01, False, None),
        # A blurred meter excuses a turn, but the band of an estimate does not.
        (logged(20, 1.4, uncertainty=0.6), 0.01, False, 0.4),
        (logged(20, 1.4, uncertainty=0.4), 0.4, True, 0.4),
    ],
)
def test_a_curve_that_no_longer_fits_is_named(turns, meter_share, drifted, error):
    drift = measure_drift(replace(CURVE, meter_share=meter_share), turns)
    assert drift.drifted == drifted
    assert drift.median_error == (error if error is None else pytest.approx(error, abs=0.05))


def test_outcomes_are_read_from_the_log(config, make_turn):
    trace = {"shadow": shadow("think", 3.0)}
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn(1, trace=trace))
        writer.save_turn(make_turn(2, joules=None))
    with LogReader(config) as log:
        first, second = read_outcomes(log, TurnFilter())
    assert first == PredictionOutcome(
        "smollm2-135m", "think", "counter", 11.0, 12.34, trace["shadow"]
    )
    assert (second.measured_joules, second.shadow) == (None, None)


def test_a_cascade_is_no_error_of_its_last_model(config, make_turn):
    hops = tuple(
        HopRecord(
            arm, model, None, "direct", "", "complete", None, None, None, taken, taken,
            Tokens(1, 0, 1, 0, 1), 6.0, 0.1, 0.0, 0.1, "",
        )
        for arm, model, taken in (("quick", "small", False), ("think", "large", True))
    )  # fmt: skip
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn(1, model="large"))
        writer.save_turn(make_turn(2, model="large", hops=hops))
    with LogReader(config) as log:
        found = read_outcomes(log, TurnFilter())
    assert [outcome.models_text for outcome in found] == ["large", "small → large"]
    assert [outcome.arms_text for outcome in found] == [
        "think (large)",
        "quick (small) → think (large)",
    ]
