"""Joining runs of one plan: what belongs together, what counts, and whose joules are pooled."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.compare import System, compare, list_differences
from etui.bench.config import BenchPart, RunConfig, list_part
from etui.bench.figures import write_figures
from etui.bench.folder import Recorded, RunFolder, read_run
from etui.bench.formats import FORMATS
from etui.bench.lm_eval import lm_eval_document
from etui.bench.machines import join_machines
from etui.bench.merge import merge_runs, write_merged
from etui.bench.page import render_page
from etui.bench.plan import RunPlan, RunRequest, make_plan
from etui.bench.run import SampleWriter, answer_all, refuse_merged, run_record
from etui.bench.sample import Sample
from etui.bench.schedule import build_schedule
from etui.bench.scoring import ScoringArm
from etui.bench.summary import group_by_system, summarise
from etui.bench.summary_text import headline, markdown
from etui.config.config import Config
from etui.energy.types import Energy, Kind
from etui.errors import EtuiError, InvalidFile, Stopped, UsageError
from etui.log.writer import TurnWriter
from etui.measure.folder import list_folders
from etui.measure.run import RunLimits
from etui.models.catalogue import load_catalogue
from tests.bench import synthetic
from tests.bench.fake_engine import FakeSession

ARMS = ("letters", "again")


class Meter:
    """Joules in proportion to time."""

    def settle(self, end_ns: int) -> None:
        pass

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        joules = (end_ns - start_ns) / 1e6
        return Energy(start_ns, end_ns, joules, 0.1 * joules, Kind.COUNTER, 1.0)


@pytest.fixture
def plan(config: Config) -> RunPlan:
    made = make_plan(RunRequest("sample", shots=2), config, load_catalogue(config))
    arm = next(iter(made.arms.values()))
    return replace(made, arms={name: replace(arm, name=name) for name in ARMS})


def configure(plan: RunPlan, run_id: str) -> RunConfig:
    return replace(
        synthetic.config(arms=ARMS, machine={"name": "a cpu, 2 CPUs", "memory_bytes": 1 << 30}),
        run_id=run_id,
        suite="sample",
        data_path="/nowhere/on/this/machine",
        sizes=plan.suite.sizes,
        drawn={subject: len(rows) for subject, rows in plan.drawn.items()},
        shots=plan.config.shots,
        part=plan.config.part,
        order=plan.config.order,
        block=plan.config.block,
    )


def answer(plan: RunPlan, folder: Path) -> Recorded:
    """Answer a plan as a run does, with a model of characters."""

    def build(name: str) -> ScoringArm:
        session = FakeSession()
        return ScoringArm(name, lambda: session, FORMATS["letters"], reuse=True)

    systems = {name: build(name) for name in ARMS}
    with RunFolder.start(folder, configure(plan, folder.name)) as opened:
        sink = SampleWriter(opened, Meter(), lambda samples: None, 0.0)
        check = RunLimits().start(lambda: False)
        assert (
            answer_all(plan, build_schedule(plan, systems), systems, {}, sink, check) == "complete"
        )
        sink.close()
    return read_run(folder)


def content(samples: Sequence[Sample], order: str) -> dict[tuple[str, str, int], object]:
    """What was answered; a subject that blocks divide reads its examples more often."""
    left_out = {"machine", "seconds", "joules", "uncertainty", "prefill_joules", "decode_joules"}
    left_out |= {"prefix_tokens", "tokens"} if order == "balanced" else set()
    found = {}
    for sample in samples:
        document = {k: v for k, v in sample.to_json().items() if k not in left_out}
        found[sample.key] = document
    return found


@pytest.mark.parametrize("order", ["subjects", "balanced"])
def test_four_shards_are_the_undivided_run(plan, config, tmp_path, order):
    plan = plan.change(order=order, block=3 if order == "balanced" else None)
    whole = answer(plan, tmp_path / "whole")
    shards = [
        answer(plan.change(part=BenchPart(index, 4)), tmp_path / f"shard-{index}")
        for index in range(4)
    ]
    assert {len(shard.samples) for shard in shards} <= {24, 30, 36}
    summary = write_merged(
        merge_runs(shards, "merged"), tmp_path / "merged", config, TurnWriter(config)
    )
    undivided = summarise(whole.samples, whole.config)
    again = read_run(tmp_path / "merged")
    assert again.edited == ()
    assert (
        again.config.sha256
        == json.loads((tmp_path / "merged/config.json").read_text())["config_sha256"]
    )

    assert content(again.samples, order) == content(whole.samples, order)
    for name in ARMS:
        one, other = summary.arms[name], undivided.arms[name]
        assert one.accuracy == other.accuracy
        if order == "subjects":
            assert one.tokens == other.tokens
        assert one.energy.questions == 60
    assert summary.complete
    assert (tmp_path / "merged/report.html").is_file()
    with closing(sqlite3.connect(config.home / "etui.db")) as connection:
        rows = connection.execute("SELECT run_id, status, questions FROM runs").fetchall()
        (answers,) = connection.execute(
            "SELECT count(*) FROM answers WHERE run_id = 'merged'"
        ).fetchone()
    assert rows == [("merged", "complete", 60)]
    assert answers == 120


@pytest.fixture
def halves(plan, tmp_path) -> list[Recorded]:
    return [
        answer(plan.change(part=BenchPart(index, 2)), tmp_path / f"half-{index}")
        for index in range(2)
    ]


def test_curves_keep_their_machine(halves, config, tmp_path):
    for run in halves:
        lines = [{"model": "small", "machine": None, "joules": 3.0}, {"machine": "m7"}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.folder / "curves.jsonl").write_text(text + '{"model": "sm')
    write_merged(merge_runs(halves, "w"), tmp_path / "w", config, TurnWriter(config))
    points = [json.loads(line) for line in (tmp_path / "w/curves.jsonl").read_text().splitlines()]
    assert [point["machine"] for point in points] == ["m1", "m2"]


def test_a_log_that_cannot_be_written_does_not_lose_the_run(halves, config, tmp_path):
    (config.home / "etui.db").mkdir(parents=True)
    seen: list[str] = []
    log = TurnWriter(config, seen.append)
    summary = write_merged(merge_runs(halves, "w"), tmp_path / "w", config, log)
    assert summary.complete
    assert seen


def test_a_merge_that_is_interrupted_leaves_no_run(halves, config, tmp_path, monkeypatch):
    write, runs = RunFolder.write, tmp_path / "runs"
    seen = []

    def die(self, name, text):
        seen.extend(list_folders(runs))
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write", die)
    with pytest.raises(KeyboardInterrupt):
        write_merged(merge_runs(halves, "w"), runs / "w", config, TurnWriter(config))
    assert seen == []  # nor does a list of runs, such as that behind `last`, find it meanwhile
    assert list(runs.iterdir()) == []
    monkeypatch.setattr(RunFolder, "write", write)
    write_merged(merge_runs(halves, "w"), runs / "w", config, TurnWriter(config))
    assert len(read_run(runs / "w").samples) == 120
    with pytest.raises(UsageError, match="already contains a run"):
        write_merged(merge_runs(halves, "w"), runs / "w", config, TurnWriter(config))


def test_a_merge_into_a_full_disk_says_to_merge_again(halves, config, tmp_path, monkeypatch):

    def fill(self, samples):
        raise Stopped("the disk is full")

    monkeypatch.setattr(RunFolder, "add_samples", fill)
    with pytest.raises(EtuiError, match=r"the disk of .*w is full") as error:
        write_merged(merge_runs(halves, "w"), tmp_path / "w", config, TurnWriter(config))
    assert error.value.fix == "free some space, and merge again"
    assert not (tmp_path / "w").exists()


DESKTOP = {"name": "Ryzen, 16 CPUs, Linux x86_64", "memory_bytes": 64 << 30}
LAPTOP = {"name": "Core, 8 CPUs, Linux x86_64", "memory_bytes": 16 << 30}

PLAN = synthetic.config(("direct", "think"), per_subject=2, machine=DESKTOP)
ANSWERS = synthetic.samples(PLAN)


def run(name: str, samples: list[Sample], **changes) -> Recorded:
    config = replace(PLAN, run_id=name, **changes)
    return Recorded(config, tuple(samples), {}, folder=Path(name))


def parts(count: int, **changes) -> list[Recorded]:
    found = []
    for index in range(count):
        part = BenchPart(index, count)
        asked = list_part(PLAN.drawn, PLAN.order, PLAN.block, PLAN.seed, part)
        inside = [s for s in ANSWERS if s.row in asked.get(s.subject, ())]
        found.append(run(f"part-{index + 1}", inside, part=part, **changes))
    return found


def other_machine(named: Recorded, **changes) -> Recorded:
    config = replace(named.config, **({"machine": LAPTOP} | changes))
    return replace(named, config=config)


def merged(runs):
    return merge_runs(runs, "whole")


def refusal(*runs: Recorded) -> str:
    with pytest.raises(UsageError) as caught:
        merged(runs)
    return str(caught.value.what)


def test_joules_of_unlike_machines_are_given_by_machine_only(tmp_path, drawn_figures):
    one, two = parts(2)
    joined = merged([one, other_machine(two, threads=3)])
    config = joined.config
    summary = summarise(joined.samples, config)
    for name, arm in summary.arms.items():
        assert arm.energy is None
        assert arm.accuracy == summarise(ANSWERS, PLAN).arms[name].accuracy
        assert sum(machine.questions for machine in arm.machines.values()) == PLAN.questions
        assert {machine.group for machine in arm.machines.values()} == {0, 1}
        costs = [machine.energy for machine in arm.machines.values()]
        assert all(cost is not None and cost.per_question.low is not None for cost in costs)
        total = math.fsum(cost.joules for cost in costs if cost is not None)
        assert total == pytest.approx(sum(s.joules for s in ANSWERS if s.arm == name))
    assert summary.hull == []
    assert summary.oracle.joules_per_question is None
    (warning,) = [text for text in summary.warnings if "not pooled" in text]
    assert "m1 and m2 differ in the processor or the system, the memory and the threads" in warning
    assert run_record(config, tmp_path, joined.samples, "complete", summary)["joules"] is None
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


def test_unlike_machines_pool_joules_if_only_equal_ones_answered():
    one, two = parts(2)
    nothing = other_machine(run("idle", [], part=BenchPart(1, 2)))
    joined = merged([one, nothing, two])
    assert [machine.key for machine in joined.config.machines or ()] == ["m1", "m3"]
    assert summarise(joined.samples, joined.config).arms["direct"].energy is not None
    assert "idle adds no answer" in joined.notes


def test_the_first_run_that_answered_a_question_counts():
    one, two = parts(2)
    again = [replace(s, choice=None, correct=False, joules=7.0) for s in two.samples[:3]]
    joined = merged([one, two, run("again", again)])
    assert len(joined.dropped) == 3
    assert any("3 answers" in note and "21.0 J" in note for note in joined.notes)
    reverse = merged([run("again", again), one, two])
    by_key = {s.key: s for s in reverse.samples}
    assert all(by_key[s.key].choice is None for s in again)
    assert reverse.dropped == tuple(two.samples[:3])


def test_the_joules_of_unmeasured_duplicates_are_unknown_and_never_0():
    one, two = parts(2)
    again = [replace(two.samples[0], joules=None, kind=None)]
    joined = merged([one, two, run("again", again)])
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
    total = sum(len(r.samples) for r in runs)
    assert len(joined.dropped) == total - len(some)
    again = merge_runs([Recorded(joined.config, joined.samples, {}), runs[0]], "v")
    assert {s.key for s in again.samples} == {s.key for s in some}


def test_merged_runs_merge():
    one, two, three, four = parts(4)
    left = merge_runs([one, other_machine(two)], "left")
    right = merge_runs([three, four], "right")
    joined = merged([Recorded(m.config, m.samples, {}) for m in (left, right)])
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


def test_an_answer_of_an_unknown_machine_is_refused():
    one, two = parts(2)
    samples = [replace(two.samples[0], machine="m9")]
    with pytest.raises(InvalidFile, match="m9"):
        merged([one, run("odd", samples)])


def test_a_comparison_of_machines_is_refused():
    both = {"m1": PLAN, "m2": replace(PLAN, machine=LAPTOP)}
    config = join_machines(PLAN, both, compare=True)
    compared = Recorded(replace(config, run_id="compared"), (), {}, folder=Path("compared"))
    assert "compared compares machines" in refusal(compared, run("other", []))


def test_unfinished_runs_merge_and_empty_ones_too():
    one, two = parts(2)
    joined = merged([one, run("begun", list(two.samples[:5]))])
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
