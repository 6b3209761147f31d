"""``--cluster`` as a user meets it: what is refused, and what the nodes are asked to run."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest

from etui.calibration.grid import QUICK
from etui.cli import cluster as cluster_command
from etui.cluster.messages import Failed, Measured, Measurement
from etui.errors import Stopped
from etui.log.queries import LogReader
from etui.measure.progress import Progress
from etui.sweep.folder import SweepFolder
from tests.log.test_curve_rows import CURVE
from tests.sweep.values import CONFIG, make_block


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("bench", "--suite", "sample", "--compare"), "--compare has no effect without", 2),
        (("bench", "--suite", "sample", "--shard"), "--shard has no effect without", 2),
        (("bench", "--suite", "sample", "--node-timeout", "5"), "--node-timeout has no effect", 2),
        (("bench", "--suite", "sample", "--cluster", "ray://x:1"), "is a URL", 2),
        (("bench", "--suite", "sample", "--cluster", "a b"), "not an address", 2),
        (("bench", "--suite", "sample", "--cluster", "192.0.2.1:6379"), "no token of Ray", 2),
        (("bench", "--resume", "x", "--cluster", "local", "--compare"), "--compare cannot be", 2),
        (("calibrate", "smollm2-135m", "--cluster", "a b"), "not an address", 2),
        (("calibrate", "smollm2-135m", "--cluster", "local", "--from-log"), "measures nothing", 2),
        (("sweep", "smollm2-135m", "--cluster", "a b"), "not an address", 2),
        (("sweep", "smollm2-135m", "--cluster", "local", "--apply"), "--apply cannot be used", 2),
        (("sweep", "smollm2-135m", "--cluster", "local", "--dry-run"), "--dry-run cannot be", 2),
        (("sweep", "--list", "--cluster", "local"), "--cluster cannot be used with --list", 2),
        (
            ("sweep", "m", "--cluster", "local", "--axis", "power_limit=1,2", "--cap", "user"),
            "--cap user asks a person",
            2,
        ),
    ],
)
def test_what_is_refused(cli, words, message, code, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    err = cli.err(*words, code=code)
    assert message in err, err


def test_without_ray_the_pip_line_is_shown(cli, monkeypatch):
    monkeypatch.setattr("etui.extras.find_spec", lambda name: None)
    err = cli.err("bench", "--suite", "sample", "--cluster", "local", code=2)
    assert "pip install 'etui[cluster]'" in err


def test_a_dry_run_needs_no_cluster(cli, starter_model, monkeypatch):
    monkeypatch.setenv("ETUI_MODELS", str(starter_model.parent))
    out = cli.run(
        "bench", "--suite", "sample", "-m", "smollm2-135m", "--cluster", "192.0.2.1:1", "--dry-run"
    ).out
    assert "tokens to compute" in out


@pytest.mark.parametrize(
    "words",
    [
        ("--design", "quick", "--node-timeout", "60"),
        ("--suite", "sample", "-m", "smollm2-135m", "--precision", "5"),
    ],
)
def test_designs_and_precisions_reach_the_nodes(cli, starter_model, monkeypatch, words):
    monkeypatch.setenv("ETUI_MODELS", str(starter_model.parent))
    plans = []

    def reach(runner, options, limits, plan):
        plans.append(plan)
        raise Stopped("reached")

    monkeypatch.setattr("etui.cli.cluster.bench_on_cluster", reach)
    cli.err("bench", *words, "--cluster", "local", code=3)
    (plan,) = plans
    assert plan.config.design or plan.config.precision


class FakeCluster:
    """Nodes that have measured with these results."""

    def __init__(self, monkeypatch, **results):
        self.asked = None
        monkeypatch.setattr(cluster_command, "open_carrier", self.open)
        monkeypatch.setattr("etui.cluster.open_nodes.NodeDriver.measure", self.measure)
        self.results = results

    @contextmanager
    def open(self, address):
        yield None

    def measure(self, asked, hear):
        self.asked = asked
        for name in self.results:
            fields = {"done": 1, "points": 8}
            hear(name, Progress("m: 1 of 8 points", event="measured", fields=fields))
        return self.results


def make_curve(curve_id):
    return replace(CURVE, model="m", curve_id=curve_id)


def test_a_calibration_saves_the_curve_of_each_node(cli, monkeypatch, config):
    cluster = FakeCluster(
        monkeypatch,
        desk=Measured(True, make_curve("c1")),
        laptop=Failed("nothing can be measured on this machine", "see doctor", 1),
    )
    asked = ("calibrate", "m", "--quick", "--force", "--cluster", "local")
    out, err = cli.run(*asked, code=1)
    assert cluster.asked == Measurement("m", QUICK, force=True, fresh=False)
    assert out.startswith("desk: m on ")
    assert "desk: m: 1 of 8 points" in err
    assert "node laptop: nothing can be measured on this machine see doctor" in err
    with LogReader(config) as log:
        assert [curve.curve_id for curve in log.curves("m")] == ["c1"]
    cli.run(
        "calibrate", "m", "--cluster", "local", code=1
    )  # the same curve again, as from a node here
    with LogReader(config) as log:
        assert len(log.curves("m")) == 1


def test_a_calibration_prints_documents(cli, monkeypatch):
    FakeCluster(
        monkeypatch,
        desk=Measured(True, make_curve("c1")),
        laptop=Measured(False, make_curve("c2")),
    )
    out, err = cli.run("calibrate", "m", "--cluster", "local", "--json", code=3)
    curves = json.loads(out)["curves"]
    assert [(each["node"], each["status"]) for each in curves] == [
        ("desk", "complete"), ("laptop", "stopped"),
    ]  # fmt: skip
    assert "stopped on laptop before the end" in err
    out = cli.out("calibrate", "m", "--cluster", "local", "--jsonl", code=3)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["node"] for line in lines] == ["desk", "laptop", "desk", "laptop"]
    assert [line["event"] for line in lines] == ["measured"] * 2 + ["curve"] * 2
    assert lines[2]["machine"]


def test_a_sweep_keeps_the_files_of_each_node(cli, monkeypatch, tmp_path):
    there = tmp_path / "there"
    with SweepFolder.start(there, CONFIG) as sweep:
        sweep.add_block(make_block(0))
    files = {path.name: path.read_bytes() for path in there.iterdir() if path.is_file()}
    cluster = FakeCluster(
        monkeypatch, desk=Measured(True, None, "20260101-m-ab", {**files, "../evil": b"x"})
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.csv").write_text("")
    out_dir = tmp_path / "out"
    out = cli.out(
        *("sweep", "m", "--axis", "threads=1,2", "--suite", "q.csv", "--force"),
        *("--cluster", "local", "-o", str(out_dir), "--json"),
    )
    assert cluster.asked.model == cluster.asked.asked.model == "m"
    assert cluster.asked.force
    assert cluster.asked.asked.suite == str(tmp_path / "q.csv")  # of the same file on each node
    (document,) = json.loads(out)["sweeps"]
    assert document["node"] == "desk"
    assert (out_dir / "desk" / "config.json").read_bytes() == files["config.json"]
    assert (out_dir / "desk" / "evil").exists()  # a node names files, never other folders
    assert not (out_dir / "evil").exists()
