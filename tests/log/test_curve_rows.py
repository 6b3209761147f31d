"""Curves in the log: kept, found again, made of turns, and the facts a forecast is made from."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from uuid import uuid4

import pytest

from etui.arm import Arm
from etui.curves.fit import TooFewPoints
from etui.curves.operating_curve import Conditions, FittedPoint, OperatingCurve, PhaseCurve, Speed
from etui.log.curve_lookup import (
    LEAST_TURNS,
    find_curve,
    fit_logged_turns,
    select_comparable_turns,
)
from etui.log.past_answers import read_model_facts
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.spec import ModelSpec
from etui.routing.joules import ArmKey
from etui.runtime.model_resolution import refit_curve, token_cost_for
from etui.runtime.provenance import conditions
from etui.turn.record import Attribution, LoadRecord, Seconds, Tokens
from tests.fixtures.turns import SPECULATION

NOW = Conditions("a machine", "llama-cpp-python 9", 2, ("gpu:GPU-1",), 300.0)
SETTINGS = {"machine": "a machine", "llama_cpp_python": "9", "threads": 2}
PREFILL, DECODE = PhaseCurve(1.0, 0.02), PhaseCurve(0.5, 0.4, 1e-4)
CURVE = OperatingCurve(
    "c1", "2026-11-24T09:00:00.000+00:00", "m", "ab", NOW, "counter", "calibration",
    prefill=replace(PREFILL, r2=0.99, n=12, band=0.05, mape=0.02),
    decode=replace(DECODE, r2=0.98, n=12, band=1.5, proportional=False, mape=0.03),
    meter_share=0.01, idle_watts=20.0, speed=Speed(900.0, 60.0, 80.0, 70.0), held_out_mape=0.04,
    points=(FittedPoint(32, 0, 16, 1.6, 6.0),), gpu_layers=31,
)  # fmt: skip


@pytest.fixture
def turn(make_turn):
    """A turn of the model, whose joules lie on the curve."""

    def make(number, computed=None, output=None, cached=0, factor=1.0, kind="counter", **changes):
        computed = 20 + 7 * (number % 11) if computed is None else computed
        output = 10 + 5 * (number % 13) if output is None else output
        prefill = factor * PREFILL.joules(cached, computed)
        decode = factor * DECODE.joules(cached + computed, output - 1)
        facts = {"model": "m", "model_sha256": "ab", "probes": (), "settings": SETTINGS, **changes}
        made = make_turn(number, **facts)
        phases = {"load": 0.0, "prefill": prefill, "decode": decode}
        energy = replace(
            made.energy, kind=kind, phases=phases, joules=prefill + decode, uncertainty=0.1,
            shared=False,
        )  # fmt: skip
        tokens = Tokens(cached + computed, cached, computed, 0, output)
        seconds = Seconds(0.0, computed / 100, (output - 1) / 10, 1.0, 0.1)
        return replace(made, energy=energy, tokens=tokens, seconds=seconds)

    return make


def save(config, *turns, curves=(), loads=()):
    with TurnWriter(config) as writer:
        for made in turns:
            writer.save_turn(made)
        for curve in curves:
            writer.save_curve(curve)
        for load in loads:
            writer.save_load(load)


def test_a_curve_keeps_the_settings_of_its_model(config):
    under = replace(NOW, prefill_threads=4, kv_type="q8_0", flash_attention="on", batch_tokens="64")
    made = replace(CURVE, conditions=under)
    save(config, curves=[made])
    with LogReader(config) as log:
        assert log.curves() == [made]
        assert find_curve(log, "m", "ab", under) == made
        for other in ({"kv_type": "f16"}, {"prefill_threads": None}, {"batch_tokens": "auto"}):
            assert find_curve(log, "m", "ab", replace(under, **other)) is None


def test_the_newest_calibration_that_holds_here_is_used_and_not_displaced_by_turns(config, turn):
    newer = replace(CURVE, curve_id="c2", created_at="2026-11-25")
    elsewhere = replace(
        newer, curve_id="c3", created_at="2026-11-26", conditions=replace(NOW, machine="other")
    )
    unreadable = replace(newer, curve_id="c4")
    save(config, *(turn(i) for i in range(30)), curves=[CURVE, newer, elsewhere, unreadable])
    with sqlite3.connect(config.database) as connection:
        (text,) = connection.execute("SELECT coefficients FROM curves LIMIT 1").fetchone()
        connection.execute("UPDATE curves SET coefficients = '{}' WHERE curve_id = 'c4'")
    assert json.loads(text) == {
        "prefill_e0": 1.0, "prefill_a": 0.02, "prefill_a2": 0.0,
        "decode_e0": 0.5, "decode_b": 0.4, "decode_c": 1e-4,
    }  # fmt: skip
    with LogReader(config) as log:
        assert log.curves("m", "ab") == log.curves() == [elsewhere, newer, CURVE]
        assert log.curves("m", "cd") == log.curves("other") == []
        assert find_curve(log, "m", "ab", NOW) == newer
        assert find_curve(log, "m", "ab", replace(NOW, threads=8)) is None


@pytest.mark.parametrize(
    ("error", "used"), [(0.05, "c2"), (0.099, "c2"), (0.64, "c1"), (None, "c2")]
)
def test_a_rough_calibration_does_not_displace_a_good_one(config, error, used):
    newer = replace(CURVE, curve_id="c2", created_at="2026-11-25", held_out_mape=error)
    save(config, curves=[CURVE, newer])
    with LogReader(config) as log:
        assert find_curve(log, "m", "ab", NOW).curve_id == used


def test_turns_at_other_threads_or_another_kv_type_are_not_mixed(config, turn):
    settings = {**SETTINGS, "kv_type": "f16", "batch_tokens_setting": "auto"}
    save(
        config,
        *(turn(i, settings=settings) for i in range(LEAST_TURNS)),
        *(turn(30 + i, settings=settings | {"kv_type": "q8_0"}) for i in range(3)),
        *(turn(40 + i, settings=settings | {"prefill_limit": 1}) for i in range(3)),
        *(turn(50 + i, settings=settings | {"batch_tokens_setting": 64}) for i in range(3)),
    )
    now = replace(NOW, kv_type="f16", batch_tokens="auto")
    with LogReader(config) as log:
        count = lambda under: len(select_comparable_turns(log, "m", "ab", under))  # noqa: E731
        assert count(now) == LEAST_TURNS
        assert count(replace(now, kv_type="q8_0")) == 3
        assert count(replace(now, prefill_threads=1)) == 3
        assert count(replace(now, batch_tokens="64")) == 3


def test_without_a_calibration_twenty_turns_make_a_curve(config, turn):
    save(config, *(turn(i) for i in range(LEAST_TURNS - 1)))
    save(config, *(turn(100 + i, computed=30, output=30, model="one") for i in range(25)))
    with LogReader(config) as log:
        assert find_curve(log, "one", "ab", NOW, save=lambda record: None) is None  # one length
        assert find_curve(log, "m", "ab", NOW, save=lambda record: None) is None
    save(config, turn(LEAST_TURNS))
    kept = []
    with LogReader(config) as log:
        made = find_curve(log, "m", "ab", NOW, kept.append)
    assert (made.source, made.n, made.kind) == ("log", LEAST_TURNS, "counter")
    said = made.joules(60, 0, 40)
    true = PREFILL.joules(0, 60) + DECODE.joules(60, 39)
    assert said.total == pytest.approx(true, rel=0.01)
    assert [record.curve_id for record in kept] == [made.curve_id]


def test_a_curve_of_the_log_is_made_anew_after_twenty_more_turns(config, turn):
    made = replace(CURVE, source="log", created_at="2026-11-24T10:20:00.000+00:00")
    save(config, *(turn(i) for i in range(LEAST_TURNS)), curves=[made])
    with LogReader(config) as log:
        assert find_curve(log, "m", "ab", NOW) == made
    save(config, *(turn(30 + i) for i in range(LEAST_TURNS)))
    with LogReader(config) as log:
        assert find_curve(log, "m", "ab", NOW) == made
        again = find_curve(log, "m", "ab", NOW, lambda record: None)
    assert (again.source, again.n) == ("log", 2 * LEAST_TURNS)


def test_the_turn_that_makes_enough_leaves_a_curve_behind(config, turn):
    machine = conditions(config)
    settings = {**SETTINGS, "machine": machine.machine, "threads": machine.threads}
    settings["llama_cpp_python"] = machine.build.removeprefix("llama-cpp-python ")
    turns = [turn(i, settings=settings, status="complete") for i in range(LEAST_TURNS)]
    kept = []
    save(config, *turns[:-1])
    refit_curve(turns[-2], config, kept.append)
    assert kept == []
    save(config, turns[-1])
    for other in (replace(turns[-1], status="error"), replace(turns[-1], status="stopped")):
        refit_curve(other, config, kept.append)
    assert kept == []
    refit_curve(turns[-1], config, kept.append)
    assert [record.source for record in kept] == ["log"]


def with_attribution(turn, method):
    return replace(turn, energy=replace(turn.energy, attribution=Attribution(method)))


def test_turns_that_lie_on_no_curve_of_one_sequence_here_do_not_count(config, turn):
    good = turn(1)
    shared = turn(2)
    others = [
        replace(shared, energy=replace(shared.energy, shared=True)),
        turn(3, reasoning="vote"),
        turn(4, status="error"),
        turn(5, settings={**SETTINGS, "threads": 8}),
        turn(6, settings={}),
        turn(7, model_sha256="cd"),
        turn(8, kind="estimate"),
        turn(10, speculation=SPECULATION),
        with_attribution(turn(11), "shapley"),
        with_attribution(turn(12), "none"),
        turn(13, computed=400, output=0),  # texts were embedded
    ]
    newest = with_attribution(turn(9), "exclusive")
    save(config, good, *others, newest)
    with LogReader(config) as log:
        found = select_comparable_turns(log, "m", "ab", NOW)
        assert [t.point.output_tokens for t in found] == [
            newest.tokens.output, good.tokens.output
        ]  # fmt: skip
        with pytest.raises(TooFewPoints, match="2 points of the log, but 20 are needed"):
            fit_logged_turns(found, "m", "ab", NOW)


def test_facts_of_a_model(config, turn):
    load = LoadRecord("l1", "2026-11-24", "m", "ab", None, 2.0, 30.0, 1.0, "counter", 0, 10)
    loads = [load, replace(load, load_id="l2", joules=50.0, seconds=4.0)]
    settings = {**SETTINGS, "think_tokens": 0, "max_tokens": 64, "votes": 0}
    query = "x" * 40  # ten tokens by the estimate
    asked = [
        turn(i, computed=45, output=21, reasoning="direct", query=query, system=None,
             settings=settings)
        for i in range(4)
    ]  # fmt: skip
    embedded = turn(9, computed=900, output=0, reasoning="direct", query="(9 texts)", system=None)
    save(config, *asked, embedded, loads=loads)
    with LogReader(config) as log:
        facts = read_model_facts(log, "m", "ab", NOW)
        nothing = read_model_facts(log, "other", None, NOW)
    assert facts.curve is None
    assert (facts.load_joules, facts.load_seconds) == (40.0, 3.0)
    assert facts.prompt_overhead == 35.0
    past = facts.past[ArmKey.of(Arm("any name", "m", max_tokens=64))]
    assert (past.turns, past.mean_tokens) == (4, 21.0)
    assert past.decode_joules_per_token == pytest.approx(DECODE.joules(45, 20) / 21)
    assert facts.speed.prefill_tokens_per_second == pytest.approx(100.0)
    assert facts.speed.decode_tokens_per_second == pytest.approx(10.0)
    assert facts.speed.decode_watts == pytest.approx(DECODE.joules(45, 20) / 2.0)
    assert (nothing.curve, nothing.speed, nothing.load_joules, nothing.past) == (
        None,
        None,
        None,
        {},
    )


@pytest.mark.parametrize("measured", [True, False])
def test_answers_of_one_token_do_not_hide_how_fast_a_model_decodes(config, turn, measured):
    def change(made):
        if measured:
            return made
        unknown = dict.fromkeys(made.energy.phases)
        return replace(made, energy=replace(made.energy, phases=unknown))

    one = [turn(i, computed=45, output=1) for i in range(20, 45)]
    longer = [turn(i, computed=90, output=21) for i in range(5)]
    save(config, *map(change, [*longer, *one]))
    with LogReader(config) as log:
        speed = read_model_facts(log, "m", "ab", NOW).speed
    assert speed.prefill_tokens_per_second == pytest.approx(100.0)
    assert speed.decode_tokens_per_second == pytest.approx(10.0)
    if measured:
        assert speed.prefill_watts == pytest.approx(PREFILL.joules(0, 45) / 0.45)
        assert speed.decode_watts == pytest.approx(DECODE.joules(90, 20) / 2.0)
    else:
        assert (speed.prefill_watts, speed.decode_watts) == (None, None)


def test_turns_with_and_without_speculation_are_not_mixed(config, turn):
    plain = [turn(i, output=21) for i in range(3)]
    settings = {**SETTINGS, "speculate": "auto"}
    drafted = [
        turn(i, output=21, factor=0.5, settings=settings, speculation=SPECULATION)
        for i in range(3, 6)
    ]
    without_drafts = turn(6, output=21, factor=0.5, settings=settings)
    save(config, *plain, *drafted)
    with LogReader(config) as log:
        facts = read_model_facts(log, "m", "ab", NOW)
        cost = log.price("m", "ab")
    watts = facts.speed.decode_watts
    assert set(facts.speculated) == {"auto"}
    assert facts.speculated["auto"].decode_watts == pytest.approx(watts / 2, rel=0.05)
    plain_joules = sum(made.energy.phases["decode"] for made in plain)
    assert cost.joules_per_token == pytest.approx(plain_joules / (3 * 21))
    save(config, without_drafts)  # a plain turn, and one of an arm that speculates
    with LogReader(config) as log:
        facts = read_model_facts(log, "m", "ab", NOW)
    assert facts.speed.decode_watts < watts
    assert set(facts.speculated) == {"auto"}


def test_thought_is_priced_by_the_curve_before_the_mean_of_turns(config, turn):
    spec = ModelSpec("m", "tiny", (), sha256="ab")
    arm = Arm("a", "m", "cot", max_joules=5.0)
    save(config, turn(1))
    assert token_cost_for(arm, spec, config).source == "the mean of 1 turn"
    here = replace(CURVE, curve_id=uuid4().hex, conditions=conditions(config))
    save(config, curves=[here])
    assert token_cost_for(arm, spec, config) == here.to_decode_price()
