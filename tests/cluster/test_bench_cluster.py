"""A run on scripted nodes: its folder, its machines, its refusals, and how it resumes."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from threading import Event
from types import SimpleNamespace

import pytest

from etui.bench.config import NamedText
from etui.bench.folder import CURVES, RunFolder, read_run
from etui.bench.machines import (
    assign_keys,
    is_comparison,
    join_machines,
    split_system,
    undo_join,
)
from etui.bench.plan import RunPlan, RunRequest, add_precision, make_plan, restore_plan
from etui.bench.run import BenchRunner, run_record
from etui.cluster.bench_cluster import ClusterBench
from etui.cluster.open_nodes import NodeDriver, Patience, name_nodes
from etui.cluster.ray_carrier import ClusterNode
from etui.cluster.tally import CLUSTER, Losses
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.run import RunLimits
from etui.models.catalogue import load_catalogue
from etui.runtime.runtime import open_runtime
from tests.bench import synthetic
from tests.cluster.fake_carrier import FakeCarrier, make_script
from tests.cluster.fake_node import SHA256, WATTS, Behaviour, FakeAnswered, make_model

PATIENCE = Patience(ready=60, opening=60, first=60, least=60, factor=20, stopping=2)
MODEL = "gemma-3-270m"


@dataclass
class Audience:
    lines: list[str] = field(default_factory=list)
    seen: list = field(default_factory=list)

    def say(self, text):
        self.lines.append(text)

    def begin(self, config, folder, samples):
        self.lines.append(f"begin after {len(samples)}")

    def see(self, samples):
        self.seen += samples

    def expect(self, questions):
        self.lines.append(f"about {questions}")


@pytest.fixture
def plan(questions_csv, config, monkeypatch) -> RunPlan:
    # The fake nodes have a file of their own hash; this machine knows none.
    monkeypatch.setattr(ClusterBench, "_known_hashes", lambda self, plan: {MODEL: SHA256})
    return make_plan(
        RunRequest(str(questions_csv), shots=2, models=(MODEL,)), config, load_catalogue(config)
    )


@dataclass
class On:
    """A bench on a cluster; returns how a run ended, with its losses."""

    bench: ClusterBench

    def start(self, *args):
        return SimpleNamespace(run=self.bench.start(*args), losses=self.bench.losses)

    def resume(self, *args):
        return SimpleNamespace(run=self.bench.resume(*args), losses=self.bench.losses)


@dataclass
class Bench:
    runtime: object
    config: object
    progress: Audience = field(default_factory=Audience)
    stopped: Event = field(default_factory=Event)

    def on(self, *scripts, compare=False) -> On:
        # Every command closes the log at its end, so each opens this machine anew.
        self.runtime = open_runtime(self.config)
        carrier = FakeCarrier(scripts)
        return On(
            ClusterBench(
                self.runtime, self.progress, self.stopped, compare=compare,
                driver=NodeDriver(
                    carrier, self.progress.say, self.stopped.is_set, PATIENCE, carrier.now
                ),
            )
        )  # fmt: skip

    def plan_again(self, run):
        return restore_plan(run, self.config, load_catalogue(self.config))


@pytest.fixture
def bench(config):
    return Bench(None, config)


def keys(folder):
    return sorted(sample.key for sample in read_run(folder).samples)


def count_answers(folder):
    return Counter(sample.machine for sample in read_run(folder).samples)


def test_nodes_share_a_run(plan, bench, tmp_path):
    out = tmp_path / "run"
    found = bench.on(make_script("Desk.example"), make_script("laptop")).start(plan, out)
    run = found.run
    assert (run.ending, run.summary.complete, len(run.samples)) == ("complete", True, 6)
    recorded = read_run(out)
    assert recorded.edited == ()
    assert [machine.key for machine in recorded.config.machines] == ["m1", "m2"]
    assert {sample.machine for sample in recorded.samples} == {"m1", "m2"}
    assert "m1 is desk: A processor" in bench.progress.lines
    assert "desk" not in (out / "config.json").read_text()  # a run can be published
    assert recorded.config.models[0].sha256 == SHA256
    assert found.losses == Losses()
    document = json.loads((out / CLUSTER).read_text())
    assert document["wasted"]["wasted_joules"] == 0
    assert list(document["machines"]) == ["m1", "m2"]
    assert (out / "report.html").exists()
    assert bench.progress.seen == list(recorded.samples)


def test_the_samples_and_the_summary_are_those_of_one_node(plan, bench, tmp_path):
    one = bench.on(make_script("a")).start(plan, tmp_path / "one")
    two = bench.on(make_script("a", "say", "die"), make_script("b")).start(plan, tmp_path / "two")
    assert keys(tmp_path / "one") == keys(tmp_path / "two")
    accuracy = [
        {name: arm.accuracy for name, arm in found.run.summary.arms.items()} for found in (one, two)
    ]
    assert accuracy[0] == accuracy[1]
    assert two.losses.lost_tries == 1


def test_nodes_are_compared_as_systems(plan, bench, tmp_path):
    out = tmp_path / "run"
    slow = make_script("slow", behaviour=Behaviour(memory_bytes=1 << 30))
    found = bench.on(make_script("quick"), slow, compare=True).start(plan, out)
    recorded = read_run(out)
    assert recorded.config.contenders == (f"{MODEL}@m1", f"{MODEL}@m2")
    assert len(recorded.samples) == 12
    for sample in recorded.samples:
        assert split_system(sample.arm) == (MODEL, sample.machine)
    assert found.run.summary.complete
    assert list(found.run.summary.arms) == [f"{MODEL}@m1", f"{MODEL}@m2"]
    for arm in found.run.summary.arms.values():
        assert arm.energy is not None  # each system is on one machine, so its joules add up
        assert arm.energy.per_correct is not None
    assert not any("not pooled" in warning for warning in found.run.summary.warnings)
    row = run_record(recorded.config, out, recorded.samples, "complete")
    assert row["joules"] is None  # a sum over unlike machines would be no figure of anything


def test_unlike_machines_that_share_a_run_pool_no_joules(plan, bench, tmp_path):
    small = make_script("small", behaviour=Behaviour(memory_bytes=1 << 30))
    found = bench.on(make_script("large"), small).start(plan, tmp_path / "run")
    (arm,) = found.run.summary.arms.values()
    assert arm.energy is None
    assert set(arm.machines) == {"m1", "m2"}
    assert all(each.energy is not None for each in arm.machines.values())


def test_a_run_resumes_with_other_nodes(plan, bench, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped) as stopped:
        bench.on(make_script("a", "say", "say", "gone")).start(plan, out)
    assert "no node can answer" in stopped.value.what
    assert stopped.value.fix == f"resume with: etui bench --resume {out}"
    assert len(keys(out)) == 2
    b = make_script("b", behaviour=Behaviour(memory_bytes=1 << 30))
    found = bench.on(b).resume(out, bench.plan_again)
    assert found.run.ending == "complete"
    assert len(keys(out)) == len(set(keys(out))) == 6
    assert read_run(out).edited == ()
    assert [machine.key for machine in read_run(out).config.machines] == ["m1", "m2"]
    assert found.losses.lost_tries == 1  # that of the first part
    assert count_answers(out) == {"m1": 2, "m2": 4}


def test_an_equal_machine_keeps_its_key(plan, bench, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        bench.on(make_script("a", "say", "gone")).start(plan, out)
    bench.on(make_script("other")).resume(out, bench.plan_again)
    assert [machine.key for machine in read_run(out).config.machines] == ["m1"]


class Local(BenchRunner):
    """A run on this machine without a model."""

    memory_bytes = 8 << 30

    def configure(self, plan, run_id):
        from etui.bench.setup import build_run_config

        made = build_run_config(plan, run_id, (), self.runtime.config, self.runtime.recorder, None)
        machine = {"name": "A processor", "memory_bytes": self.memory_bytes}
        return replace(
            made, models=(make_model(MODEL, SHA256),), machine=machine,
            energy={"channels": {"package:0": "counter"}},
        )  # fmt: skip

    def build_systems(self, plan):
        @dataclass
        class Answerer:
            name: str

            def answer(self, work):
                for question in work.questions:
                    if question.row not in work.done:
                        yield FakeAnswered(self.name, question.subject, question.row, 0, 10)

        return {name: Answerer(name) for name in plan.arms}


@pytest.fixture
def local(bench):
    def resume(folder, **changes):
        runtime = open_runtime(bench.config)
        runner = type("Local", (Local,), changes)(runtime, bench.progress, Event())
        with runtime:
            return runner.resume(folder, bench.plan_again)

    return resume


def test_a_cluster_run_resumes_on_one_machine(plan, bench, local, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        bench.on(make_script("a", "say", "say", "gone")).start(plan, out)
    found = local(out, memory_bytes=1 << 30)
    assert found.ending == "complete"
    recorded = read_run(out)
    assert recorded.edited == ()
    assert len(keys(out)) == len(set(keys(out))) == 6
    assert [machine.key for machine in recorded.config.machines] == ["m1", "m2"]
    assert [sample.machine for sample in recorded.samples] == ["m1"] * 2 + ["m2"] * 4


def test_a_comparison_resumes_only_on_its_machines(plan, bench, local, tmp_path):
    out = tmp_path / "run"
    slow = make_script("slow", "say", "gone", behaviour=Behaviour(memory_bytes=1 << 30))
    quick = make_script("quick", "say", "say", "gone")
    with pytest.raises(Stopped):
        bench.on(quick, slow, compare=True).start(plan, out)
    with pytest.raises(UsageError, match="compares m1, m2, and this machine is none of them"):
        local(out, memory_bytes=4 << 30)
    with pytest.raises(UsageError, match="no node of this cluster is one of them"):
        bench.on(make_script("new", behaviour=Behaviour(memory_bytes=2 << 30))).resume(
            out, bench.plan_again
        )
    found = local(out)
    assert found.ending == "stopped"  # those of the other machine are left
    counted = [sample.machine for sample in read_run(out).samples]
    assert (counted.count("m1"), counted.count("m2")) == (6, 1)
    again = make_script("slow", behaviour=Behaviour(memory_bytes=1 << 30))
    whole = bench.on(again).resume(out, bench.plan_again)
    assert whole.run.ending == "complete"
    assert len(keys(out)) == len(set(keys(out))) == 12


def test_a_run_of_one_machine_is_not_resumed_on_a_cluster(plan, bench, tmp_path):
    runtime = open_runtime(bench.config)
    with runtime:
        Local(runtime, bench.progress, Event()).start(plan, tmp_path / "one")
    with pytest.raises(UsageError, match="was started on one machine"):
        bench.on(make_script("a")).resume(tmp_path / "one", bench.plan_again)


def test_a_merged_run_is_not_resumed_on_a_cluster(plan, bench, tmp_path):
    out = tmp_path / "merged"
    planned = synthetic.config(merged=("one", "two"))
    RunFolder.start(out, join_machines(planned, {"m1": planned}, compare=False)).close()
    with pytest.raises(UsageError, match="was merged from one, two, and answers nothing itself"):
        bench.on(make_script("a")).resume(out, bench.plan_again)


def test_a_crash_of_the_driver_leaves_the_losses_and_the_answers(
    plan, bench, tmp_path, monkeypatch
):
    out = tmp_path / "run"

    def crash(samples):
        bench.progress.seen += samples
        if len(bench.progress.seen) == 4:
            raise KeyboardInterrupt  # as kill -9 would, nothing is counted after it

    monkeypatch.setattr(bench.progress, "see", crash)
    with pytest.raises(KeyboardInterrupt):
        bench.on(make_script("a", "say", "say", "die")).start(plan, out)
    left = json.loads((out / CLUSTER).read_text())
    assert left["running"] == ["m1"]
    assert left["wasted"]["lost_tries"] == 1
    monkeypatch.undo()
    monkeypatch.setattr(ClusterBench, "_known_hashes", lambda self, plan: {MODEL: SHA256})
    found = bench.on(make_script("a")).resume(out, bench.plan_again)
    assert found.run.ending == "complete"
    document = json.loads((out / CLUSTER).read_text())
    assert count_answers(out) == {"m1": 6}
    # Nobody knows what the node spent on the question that it was answering.
    assert (document["wasted"]["lost_tries"], document["wasted"]["lost_questions"]) == (2, 1)
    assert document["wasted"]["wasted_joules"] is None
    assert document["running"] == []


def test_a_part_without_the_cluster_leaves_the_losses(plan, bench, local, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        bench.on(make_script("a", "say", "say", "gone")).start(plan, out)
    lines = (out / CLUSTER).read_text()
    local(out, memory_bytes=1 << 30)
    assert (out / CLUSTER).read_text() == lines
    found = bench.on(make_script("a")).resume(out, bench.plan_again)
    assert count_answers(out) == {"m1": 2, "m2": 4}
    assert json.loads((out / CLUSTER).read_text())["machines"].keys() == {"m1", "m2"}
    assert len(found.run.samples) == 6


def test_a_full_disk_stops_a_run_that_resumes(plan, bench, tmp_path, monkeypatch):
    out = tmp_path / "run"
    append, kept = RunFolder.add_samples, []

    def fill(self, samples):
        if len(kept) == 3:
            raise Stopped("the disk is full", "free some space")
        kept.append(samples)
        append(self, samples)

    monkeypatch.setattr(RunFolder, "add_samples", fill)
    with pytest.raises(Stopped, match="the disk is full"):
        bench.on(make_script("a"), make_script("b")).start(plan, out)
    assert json.loads((out / CLUSTER).read_text())["running"] == []
    assert len(keys(out)) == len(bench.progress.seen) == 3
    monkeypatch.setattr(RunFolder, "add_samples", append)
    found = bench.on(make_script("a"), make_script("b")).resume(out, bench.plan_again)
    assert found.run.ending == "complete"
    assert len(keys(out)) == len(set(keys(out))) == 6


def test_another_plan_is_not_resumed(plan, bench, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        bench.on(make_script("a", "say", "gone")).start(plan, out)
    other = make_script("a", behaviour=Behaviour(sha256="cd" * 32))
    with pytest.raises(UsageError, match="sha256 cdcdcdcdcdcd there, here abababababab"):
        bench.on(other).resume(out, bench.plan_again)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (
            Behaviour(sha256="cd" * 32),
            "node b: gemma-3-270m has sha256 cdcdcdcdcdcd there, here abababababab",
        ),
        (
            Behaviour(data_sha256="cd" * 32),
            "node b: the data of sums has sha256 cdcdcdcdcdcd there",
        ),
        (Behaviour(open_error="no file"), "node b: no file"),
    ],
)
def test_nodes_that_differ_are_refused_by_name(plan, bench, tmp_path, behaviour, message):
    with pytest.raises(EtuiError) as error:
        bench.on(make_script("a"), make_script("b", behaviour=behaviour)).start(
            plan, tmp_path / "run"
        )
    assert message in error.value.what
    assert error.value.fix
    assert not (tmp_path / "run").exists()


def test_other_versions_are_refused_by_name(plan, bench, tmp_path, monkeypatch):
    monkeypatch.setattr("etui.cluster.node.read_versions", lambda: {"etui": "0.2.0"})
    with pytest.raises(UsageError, match=r"^node b has etui 0\.2\.0, here .*, Ray unknown, here"):
        bench.on(make_script("b")).start(plan, tmp_path / "run")


def test_a_hash_unknown_here_is_compared_between_nodes(plan, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(ClusterBench, "_known_hashes", lambda self, plan: {MODEL: None})
    other = make_script("b", behaviour=Behaviour(sha256="cd" * 32))
    with pytest.raises(
        UsageError, match=r'nodes differ: models.gemma-3-270m is "abab.* on a and "cdcd.* on b'
    ):
        bench.on(make_script("a"), other).start(plan, tmp_path / "run")


def test_a_node_that_is_never_ready_is_left_out(plan, bench, tmp_path):
    found = bench.on(make_script("a"), make_script("b", ready=False)).start(plan, tmp_path / "run")
    assert found.run.ending == "complete"
    assert [machine.key for machine in found.run.config.machines] == ["m1"]
    assert any("node b was silent for 1 min" in line for line in bench.progress.lines)


def test_without_a_ready_node_there_is_no_run(plan, bench, tmp_path):
    with pytest.raises(EtuiError, match="no node of the cluster is ready: node b was silent"):
        bench.on(make_script("b", ready=False)).start(plan, tmp_path / "run")
    with pytest.raises(EtuiError, match="no node with a CPU"):
        bench.on().start(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stop_before_the_first_question_leaves_no_run(plan, bench, tmp_path):
    bench.stopped.set()
    with pytest.raises(Stopped, match="before the first question"):
        bench.on(make_script("a")).start(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stop_does_not_wait_for_a_node_that_loads_for_long(plan, bench, tmp_path):
    script = make_script("a", ready=False)
    found = bench.on(script)
    bench.stopped.set()
    with pytest.raises(EtuiError):
        found.start(plan, tmp_path / "run")
    assert script.stops == 1
    assert found.bench.driver.now() < PATIENCE.stopping + 1


def test_joules_stop_a_run_that_resumes(plan, bench, tmp_path):
    out = tmp_path / "run"
    found = bench.on(make_script("a")).start(plan, out, RunLimits(joules=1e-12))
    assert found.run.ending == "joules"
    assert 0 < len(keys(out)) < 6
    assert bench.on(make_script("a")).resume(out, bench.plan_again).run.ending == "complete"
    assert len(keys(out)) == len(set(keys(out))) == 6


def test_a_policy_cannot_be_compared(plan, bench, tmp_path):
    routed = replace(plan, policy=SimpleNamespace(name="mine"))
    with pytest.raises(UsageError, match="--compare cannot be used with a policy"):
        bench.on(make_script("a"), compare=True).start(routed, tmp_path / "run")


def test_machines_are_named_by_their_hosts():
    hosts = ("Desk.home", "desk.work", "Laptop", "...", "Große Kiste")
    nodes = [ClusterNode(str(at), host, 1.0) for at, host in enumerate(hosts)]
    assert list(name_nodes(nodes)) == ["node", "desk", "gro-e-kiste", "laptop", "desk-2"]


def test_a_joined_configuration_comes_apart_again():
    plan = synthetic.config()
    found = {"x": plan, "y": replace(plan, machine={"name": "B", "memory_bytes": 1})}
    for compare in (False, True):
        joined = join_machines(plan, found, compare=compare)
        assert is_comparison(joined) == compare
        assert undo_join(joined) == plan
        assert undo_join(joined).plan_sha256 == plan.plan_sha256
    assert joined.contenders[:2] == ("direct@x", "direct@y")


def test_machines_of_a_continuation_get_their_keys_back():
    plan = synthetic.config(machine={"name": "A", "memory_bytes": 8 << 30})
    other = replace(plan, machine={"name": "B", "memory_bytes": 8 << 30})
    before = join_machines(plan, {"m1": plan, "m2": plan, "m3": other}, compare=False).machines
    third = replace(plan, machine={"name": "C", "memory_bytes": 8 << 30})
    found = {"x": other, "y": plan, "z": third, "w": plan, "v": plan}
    assigned = assign_keys(before, found)
    assert {name: machine.key for name, machine in assigned.items()} == {
        "x": "m3", "y": "m1", "z": "m4", "w": "m2", "v": "m5",
    }  # fmt: skip


def read_joules(folder):
    return [(sample.machine, sample.joules) for sample in read_run(folder).samples]


def test_nodes_of_one_host_are_charged_its_joules_once(plan, bench, tmp_path):
    began = time.monotonic()
    behaviour = Behaviour(seconds=0.02)
    scripts = [make_script(name, host="one", behaviour=behaviour) for name in ("a", "b")]
    bench.on(*scripts).start(plan, tmp_path / "run")
    whole = WATTS * (time.monotonic() - began)
    found = read_joules(tmp_path / "run")
    assert {machine for machine, _ in found} == {"m1", "m2"}
    assert sum(joules for _, joules in found) <= whole
    assert any(
        "a and b are on one host: they share its meter" in line for line in bench.progress.lines
    )


def test_machines_that_share_a_meter_are_not_compared(plan, bench, tmp_path):
    scripts = [make_script("a", host="one"), make_script("b", host="one"), make_script("c")]
    found = bench.on(*scripts, compare=True).start(plan, tmp_path / "run")
    assert found.run.config.contenders == (f"{MODEL}@m1", f"{MODEL}@m2")
    assert "node b is left out: it shares the meter of a, on one host" in bench.progress.lines


def test_a_run_on_nodes_stops_at_a_precision_and_resumes(bench, tmp_path, config, monkeypatch):
    monkeypatch.setattr(ClusterBench, "_known_hashes", lambda self, plan: {MODEL: SHA256})
    questions = tmp_path / "many.csv"
    questions.write_text("".join(f"Q{n}?,a,b,c,d,A,s{n % 3}\n" for n in range(600)))
    request = RunRequest(str(questions), shots=0, models=(MODEL,))
    plan = add_precision(make_plan(request, config, load_catalogue(config)), 4.0)
    whole = bench.on(make_script("a"), make_script("b")).start(plan, tmp_path / "whole")
    assert whole.run.ending == "precise"
    out = tmp_path / "cut"
    with pytest.raises(Stopped):
        bench.on(make_script("a", *["say"] * 30, "gone")).start(plan, out)
    again = bench.on(make_script("a"), make_script("b", "say", "die")).resume(out, bench.plan_again)
    assert again.run.ending == "precise"
    assert keys(out) == keys(tmp_path / "whole")
    assert again.run.summary.precision == whole.run.summary.precision
    assert 30 < len(keys(out)) < 600


def test_the_curves_of_a_design_are_measured_on_the_nodes(plan, bench, tmp_path):
    text = "version: 1\n"
    designed = plan.change(design=NamedText("mine", text))
    out = tmp_path / "run"
    alone, shared = make_script("a"), [make_script(name, host="one") for name in ("b", "c")]
    bench.on(alone, *shared).start(designed, out)
    assert {sample.machine for sample in read_run(out).samples} == {"m1", "m2"}
    lines = [json.loads(line) for line in (out / CURVES).read_text().splitlines()]
    assert {line["machine"] for line in lines} == {"m1"}  # the others share a meter
    assert alone.actor._machine.finished == 1
