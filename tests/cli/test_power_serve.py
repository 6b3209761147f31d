"""``etui power serve`` as a user runs it: the meter over HTTP, its keys, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import pytest

from etui.energy.remote.clock import read_boot_id
from etui.errors import ExitCode
from tests.cli.conftest import check
from tests.support.command import run_here

LIMIT_SECONDS = 60.0
KEY = "k" * 32
ADDRESS = re.compile(r"the meter is at (http://\S+)/meter ")


@dataclass
class Serving:
    """A running ``etui power serve``."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]

    def get(self, path, key="", **options):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        return httpx2.get(self.url + path, headers=headers, timeout=LIMIT_SECONDS, **options)


@contextmanager
def power_serve(*options, **env):
    """Run the command on a free port until the body ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "etui", "power", "serve", "--port", "0", *options],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(LIMIT_SECONDS, process.kill)
    watchdog.start()
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := ADDRESS.match(line):
                yield Serving(process, found.group(1), said)
                return
        pytest.fail(f"it did not start: {''.join(said)}")
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.fixture
def gpu(fake_nvml_dir):
    return {"LD_LIBRARY_PATH": str(fake_nvml_dir), "FAKE_NVML_CURVE": "0:100,1.0:100"}


def test_the_meter_is_served_and_ctrl_c_ends_it_well(gpu):
    with power_serve(**gpu) as served:
        clock = served.get("/meter/clock").json()
        assert clock["boot_id"] == read_boot_id()
        since_ns = None
        while since_ns is None:
            since_ns = served.get("/meter").json()["recorded_since_ns"]
        now_ns = served.get("/meter/clock").json()["now_ns"]
        assert now_ns > clock["now_ns"]
        times = {"start_ns": str(since_ns), "end_ns": str(now_ns)}
        energy = served.get("/meter/energy", params=times)
        assert energy.status_code == 200
        assert energy.json()["start_ns"] == since_ns
        assert energy.json()["kind"] == "counter"
        gone = served.get("/meter/energy", params=times | {"start_ns": "1"})
        assert gone.status_code == 410
        meter = served.get("/meter").json()
        assert meter["running"] is None
        assert meter["channels"][0]["label"] == "NVIDIA Fake 4000"
        assert "etui_energy_joules_total" in served.get("/metrics").text
        assert served.get("/health").json() == {"status": "ok"}
        assert served.get("/v1/models").status_code == 404
        served.process.send_signal(signal.SIGINT)
        _, rest = served.process.communicate(timeout=LIMIT_SECONDS)
        assert served.process.returncode == ExitCode.DONE
        assert "Traceback" not in rest


def test_a_machine_without_sensors_says_so_and_serves_nulls(etui_home):
    (etui_home / "config.yaml").write_text("estimate: never\n")
    with power_serve() as served:
        meter = served.get("/meter").json()
        if meter["channels"]:
            pytest.skip("this machine has a power sensor")
        assert meter["watts"] is None
        assert any("nothing can be measured" in line for line in served.said)


def test_keys_are_checked(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"laptop: {KEY}\n")
    file.chmod(0o600)
    other = "o" * 32
    with power_serve("--keys", str(file), "--key-env", "METER_KEY", METER_KEY=other) as served:
        assert served.get("/meter").status_code == 401
        assert served.get("/meter", "x" * 32).status_code == 401
        assert served.get("/meter/energy").status_code == 401
        assert served.get("/meter", KEY).status_code == 200
        assert served.get("/meter", other).status_code == 200
        assert served.get("/health").status_code == 200


def test_other_hosts_and_pages_are_refused():
    with power_serve("--allow-host", "desk.local") as served:
        port = served.url.rpartition(":")[2]
        assert served.get("/meter", headers={"Host": "evil.example"}).status_code == 403
        assert served.get("/meter", headers={"Origin": "http://evil.example"}).status_code == 403
        assert served.get("/meter", headers={"Host": f"desk.local:{port}"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "0.0.0.0"), "there is no key"),
        (("--key-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE is not set"),
        (("--keys", "missing"), "cannot read missing"),
        (("--allow-host", "http://desk"), "is not a host name"),
        (("--port", "70000"), "70000"),
        (("--host", "256.1.1.1"), "256.1.1.1"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ETUI_API_KEY", raising=False)
    done = check(run_here("power", "serve", "--port", "0", *options), None)
    assert done.returncode != ExitCode.DONE
    assert says in done.stderr


def test_a_port_in_use_is_reported():
    with power_serve() as served:
        port = served.url.rpartition(":")[2]
        done = run_here("power", "serve", "--port", port)
        assert "cannot listen on" in done.stderr
        assert done.returncode != ExitCode.DONE
