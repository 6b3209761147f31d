"""The energy record of a run: every condition, every null explained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.bench.config import BenchMachine
from etui.bench.cost import count_gaps
from etui.bench.results import build_energy_record
from etui.bench.summary import summarise
from tests.bench import synthetic
from tests.fixtures.records import check_record

FULL = synthetic.config(
    per_subject=2,
    machine={"name": "A processor, 8 CPUs, Linux x86_64", "memory_bytes": 16_000_000_000},
    models=tuple(
        replace(model, quantisation="Q4_K - Medium") for model in synthetic.config().models
    ),
    versions={
        "etui": "0.1.0",
        "python": "3.11.9",
        "llama_cpp_python": "0.3.36",
        "llama_cpp": "b1234",
    },
    energy={
        "channels": {"gpu:GPU-1": "counter"},
        "unmeasured": ["package:0"],
        "sample_hz": 20.0,
        "devices": {"gpu:GPU-1": {"label": "NVIDIA L40S", "limit_watts": 350.0}},
        "pue": 1.25,
    },
    idle={"which": "cold", "watts": 8.0},
    format="chat",
)


def timed(rows):
    return [
        replace(
            row,
            decode_seconds=1.0,
            ttft_seconds=0.2,
            inter_token_bins=count_gaps([0.02, 0.03]),
            coverage=0.97,
            shared=row.row == 1,
        )
        for row in rows
    ]


def record_of(run, rows):
    return build_energy_record(run, rows, summarise(rows, run))


def test_joules_are_those_of_the_machine_and_the_facility_is_told_apart() -> None:
    rows = timed(synthetic.samples(FULL))
    mine = [row for row in rows if row.arm == "think"]
    one = next(m for m in record_of(FULL, rows).measurements if m.name == "think")
    results = one.results
    assert one.pue == 1.25
    assert results.it_joules == pytest.approx(sum(row.joules for row in mine))
    assert results.facility_joules == pytest.approx(1.25 * results.it_joules)
    assert results.net_joules == pytest.approx(
        results.it_joules - 8 * sum(row.seconds for row in mine)
    )
    for figure in (results.joules_per_question, results.joules_per_output_token):
        assert figure.facility_joules == pytest.approx(1.25 * figure.it_joules)
    # The summary, the page and the samples are never multiplied.
    energy = summarise(rows, FULL).arms["think"].energy
    assert energy.joules == pytest.approx(results.it_joules)


def test_an_unmeasured_run_has_no_zeros() -> None:
    rows = synthetic.samples(FULL, kind=None)
    document = check_record(record_of(FULL, rows))
    one = document["measurements"][0]
    assert one["results"]["it_joules"] is None
    assert one["method"]["kind"] is None
    assert one["functional_units"] == []
    assert {"field": "results.it_joules", "why": "the energy is unmeasured"} in one["missing"]


def test_a_run_of_an_earlier_version_and_a_policy_run_have_records() -> None:
    run = synthetic.config(per_subject=1)
    check_record(record_of(run, synthetic.samples(run)))
    routed = synthetic.routed(per_subject=1)
    rows = [row for row in synthetic.samples(routed) if row.arm == "direct"]
    document = check_record(record_of(routed, rows))
    (one,) = document["measurements"]
    assert one["name"] == "balanced"
    assert [model["name"] for model in one["models"]] == ["small", "large"]
    check_record(record_of(run, []))


def test_machines_are_apart() -> None:
    def machine(key: str, pue: float) -> BenchMachine:
        return BenchMachine(
            key=key,
            name=f"machine {key}",
            memory_bytes=1,
            threads=4,
            models=FULL.models,
            versions=FULL.versions,
            energy={**FULL.energy, "pue": pue},
        )

    run = replace(FULL, machines=(machine("a", 1.0), machine("b", 2.0)))
    rows = [
        replace(row, machine="ab"[at % 2]) for at, row in enumerate(timed(synthetic.samples(FULL)))
    ]
    found = record_of(run, rows)
    check_record(found)
    keys = {(one.name, one.machine_key) for one in found.measurements}
    assert {key for _, key in keys} == {"a", "b"}
    assert len(keys) == len(found.measurements)
    total = sum(one.results.it_joules for one in found.measurements)
    assert total == pytest.approx(sum(row.joules for row in rows))
    for one in found.measurements:
        assert one.pue == (1.0 if one.machine_key == "a" else 2.0)
        assert one.results.steady_state is not None


def test_a_vote_states_its_sequences() -> None:
    arms = {"vote-5": {"model": "small", "reasoning": "vote", "votes": 5, "batch": 8}}
    run = replace(FULL, arms=arms)
    rows = [row for row in timed(synthetic.samples(FULL)) if row.arm == "vote-5"]
    (one,) = record_of(run, rows).measurements
    assert one.batch.sequences == 5
