"""The energy record of a turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from etui.log.export import build_energy_record
from etui.turn.record import Attribution, TurnRecord
from tests.fixtures.records import check_record

MakeTurn = Callable[..., TurnRecord]


def test_a_turn_states_what_the_log_has(make_turn):
    turn = make_turn(1)
    sha256 = turn.model_sha256
    assert sha256 is not None
    document = check_record(build_energy_record(turn, {sha256: "Q4_1"}))
    assert document["source"]["id"] == turn.turn_id
    (one,) = document["measurements"]
    assert one["models"][0]["precision"]["weights"] == "Q4_1"
    results = one["results"]
    assert results["it_joules"] == results["facility_joules"] == 12.34
    assert results["joules_per_question"]["sensor"] == 0.41
    assert one["utilisation"]["is_shared"] is True
    assert one["detection_floor"]["basis"] == "sensor"
    assert results["correct"] is None


def test_a_shared_turn_names_its_attribution_and_the_pue_of_its_time(make_turn):
    turn = make_turn(1)
    shared = Attribution("shapley", 0.3, 41.1, 0.7, 52, 3.5)
    energy, settings = replace(turn.energy, attribution=shared), {**turn.settings, "pue": 1.5}
    (one,) = build_energy_record(replace(turn, energy=energy, settings=settings)).measurements
    assert (one.utilisation.attribution, one.utilisation.questions_at_a_time) == ("shapley", 4)
    assert (one.pue, one.results.it_joules) == (1.5, 12.34)
    assert one.results.facility_joules == pytest.approx(18.51)


def test_an_unmeasured_turn_and_a_bare_one_have_records(make_turn):
    unmeasured = make_turn(2, joules=None)
    unmeasured = replace(
        unmeasured,
        energy=replace(
            unmeasured.energy,
            uncertainty=None, kind=None, net_joules=None, idle_watts=None, mean_watts=None,
            peak_watts=None, phases={"load": None, "prefill": None, "decode": None}, channels={},
        ),
    )  # fmt: skip
    document = check_record(build_energy_record(unmeasured))
    (one,) = document["measurements"]
    assert one["results"]["it_joules"] is None
    assert one["functional_units"] == []
    bare = replace(make_turn(3), settings={}, model_sha256=None)
    check_record(build_energy_record(bare))
