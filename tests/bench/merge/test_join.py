"""Joining runs of one plan: what belongs together, what counts, and whose joules are pooled."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.compare import System, compare, list_differences
from etui.bench.config import BenchPart, RunConfig, list_part, parse_run_config
from etui.bench.figures import write_figures
from etui.bench.folder import Recorded
from etui.bench.lm_eval import lm_eval_document
from etui.bench.machines import join_machines
from etui.bench.merge import NamedRun, merge_runs
from etui.bench.page import render_page
from etui.bench.run import refuse_merged, run_record
from etui.bench.sample import Sample
from etui.bench.summary import group_by_system, summarise
from etui.bench.summary_text import headline, markdown
from etui.errors import InvalidFile, UsageError
from tests.bench import synthetic

DESKTOP = {"name": "Ryzen, 16 CPUs, Linux x86_64", "memory_bytes": 64 << 30}
LAPTOP = {"name": "Core, 8 CPUs, Linux x86_64", "memory_bytes": 16 << 30}

PLAN = synthetic.config(("direct", "think"), per_subject=2, machine=DESKTOP)
ANSWERS = synthetic.samples(PLAN)


def run(name: str, samples: list[Sample], **changes) -> NamedRun:
    config = replace(PLAN, run_id=name, **changes)
    return NamedRun(Path(name), Recorded(config, tuple(samples), {}))


def parts(count: int, **changes) -> list[NamedRun]:
    found = []
    for index in range(count):
        part = BenchPart(index, count)
        asked = list_part(PLAN.drawn, PLAN.order, PLAN.block, PLAN.seed, part)
        inside = [s for s in ANSWERS if s.row in asked.get(s.subject, ())]
        found.append(run(f"part-{index + 1}", inside, part=part, **changes))
    return found


def other_machine(named: NamedRun, **changes) -> NamedRun:
    config = replace(named.config, **({"machine": LAPTOP} | changes))
    return replace(named, recorded=replace(named.recorded, config=config))


def merged(runs):
    return merge_runs(runs, "whole")


def refusal(*runs: NamedRun) -> str:
    with pytest.raises(UsageError) as caught:
        merged(runs)
    return str(caught.value.what)


@pytest.mark.parametrize("count", [2, 4, 9])
def test_the_parts_of_a_plan_are_the_undivided_run(count):
    joined = merged(parts(count))
    whole, found = summarise(ANSWERS, PLAN), summarise(joined.samples, joined.config)
    assert found.complete
    assert {a: arm.accuracy for a, arm in found.arms.items()} == {
        a: arm.accuracy for a, arm in whole.arms.items()
    }
    for name, arm in found.arms.items():
        assert arm.energy == whole.arms[name].energy
        assert arm.tokens == whole.arms[name].tokens
    assert {replace(s, machine=None) for s in map(_hashable, joined.samples)} == set(
        map(_hashable, ANSWERS)
    )
    assert joined.duplicates.answers == 0
    assert joined.config.part is None
    assert joined.config.plan_sha256 == PLAN.plan_sha256


def _hashable(sample: Sample) -> Sample:
    return replace(sample, logprobs=None)


def test_machines_are_numbered_and_named_in_every_answer():
    one, two = parts(2)
    joined = merged([one, other_machine(two)])
    machines = joined.config.machines or ()
    assert [(m.key, m.name) for m in machines] == [("m1", DESKTOP["name"]), ("m2", LAPTOP["name"])]
    assert joined.config.machine == DESKTOP
    count = len(one.recorded.samples)
    assert {s.machine for s in joined.samples[:count]} == {"m1"}
    assert {s.machine for s in joined.samples[count:]} == {"m2"}
    assert parse_run_config(json.loads(json.dumps(joined.config.to_json()))) == joined.config


def test_joules_of_unlike_machines_are_given_by_machine_only(tmp_path):
    one, two = parts(2)
    joined = merged([one, other_machine(two, threads=3)])
    config = joined.config
    summary = summarise(joined.samples, config)
    for name, arm in summary.arms.items():
        assert arm.energy is None
        assert arm.accuracy == summarise(ANSWERS, PLAN).arms[name].accuracy
        assert arm.machines is not None
        assert sum(machine.questions for machine in arm.machines.values()) == PLAN.questions
        assert {machine.group for machine in arm.machines.values()} == {0, 1}
        costs = [machine.energy for machine in arm.machines.values()]
        assert all(cost is not None and cost.per_question.low is not None for cost in costs)
        total = math.fsum(cost.joules for cost in costs if cost is not None)
        assert total == pytest.approx(sum(s.joules for s in ANSWERS if s.arm == name))
    assert summary.hull == []
    assert summary.oracle is not None
    assert summary.oracle.joules_per_question is None
    (warning,) = [text for text in summary.warnings if "not pooled" in text]
    assert "m1 and m2 differ in the processor or the system, the memory and the threads" in warning
    assert run_record(config, tmp_path, joined.samples, "complete", summary).joules is None
    assert "not pooled, see machines" in headline(summary)
    assert LAPTOP["name"] in markdown(summary, config)
    page = render_page(summary, config, joined.samples)
    assert LAPTOP["name"] in page
    assert 'id="machines"' in page
    figures = write_figures(tmp_path / "figures", config, joined.samples)
    assert not [path for path in figures if "joules" in path.name]
    grouped = group_by_system(joined.samples, config)
    systems = [System(name, name, config, inside) for name, inside in grouped.items()]
    assert compare(*systems).energy is None
    assert any("not pooled" in note for note in list_differences(systems))
    document = lm_eval_document(systems[0])
    assert document["etui"]["energy"] is None
    assert len(document["etui"]["machines"]) == 2


def test_joules_of_equal_machines_are_pooled_and_given_by_machine():
    joined = merged(parts(2))
    summary = summarise(joined.samples, joined.config)
    assert not [text for text in summary.warnings if "pooled" in text]
    for arm in summary.arms.values():
        assert arm.energy is not None
        assert list(arm.machines or {}) == ["m1", "m2"]
    assert "m2 (Ryzen, 16 CPUs, Linux x86_64)" in headline(summary)


def test_unlike_machines_pool_joules_if_only_equal_ones_answered():
    one, two = parts(2)
    nothing = other_machine(run("idle", [], part=BenchPart(1, 2)))
    joined = merged([one, nothing, two])
    assert [machine.key for machine in joined.config.machines or ()] == ["m1", "m3"]
    assert summarise(joined.samples, joined.config).arms["direct"].energy is not None
    assert "idle adds no answer" in joined.notes


def test_the_first_run_that_answered_a_question_counts():
    one, two = parts(2)
    again = [replace(s, choice=None, correct=False, joules=7.0) for s in two.recorded.samples[:3]]
    joined = merged([one, two, run("again", again)])
    assert joined.duplicates.answers == 3
    assert joined.duplicates.joules == 21.0
    assert any("3 answers" in note and "21.0 J" in note for note in joined.notes)
    reverse = merged([run("again", again), one, two])
    by_key = {s.key: s for s in reverse.samples}
    assert all(by_key[s.key].choice is None for s in again)
    assert reverse.duplicates.joules == pytest.approx(
        sum(s.joules for s in two.recorded.samples[:3])
    )


def test_the_joules_of_unmeasured_duplicates_are_unknown_and_never_0():
    one, two = parts(2)
    again = [replace(two.recorded.samples[0], joules=None, kind=None)]
    joined = merged([one, two, run("again", again)])
    assert joined.duplicates.joules is None
    assert any("unmeasured" in note for note in joined.notes)


@given(st.lists(st.integers(0, 3), min_size=len(ANSWERS) // 4, max_size=len(ANSWERS) // 4))
def test_no_answer_is_lost_or_doubled(owners):
    """Answers spread over four runs, some in two of them."""
    some = ANSWERS[: len(owners)]
    runs = [
        run(
            f"run-{index}",
            [s for s, owner in zip(some, owners, strict=True) if index in (owner, 3 - owner % 2)],
        )
        for index in range(4)
    ]
    joined = merged(runs)
    assert sorted(s.key for s in joined.samples) == sorted(s.key for s in some)
    total = sum(len(r.recorded.samples) for r in runs)
    assert joined.duplicates.answers == total - len(some)
    again = merge_runs(
        [NamedRun(Path("w"), Recorded(joined.config, joined.samples, {})), runs[0]], "v"
    )
    assert {s.key for s in again.samples} == {s.key for s in some}


def test_merged_runs_merge():
    one, two, three, four = parts(4)
    left = merge_runs([one, other_machine(two)], "left")
    right = merge_runs([three, four], "right")
    joined = merged(
        [NamedRun(Path(m.config.run_id), Recorded(m.config, m.samples, {})) for m in (left, right)]
    )
    assert [m.key for m in joined.config.machines or ()] == ["m1", "m2", "m3", "m4"]
    assert [m.name for m in joined.config.machines or ()].count(LAPTOP["name"]) == 1
    assert joined.config.merged == ("part-1", "part-2", "part-3", "part-4")
    assert summarise(joined.samples, joined.config).complete
    assert {s.machine for s in joined.samples} == {"m1", "m2", "m3", "m4"}


def test_versions_may_differ_and_are_named():
    one, two = parts(2)
    newer = other_machine(two, versions={"etui": "0.2.0", "llama_cpp": "0.3.36"}, machine=DESKTOP)
    joined = merged([one, newer])
    assert "etui differs between machines: 0.1.0 (m1), 0.2.0 (m2)" in joined.notes
    assert summarise(joined.samples, joined.config).arms["direct"].energy is None


MODEL = synthetic.MODEL


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": "cloze"}, 'format: part-1 has "letters", other has "cloze"'),
        ({"format_version": 2}, "format_version: part-1 has 1, other has 2"),
        ({"seed": 3}, "seed: part-1 has 0, other has 3"),
        ({"shots": 0}, "shots: part-1 has 5, other has 0"),
        ({"data_sha256": "00"}, "data_sha256: part-1 has"),
        ({"drawn": {"anatomy": 2}}, "questions: part-1 has 114 of 5,700, other has 2 of 5,700"),
        ({"models": (replace(MODEL, sha256="00" * 32),)}, "models.small: part-1 has"),
        ({"models": PLAN.models[::-1]}, "models (order)"),
        ({"arms": {"direct": {"model": "small"}}}, "arms.direct.reasoning: part-1 has"),
        ({"prefix_reuse": False}, "prefix_reuse"),
        ({"order": "balanced", "block": 8}, "order"),
    ],
)
def test_runs_of_another_plan_are_refused_by_name(changes, named):
    one, two = parts(2)
    assert named in refusal(one, two, run("other", [], **changes))


def test_models_in_another_place_in_memory_are_of_one_plan():
    one, two = parts(2)
    on_gpu = tuple(replace(model, gpu_layers=20) for model in PLAN.models)
    assert merged([one, other_machine(two, models=on_gpu)]).config.models == PLAN.models


def test_one_run_and_a_run_twice_are_refused():
    one, two = parts(2)
    assert "only one run" in refusal(one)
    copy = replace(one, folder=Path("copy"))
    assert "part-1 and copy are the same run, part-1" in refusal(one, two, copy)


def test_an_edited_run_is_refused():
    one, two = parts(2)
    edited = replace(two, recorded=replace(two.recorded, edited=("samples.jsonl differs",)))
    with pytest.raises(InvalidFile, match=r"part-2 was changed outside etui: samples\.jsonl"):
        merged([one, edited])


def test_an_answer_of_an_unknown_machine_is_refused():
    one, two = parts(2)
    samples = [replace(two.recorded.samples[0], machine="m9")]
    with pytest.raises(InvalidFile, match="m9"):
        merged([one, run("odd", samples)])


def test_a_comparison_of_machines_is_refused():
    both = {"m1": PLAN, "m2": replace(PLAN, machine=LAPTOP)}
    config = join_machines(PLAN, both, compare=True)
    compared = NamedRun(Path("compared"), Recorded(replace(config, run_id="compared"), (), {}))
    assert "compared compares machines" in refusal(compared, run("other", []))


def test_unfinished_runs_merge_and_empty_ones_too():
    one, two = parts(2)
    joined = merged([one, run("begun", list(two.recorded.samples[:5]))])
    summary = summarise(joined.samples, joined.config)
    assert not summary.complete
    assert any("questions answered" in text for text in summary.warnings)
    empty = merged([run("a", []), run("b", [])])
    assert empty.samples == ()
    assert len(empty.config.machines or ()) == 1


def test_a_merged_run_does_not_resume():
    with pytest.raises(UsageError, match="merged from part-1, part-2"):
        refuse_merged(merged(parts(2)).config)
    refuse_merged(PLAN)


def test_a_run_of_one_machine_has_no_machines():
    summary = summarise(ANSWERS, PLAN)
    assert summary.arms["direct"].machines is None
    assert isinstance(PLAN, RunConfig)
    assert 'id="machines"' not in render_page(summary, PLAN, ANSWERS)
