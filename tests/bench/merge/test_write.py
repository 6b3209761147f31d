"""Parts that were answered, merged and written: equal to the run that was never divided."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.bench.config import BenchPart, RunConfig
from etui.bench.folder import RunFolder, read_run
from etui.bench.formats import FORMATS
from etui.bench.merge import NamedRun, merge_runs, write_merged
from etui.bench.plan import RunPlan, RunRequest, make_plan
from etui.bench.run import SampleWriter, answer_all
from etui.bench.sample import Sample
from etui.bench.schedule import build_schedule
from etui.bench.scoring import ScoringArm
from etui.bench.summary import summarise
from etui.config.config import Config
from etui.energy.types import Energy, Kind
from etui.errors import EtuiError, Stopped, UsageError
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
        shots=plan.shots,
        part=plan.part,
        order=plan.order,
        block=plan.block,
    )


def answer(plan: RunPlan, folder: Path) -> NamedRun:
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
    return NamedRun(folder, read_run(folder))


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
    plan = replace(plan, order=order, block=3 if order == "balanced" else None)
    whole = answer(plan, tmp_path / "whole")
    shards = [
        answer(replace(plan, part=BenchPart(index, 4)), tmp_path / f"shard-{index}")
        for index in range(4)
    ]
    assert {len(shard.recorded.samples) for shard in shards} <= {24, 30, 36}
    written = write_merged(
        merge_runs(shards, "merged"), tmp_path / "merged", config, TurnWriter(config)
    )
    undivided = summarise(whole.recorded.samples, whole.config)
    again = read_run(tmp_path / "merged")
    assert again.edited == ()
    assert (
        again.config.sha256
        == json.loads((tmp_path / "merged/config.json").read_text())["config_sha256"]
    )

    assert content(again.samples, order) == content(whole.recorded.samples, order)
    for name in ARMS:
        one, other = written.summary.arms[name], undivided.arms[name]
        assert one.accuracy == other.accuracy
        if order == "subjects":
            assert one.tokens == other.tokens
        assert one.energy is not None
        assert one.energy.questions == 60
    assert written.summary.complete
    assert (tmp_path / "merged/report.html").is_file()
    with closing(sqlite3.connect(config.home / "etui.db")) as connection:
        rows = connection.execute("SELECT run_id, status, questions FROM runs").fetchall()
        (answers,) = connection.execute(
            "SELECT count(*) FROM answers WHERE run_id = 'merged'"
        ).fetchone()
    assert rows == [("merged", "complete", 60)]
    assert answers == 120


def test_curves_keep_their_machine(plan, config, tmp_path):
    runs = [
        answer(replace(plan, part=BenchPart(index, 2)), tmp_path / f"half-{index}")
        for index in range(2)
    ]
    for run in runs:
        lines = [{"model": "small", "machine": None, "joules": 3.0}, {"machine": "m7"}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.folder / "curves.jsonl").write_text(text + '{"model": "sm')
    write_merged(merge_runs(runs, "w"), tmp_path / "w", config, TurnWriter(config))
    points = [json.loads(line) for line in (tmp_path / "w/curves.jsonl").read_text().splitlines()]
    assert [point["machine"] for point in points] == ["m1", "m2"]


def test_a_log_that_cannot_be_written_does_not_lose_the_run(plan, config, tmp_path):
    runs = [
        answer(replace(plan, part=BenchPart(index, 2)), tmp_path / f"half-{index}")
        for index in range(2)
    ]
    (config.home / "etui.db").mkdir(parents=True)
    seen: list[str] = []
    log = TurnWriter(config, lambda error: seen.append(error.what))
    written = write_merged(merge_runs(runs, "w"), tmp_path / "w", config, log)
    assert written.summary.complete
    assert seen


def test_a_merge_that_is_interrupted_leaves_no_run(plan, config, tmp_path, monkeypatch):
    halves = [
        answer(replace(plan, part=BenchPart(index, 2)), tmp_path / f"half-{index}")
        for index in range(2)
    ]
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


def test_a_merge_into_a_full_disk_says_to_merge_again(plan, config, tmp_path, monkeypatch):
    halves = [
        answer(replace(plan, part=BenchPart(index, 2)), tmp_path / f"half-{index}")
        for index in range(2)
    ]

    def fill(self, samples):
        raise Stopped("the disk is full")

    monkeypatch.setattr(RunFolder, "add_samples", fill)
    with pytest.raises(EtuiError, match=r"the disk of .*w is full") as error:
        write_merged(merge_runs(halves, "w"), tmp_path / "w", config, TurnWriter(config))
    assert error.value.fix == "free some space, and merge again"
    assert not (tmp_path / "w").exists()
