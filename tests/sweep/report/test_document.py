"""The JSON of a sweep, and its energy record."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from typing import Any

import pytest

from etui.stats.tests import Interval
from etui.sweep.config import Goal
from etui.sweep.document import build_command, build_document, build_energy_record
from etui.sweep.verdict import format_verdict
from tests.fixtures.records import check_record
from tests.sweep import results


def document_of(make: Any) -> dict[str, Any]:
    sweep = make()
    return build_document(sweep.config, sweep.result, sweep.blocks)


@pytest.mark.parametrize("make", results.ALL)
def test_it_is_json_and_comes_back(make) -> None:
    document = document_of(make)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["verdict"] == format_verdict(make().result)


def test_figures_have_their_ends() -> None:
    document = document_of(results.sixteen_settings)
    best = next(one for one in document["settings"] if one["setting"] == document["best"])
    assert best["values"] == {"threads": 4, "kv_type": "f16", "speculate": "lookup"}
    assert best["joules"]["low"] < best["joules"]["value"] < best["joules"]["high"]
    change = best["joules_difference"]
    assert change["low_percent"] < change["percent"] < change["high_percent"] < 0
    assert change["is_claimed"] is True
    assert best["accuracy"]["measured_as"] == "threads=8 kv_type=f16 speculate=off"
    assert document["settings"][0]["joules_difference"] is None
    assert document["interactions"][0]["values"] == {"threads": 1, "speculate": "lookup"}


def test_drops_have_when_and_why() -> None:
    drops = document_of(results.sixteen_settings)["drops"]
    assert [drop["after_block"] for drop in drops] == sorted(d["after_block"] for d in drops)
    assert drops[0]["after_block"] == 5
    assert "more joules than" in drops[0]["reason"]
    failed = document_of(results.sixty_settings)["drops"][0]
    assert failed["after_block"] is None
    assert failed["reason"] == "not enough memory for 3.1 GB of KV cache"


def test_missing_is_null() -> None:
    document = document_of(results.unmeasured)
    assert document["kind"] is None
    assert document["floor"]["joules_percent"] is None
    assert all(one["joules"] is None for one in document["settings"])
    assert document["suite"] is None
    empty = document_of(results.not_begun)
    assert empty["floor"] is None
    assert empty["best"] is None


def test_a_figure_that_is_no_number_is_null() -> None:
    sweep = results.two_settings()
    first, second = sweep.result.settings
    broken = replace(second, joules=Interval(math.nan, -math.inf, math.inf, "bootstrap"))
    document = build_document(sweep.config, replace(sweep.result, settings=(first, broken)))
    assert document["settings"][1]["joules"] == {"value": None, "low": None, "high": None}


def test_numpy_numbers_are_plain() -> None:
    numpy = pytest.importorskip("numpy")
    sweep = results.two_settings()
    first, second = sweep.result.settings
    value = numpy.float64(10.1)
    strange = replace(second, joules=Interval(value, value, value, None))
    document = build_document(sweep.config, replace(sweep.result, settings=(first, strange)))
    assert type(document["settings"][1]["joules"]["value"]) is float


def test_the_hottest_temperature_is_that_of_all_visits() -> None:
    sweep = results.two_settings()
    first = sweep.blocks[0].visits[0]
    visits = tuple(replace(first, temperature_celsius=one) for one in (61.0, 64.5, None))
    blocks = (replace(sweep.blocks[0], visits=visits),)
    assert build_document(sweep.config, sweep.result, blocks)["hottest_celsius"] == 64.5
    assert build_document(sweep.config, sweep.result)["hottest_celsius"] is None


def test_power_limits_are_those_that_were_read_back() -> None:
    sweep = results.two_settings()
    first = sweep.blocks[0].visits[0]
    visits = tuple(replace(first, power_limit_watts=limit) for limit in (250.0, 150.0, 250.0))
    blocks = (replace(sweep.blocks[0], visits=visits),)
    record = build_energy_record(sweep.config, sweep.result, blocks)
    assert record.measurements[0].hardware.power_limit_watts == (150.0, 250.0)


def test_the_command_repeats_the_sweep() -> None:
    sweep = results.sixteen_settings()
    config = replace(
        sweep.config,
        workload="my texts.txt",
        design=replace(sweep.config.design, goal=Goal("joules", 5.0), halving=False, seed=7),
    )
    words = shlex.split(build_command(config))
    assert words[:3] == ["etui", "sweep", "qwen2.5-coder-1.5b"]
    assert "threads=8,4,2,1" in words
    assert words[words.index("--workload") + 1] == "my texts.txt"
    assert words[words.index("--within") + 1] == "5"
    assert words[words.index("--suite") + 1] == "sample"
    assert words[words.index("--seed") + 1] == "7"
    assert "--no-halving" in words
    bare = replace(config, output_tokens=0, data="/data/mmlu", cool_down_celsius=45.0)
    words = shlex.split(build_command(bare))
    assert "--output-tokens" not in words
    assert words[words.index("--data") + 1] == "/data/mmlu"
    assert words[words.index("--cool-to") + 1] == "45"
    routed = shlex.split(build_command(replace(config, policy="mine", arm="small")))
    assert routed[2:6] == ["--policy", "mine", "--arm", "small"]


@pytest.mark.parametrize("make", results.ALL)
def test_every_sweep_has_a_record(make) -> None:
    sweep = make()
    document = check_record(build_energy_record(sweep.config, sweep.result, sweep.blocks))
    visited = {visit.setting for block in sweep.blocks for visit in block.visits}
    assert {one["name"] for one in document["measurements"]} == visited


def test_a_setting_has_its_own_conditions() -> None:
    sweep = results.sixteen_settings()
    provenance = {**sweep.config.provenance, "weights": {sweep.config.model: "Q4_1"}, "pue": 1.2}
    config = replace(sweep.config, provenance=provenance)
    record = build_energy_record(config, sweep.result, sweep.blocks)
    check_record(record)
    by_name = {one.name: one for one in record.measurements}
    one = by_name["threads=4 kv_type=f16 speculate=lookup"]
    assert one.hardware.threads == 4
    assert one.models[0].precision.kv_type == "f16"
    assert one.models[0].precision.weights == "Q4_1"
    assert one.detection_floor is not None
    assert (one.detection_floor.basis, one.detection_floor.percent) == ("a/a", 1.3)
    assert one.results.facility_joules == pytest.approx(1.2 * one.results.it_joules)
    result = next(each for each in sweep.result.settings if each.setting == one.name)
    assert one.results.joules_per_question.it_joules == result.joules.value
    visits = [v for b in sweep.blocks for v in b.visits if v.setting == one.name]
    assert one.results.it_joules == pytest.approx(sum(v.joules * v.answers for v in visits))
