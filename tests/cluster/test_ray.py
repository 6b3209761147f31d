"""Two real nodes of Ray on loopback: killed, stopped, refused."""

from __future__ import annotations

import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import psutil
import pytest

from etui.bench.folder import read_run
from etui.bench.plan import RunRequest, make_plan, restore_plan
from etui.bench.run import BenchRunner
from etui.calibration.grid import QUICK, parse_grid
from etui.cluster import connect
from etui.cluster.bench_cluster import ClusterBench
from etui.cluster.connect import open_ray, parse_address
from etui.cluster.messages import Measurement
from etui.cluster.node import OPENER as MACHINE
from etui.cluster.open_nodes import NodeDriver, Patience
from etui.cluster.ray_carrier import RayCarrier
from etui.errors import UsageError
from etui.measure.run import RunLimits
from etui.models.catalogue import load_catalogue
from etui.runtime.runtime import open_runtime
from tests.cluster.fake_node import OPENER, SHA256
from tests.cluster.ray_fixtures import find_ray_processes, find_workers, require_ray, start_cluster

pytestmark = pytest.mark.slow

MODEL = "gemma-3-270m"
PATIENCE = Patience(ready=60, opening=60, first=60, least=30, factor=20, stopping=5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with start_cluster(tmp_path_factory.mktemp("home"), {"seconds": 0.05}, {"seconds": 0.05}) as up:
        yield up


@pytest.fixture
def address(cluster):
    return parse_address(cluster.address)


class Audience:
    def __init__(self):
        self.lines = []
        self.count = 0
        self.act = lambda count: None

    def say(self, text):
        self.lines.append(text)

    def begin(self, config, folder, samples):
        pass

    def see(self, samples):
        self.count += len(samples)
        self.act(self.count)


@pytest.fixture
def run(address, config, monkeypatch):
    """Run or resume the sample suite on the cluster, with fake nodes or with this machine's."""

    def go(folder: Path, act=None, *, resume=False, limits=RunLimits(), stopped=None, **changes):  # noqa: B008
        opener = changes.pop("opener", OPENER)
        if opener == OPENER:
            monkeypatch.setattr(ClusterBench, "_known_hashes", lambda self, plan: {MODEL: SHA256})
        audience = Audience()
        if act is not None:
            audience.act = act
        catalogue = load_catalogue(config)
        with open_ray(address) as ray:
            carrier = RayCarrier(ray, opener)
            ended = stopped or Event()
            driver = NodeDriver(carrier, audience.say, ended.is_set, PATIENCE)
            bench = ClusterBench(open_runtime(config), audience, ended, driver=driver)
            try:
                if resume:
                    again = lambda run: restore_plan(run, config, catalogue)  # noqa: E731
                    found = bench.resume(folder, again, limits)
                    return audience, SimpleNamespace(run=found, losses=bench.losses)
                request = RunRequest("sample", models=(changes.pop("model", MODEL),), **changes)
                plan = make_plan(request, config, catalogue)
                found = bench.start(plan, folder, limits)
                return audience, SimpleNamespace(
                    run=found, losses=bench.losses, tallies=bench.tallies
                )
            finally:
                carrier.close()

    return go


def keys(folder):
    return sorted(sample.key for sample in read_run(folder).samples)


def test_a_killed_worker_loses_and_doubles_nothing(run, tmp_path, capsys):
    _, whole = run(tmp_path / "whole")
    killed = []

    def kill(count):
        # More than once, in turns: one that has just ended its piece of five loses nothing.
        if len(killed) < 4 and count >= 8 + 12 * len(killed) and (workers := find_workers()):
            worker = workers[len(killed) % len(workers)]
            killed.append(worker.pid)
            worker.send_signal(signal.SIGKILL)

    audience, found = run(tmp_path / "killed", kill)
    assert killed
    assert found.run.ending == "complete"
    assert keys(tmp_path / "killed") == keys(tmp_path / "whole")
    assert len(set(keys(tmp_path / "killed"))) == 60
    assert [arm.accuracy for arm in found.run.summary.arms.values()] == [
        arm.accuracy for arm in whole.run.summary.arms.values()
    ]
    assert 1 <= found.losses.lost_tries <= len(killed)
    assert found.losses.wasted_joules is None
    assert found.losses.estimated_joules > 0
    assert {sample.machine for sample in found.run.samples} == {
        machine.key for machine in found.run.config.machines
    }
    assert any("died" in line and "given back" in line for line in audience.lines)
    assert capsys.readouterr().out == ""  # where a program reads JSON


def test_the_death_of_a_node_is_counted_once(run, cluster, tmp_path):
    # Its process ends with it, and Ray takes the node for alive for some seconds more.
    added = cluster.add_node(
        num_cpus=1, num_gpus=0, node_ip_address="127.0.0.1", object_store_memory=80 << 20
    )
    killed = []

    def kill(count):
        if count >= 20 and not killed:
            killed.append(added)
            cluster.remove_node(added, allow_graceful=False)

    audience, found = run(tmp_path / "run", kill)
    assert found.run.ending == "complete"
    assert len(set(keys(tmp_path / "run"))) == len(keys(tmp_path / "run")) == 60
    deaths = [tally.deaths for tally in found.tallies.values()]
    assert sorted(deaths) == [0, 0, 1]
    assert found.losses.lost_tries <= 1
    assert sum(" died" in line for line in audience.lines) == 1


def test_a_stopped_run_resumes(run, tmp_path):
    stopped = Event()
    _, found = run(tmp_path / "run", lambda count: count >= 5 and stopped.set(), stopped=stopped)
    assert found.run.ending == "stopped"
    done = len(keys(tmp_path / "run"))
    assert 5 <= done < 30
    # Both nodes measure the question that they discard, but for one that has just ended its piece.
    assert found.losses.reported_tries <= 2
    assert (found.losses.reported_joules > 0) == (found.losses.reported_tries > 0)
    assert found.losses.wasted_joules is not None
    _, again = run(tmp_path / "run", resume=True)
    assert again.run.ending == "complete"
    assert len(keys(tmp_path / "run")) == len(set(keys(tmp_path / "run"))) == 60


def test_everything_listens_on_loopback_only(address):
    with open_ray(address) as ray:
        carrier = RayCarrier(ray, OPENER)
        try:
            for node in carrier.list_nodes():
                carrier.start(node)
                carrier.call(node.id, "describe")
            described = 0
            while described < 2:
                described += sum(isinstance(said, dict) for _, said in carrier.wait(0.2))
            found = {
                place.laddr.ip.removeprefix("::ffff:")  # the same address, on a socket of IPv6
                for process in [psutil.Process(), *find_ray_processes()]
                for place in process.net_connections("inet")
                if place.status == psutil.CONN_LISTEN
            }
        finally:
            carrier.close()
    assert found == {"127.0.0.1"}
    assert len(find_ray_processes()) >= 3


def test_a_wrong_token_is_refused(address, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "cd" * 32)
    begun = time.monotonic()
    with pytest.raises(UsageError, match="refuses this program") as error, open_ray(address):
        pass
    assert time.monotonic() - begun < 40
    assert "token" in error.value.fix


def test_another_service_is_not_taken_for_ray(monkeypatch):
    require_ray()
    monkeypatch.setattr(connect, "_PROBE_SECONDS", 3.0)
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: kept.append(server.accept()), daemon=True).start()
        place = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(UsageError, match="is not the head of a Ray cluster"),
            open_ray(parse_address(place)),
        ):
            pass


def test_nothing_at_an_address_is_said_at_once():
    require_ray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    with (
        pytest.raises(UsageError, match=r"nothing answers at 127\.0\.0\.1"),
        open_ray(parse_address(f"127.0.0.1:{port}")),
    ):
        pass
    assert time.monotonic() - begun < 5


def test_one_of_the_nodes_of_a_host_calibrates(address, starter_model):
    heard, steps = [], []
    asked = Measurement(starter_model.stem, parse_grid("16,32x4,8", QUICK), force=True, fresh=True)
    with open_ray(address) as ray:
        carrier = RayCarrier(ray)
        try:
            nodes = NodeDriver(carrier, heard.append, lambda: False, PATIENCE)
            (found,) = nodes.measure(asked, lambda name, step: steps.append(step.text)).values()
        finally:
            carrier.close()
    assert found.complete, found
    assert found.curve.model == starter_model.stem
    assert sum("is left out" in line for line in heard) == 1
    assert any("points" in text for text in steps)


def test_a_real_model_gives_the_same_answers_after_a_kill(
    run, starter_model, config, tmp_path, monkeypatch
):
    models = tmp_path / "models"
    models.mkdir()
    (models / starter_model.name).symlink_to(starter_model)
    asked = {"subjects": ("logic", "algebra", "history"), "per_subject": 3, "shots": 1}
    here = replace(config, models_dir=models, loop_guard=False)
    with open_runtime(here) as runtime:
        runner = BenchRunner(runtime, Audience(), Event())
        plan = make_plan(
            RunRequest("sample", models=("smollm2-135m",), **asked),
            here,
            load_catalogue(here),
        )
        alone = runner.start(plan, tmp_path / "alone")
    killed = []

    def kill(count):
        if count >= 2 and not killed:
            worker = find_workers()[0]
            killed.append(worker.pid)
            worker.send_signal(signal.SIGKILL)

    audience, found = run(tmp_path / "killed", kill, opener=MACHINE, model="smollm2-135m", **asked)
    assert killed
    assert keys(tmp_path / "killed") == keys(tmp_path / "alone")
    assert [arm.accuracy for arm in found.run.summary.arms.values()] == [
        arm.accuracy for arm in alone.summary.arms.values()
    ]
    assert found.losses.lost_tries == 1
    assert any("are on one host" in line for line in audience.lines)
    first = read_run(tmp_path / "killed").config.models[0]
    assert first.sha256 == alone.config.models[0].sha256
