"""``--cluster`` as a user meets it: what is refused, and what the nodes are asked to run."""

from __future__ import annotations

import json
from contextlib import contextmanager

import click
import pytest
from click.testing import CliRunner

from etui.cli import cluster as cluster_command
from etui.cluster.messages import NodeResult
from etui.log.queries import LogReader


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


@click.command("sweep")
@click.argument("model")
@click.option("--axis", "axes", multiple=True)
@click.option("-n", "--limit", type=int)
@click.option("--force", is_flag=True)
@click.option("--reuse/--no-reuse", default=True)
@click.option("--suite")
@click.option("--cluster")
@click.pass_context
def words_of(ctx, **_options):
    click.echo(json.dumps(cluster_command.build_words(ctx)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ["--", "m"]),
        (("--cluster", "x"), ["--", "m"]),
        (("--axis", "a=1,2", "--axis", "b=3"), ["--axis=a=1,2", "--axis=b=3", "--", "m"]),
        (("-n", "5", "--force"), ["--limit=5", "--force", "--", "m"]),
        (("--no-reuse",), ["--no-reuse", "--", "m"]),
    ],
)
def test_the_nodes_get_the_same_options(given, expected):
    done = CliRunner().invoke(words_of, [*given, "m"])
    assert json.loads(done.output) == expected


def test_the_path_of_a_file_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.csv").write_text("")
    done = CliRunner().invoke(words_of, ["--suite", "q.csv", "m"])
    assert json.loads(done.output) == [f"--suite={tmp_path / 'q.csv'}", "--", "m"]


class FakeCluster:
    """Nodes that have run a command with these results."""

    def __init__(self, monkeypatch, **results):
        self.commands = []
        monkeypatch.setattr(cluster_command, "open_carrier", self.open)
        monkeypatch.setattr("etui.cluster.open_nodes.NodeDriver.run", self.run)
        self.results = results

    @contextmanager
    def open(self, address):
        yield None

    def run(self, commands, hear):
        self.commands = commands
        for machine, result in self.results.items():
            for line in result.lines:
                hear(machine, line)
        return self.results


CURVE = {
    "event": "curve", "status": "complete", "curve_id": "c1", "created_at": "2026-01-01T00:00:00",
    "model": "m", "model_sha256": "ab", "machine": "A processor", "build": "b",
    "power_limit_watts": None, "kind": "counter", "source": "calibration", "n": 8,
    "r2_prefill": 0.9, "r2_decode": 0.9,
    "coefficients": {
        "prefill_e0": 0.1, "prefill_a": 0.01, "prefill_a2": 0.0,
        "decode_e0": 0.1, "decode_b": 0.1, "decode_c": 0.0,
    },
    "residuals": {
        "prefill": {"r2": 0.9, "n": 8, "band": 0.1, "proportional": False, "mape": 0.1},
        "decode": {"r2": 0.9, "n": 8, "band": 0.1, "proportional": False, "mape": 0.1},
        "meter_share": 0.1, "held_out_mape": None, "points": [],
    },
    "settings": {
        "threads": 2, "channels": ["package:0"], "gpu_layers": 0, "idle_watts": None,
        "speed": {"prefill_tokens_per_second": None, "decode_tokens_per_second": None},
    },
}  # fmt: skip


def curve_lines(curve_id):
    from etui.codec import to_document
    from etui.curves.operating_curve import Speed

    settings = {**CURVE["settings"], "speed": to_document(Speed())}
    made = {**CURVE, "curve_id": curve_id, "settings": settings}
    measured = {"event": "measured", "done": 1, "points": 8, "seconds_left": 3.0}
    return json.dumps(measured), json.dumps(made)


def test_a_calibration_saves_the_curve_of_each_node(cli, monkeypatch, config):
    cluster = FakeCluster(
        monkeypatch,
        desk=NodeResult(0, "", lines=curve_lines("c1")),
        laptop=NodeResult(1, "etui: nothing can be measured on this machine\nsee doctor\n"),
    )
    asked = ("calibrate", "m", "--quick", "--force", "--cluster", "local")
    out, err = cli.run(*asked, code=1)
    assert [each.words for each in cluster.commands] == [
        ("models", "pull", "m"),
        ("calibrate", "--jsonl", "--quick", "--force", "--", "m"),
    ]
    assert out.startswith("desk: m on A processor, 8 points")
    assert "desk: 1 of 8, about 3.00 s left" in err
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
        desk=NodeResult(0, "", lines=curve_lines("c1")),
        laptop=NodeResult(3, "", lines=curve_lines("c2")),
    )
    out, err = cli.run("calibrate", "m", "--cluster", "local", "--json", code=3)
    assert [each["node"] for each in json.loads(out)["curves"]] == ["desk", "laptop"]
    assert "stopped on laptop before the end" in err
    out = cli.out("calibrate", "m", "--cluster", "local", "--jsonl", code=3)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["node"] for line in lines] == ["desk", "desk", "laptop", "laptop"]
    assert lines[1]["machine"] == "A processor"


def test_a_sweep_keeps_the_files_of_each_node(cli, monkeypatch, tmp_path):
    begun = json.dumps({"event": "begun", "folder": "/there/20260101-120000-m-ab"})
    result = json.dumps({"event": "result", "model": "m"})
    cluster = FakeCluster(
        monkeypatch,
        desk=NodeResult(0, "", {"config.json": "{}", "../evil": "x"}, (begun, result)),
    )
    out_dir = tmp_path / "out"
    out = cli.out(
        "sweep", "m", "--axis", "threads=1,2", "--cluster", "local", "-o", str(out_dir), "--json"
    )
    assert [each.words for each in cluster.commands] == [
        ("models", "pull", "m"),
        ("sweep", "--jsonl", "--axis=threads=1,2", "--", "m"),
    ]
    assert [each.collect for each in cluster.commands] == [False, True]
    assert json.loads(out) == {"sweeps": [{"node": "desk", "model": "m"}]}
    assert (out_dir / "desk" / "config.json").read_text() == "{}"
    assert (out_dir / "desk" / "evil").exists()  # a node names files, never other folders
    assert not (out_dir / "evil").exists()
