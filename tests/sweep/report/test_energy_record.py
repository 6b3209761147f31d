"""The energy record of a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.sweep.document import build_conditions, build_energy_record, describe_conditions
from tests.fixtures.records import check_record
from tests.sweep import results


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


def test_the_page_says_that_joules_are_not_those_of_the_building() -> None:
    sweep = results.two_settings()
    config = replace(sweep.config, provenance={**sweep.config.provenance, "pue": 1.4})
    conditions = build_conditions(config, sweep.result, sweep.blocks)
    assert conditions["pue"] == 1.4
    assert dict(describe_conditions(conditions, "m"))["PUE"].startswith("1.4; the joules are those")
