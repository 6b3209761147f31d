"""The meter for other machines over a real socket, with a recorder that plays a known power."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import uvicorn

from etui.energy.recorder import Recorder
from etui.energy.remote.clock import read_boot_id
from etui.server.app import build_app_with
from etui.server.meter import MeterSource, build_routes
from tests.server.fakes import DEADLINE_SECONDS
from tests.support.devices import SENSORS, FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import constant

BOOT = "0b5f2f0c-9f0e-4c5c-8a4e-4f6c0a0a9a11"
WATTS = 120.0


@dataclass
class Metered:
    """A meter that is served, and its clock."""

    client: httpx2.Client
    recorder: Recorder
    clock: FakeClock

    def get(self, path: str, **parameters: object) -> httpx2.Response:
        return self.client.get(path, params={k: str(v) for k, v in parameters.items()})

    def energy(self, start_s: float, end_s: float) -> httpx2.Response:
        return self.get(
            "/meter/energy", start_ns=self.clock.at(start_s), end_ns=self.clock.at(end_s)
        )


def record(clock: FakeClock, seconds: float) -> Recorder:
    """A recorder of 120 W that has read for some seconds."""
    device = FakeDevice(constant(WATTS, 3600), clock, SENSORS["counter 100 ms"])
    recorder = Recorder([device], clock=clock, unmeasured=("package:0",))
    sample(recorder, clock, seconds, random.Random(1))
    return recorder


@contextmanager
def serve(recorder: Recorder, clock: FakeClock, running: int | None = 1) -> Iterator[Metered]:
    """Serve a recorder on a free port of loopback, in a thread, and stop it again."""
    source = MeterSource(recorder, lambda: running, lambda: False, clock, BOOT, clock.start_ns)
    app = build_app_with(build_routes(lambda: source))
    bound = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, http="h11", log_config=None, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])), daemon=True)
    thread.start()
    try:
        with httpx2.Client(base_url=url, timeout=DEADLINE_SECONDS) as client:
            yield Metered(client, recorder, clock)
    finally:
        server.should_exit = True
        thread.join(DEADLINE_SECONDS)
        bound.close()
        assert not thread.is_alive()


@pytest.fixture
def metered() -> Iterator[Metered]:
    clock = FakeClock()
    with serve(record(clock, 20), clock) as metered:
        yield metered


def test_the_energy_of_an_interval_is_that_of_the_recorder(metered: Metered) -> None:
    response = metered.energy(5, 15)
    assert response.status_code == 200
    document = response.json()
    assert document["joules"] == pytest.approx(10 * WATTS, rel=0.01)
    assert document["uncertainty"] > 0
    assert document["kind"] == "counter"
    assert document["boot_id"] == BOOT
    assert document["settled"] is True
    assert document["unmeasured"] == ["package:0"]
    assert (
        document["joules"]
        == metered.recorder.energy(metered.clock.at(5), metered.clock.at(15)).joules
    )
    assert response.headers["cache-control"] == "no-store"


def test_the_power_curve_holds_the_energy(metered: Metered) -> None:
    times = {"start_ns": metered.clock.at(5), "end_ns": metered.clock.at(15)}
    document = metered.get("/meter/energy", **times, points=4).json()
    assert len(document["power_watts"]) == 4
    assert sum(document["power_watts"]) * 2.5 == pytest.approx(document["joules"])
    assert "power_watts" not in metered.get("/meter/energy", **times).json()
    empty = metered.get(
        "/meter/energy", start_ns=times["start_ns"], end_ns=times["start_ns"], points=3
    )
    assert empty.json()["power_watts"] == [None, None, None]


def test_an_interval_without_length_has_no_joules(metered: Metered) -> None:
    assert metered.energy(5, 5).json()["joules"] == 0


def test_the_clock_is_the_recorders(metered: Metered) -> None:
    clock, watts = metered.clock, pytest.approx(WATTS, rel=0.05)
    times = {"boot_id": BOOT, "started_ns": clock.start_ns, "now_ns": clock.now_ns}
    assert metered.get("/meter/clock").json() == {**times, "watts": watts}


def test_the_meter_shows_its_channels_and_what_runs(metered: Metered) -> None:
    document = metered.get("/meter").json()
    assert document["watts"] == pytest.approx(WATTS, rel=0.05)
    assert document["kind"] == "counter"
    assert document["coverage"] == 1.0
    assert document["running"] == 1
    assert document["loading"] is False
    assert document["unmeasured"] == ["package:0"]
    assert document["recorded_since_ns"] == metered.recorder.recorded_since_ns
    [channel] = document["channels"]
    assert channel["id"] == "gpu:FAKE"
    assert channel["in_total"] is True
    assert channel["limit_watts"] == 350.0


def test_an_end_in_the_near_future_is_measured_and_a_later_one_is_not(metered: Metered) -> None:
    assert metered.energy(15, metered.clock.seconds + 0.01).status_code == 200
    late = metered.energy(15, metered.clock.seconds + 5)
    assert late.status_code == 400
    assert late.json()["error"]["param"] == "end_ns"


def test_a_time_before_the_record_is_gone(metered: Metered) -> None:
    response = metered.energy(-30, 5)
    assert response.status_code == 410
    assert response.json()["error"]["code"] == "no_longer_recorded"


def test_another_boot_is_a_conflict_and_the_same_one_is_not(metered: Metered) -> None:
    times = {"start_ns": metered.clock.at(5), "end_ns": metered.clock.at(6)}
    assert metered.get("/meter/energy", **times, boot_id=BOOT).status_code == 200
    other = metered.get("/meter/energy", **times, boot_id="another")
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "boot_changed"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "start_ns"),
        ("start_ns=1", "end_ns"),
        ("start_ns=&end_ns=2", "start_ns"),
        ("start_ns=-1&end_ns=2", "start_ns"),
        ("start_ns=+1&end_ns=2", "start_ns"),
        ("start_ns=1.5&end_ns=2", "start_ns"),
        ("start_ns=1e9&end_ns=2", "start_ns"),
        ("start_ns=NaN&end_ns=2", "start_ns"),
        ("start_ns=%D9%A1&end_ns=2", "start_ns"),
        ("start_ns=9223372036854775808&end_ns=9223372036854775808", "start_ns"),
        ("start_ns=1&end_ns=99999999999999999999999999", "end_ns"),
        ("start_ns=2&end_ns=1", "end_ns"),
        ("start_ns=1&start_ns=2&end_ns=3", None),
        ("start_ns=1&end_ns=2&file=/etc/passwd", "file"),
        ("start_ns=1&end_ns=2&points=601", "points"),
        ("start_ns=1&end_ns=2&points=x", "points"),
    ],
)
def test_a_bad_interval_is_refused_and_the_next_one_answered(
    metered: Metered, query: str, param: str | None
) -> None:
    response = metered.client.get(f"/meter/energy?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert metered.energy(5, 6).status_code == 200


def test_a_machine_without_sensors_has_no_joules_and_no_guess() -> None:
    clock = FakeClock()
    with serve(Recorder([], clock=clock, unmeasured=("package:0",)), clock, None) as metered:
        shown = metered.get("/meter").json()
        assert shown["watts"] is shown["kind"] is shown["running"] is None
        energy = metered.energy(-2, 0).json()
        assert energy["joules"] is None
        assert energy["flags"] == ["unmeasured"]


def test_the_record_begins_where_old_readings_were_dropped() -> None:
    clock = FakeClock()
    devices = [
        FakeDevice(constant(WATTS, 3600), clock, SENSORS[sensor], scope=scope)
        for scope, sensor in (("gpu:A", "counter 100 ms"), ("gpu:B", "power, 25 % duty"))
    ]
    recorder = Recorder(devices, clock=clock, keep_seconds=10)
    assert recorder.recorded_since_ns is None
    sample(recorder, clock, 8, random.Random(1))
    since_ns = recorder.recorded_since_ns
    assert since_ns is not None
    assert since_ns == pytest.approx(clock.start_ns, abs=0.2e9)
    sample(recorder, clock, 60, random.Random(2))
    later_ns = recorder.recorded_since_ns
    assert later_ns is not None
    assert later_ns > since_ns + 20e9
    assert recorder.energy(later_ns, later_ns + 5_000_000_000).coverage == 1.0
    assert recorder.energy(later_ns - 20_000_000_000, clock.now_ns).coverage < 1.0


def test_the_boot_id_is_that_of_the_system_or_a_new_one(tmp_path: Any) -> None:
    file = tmp_path / "boot_id"
    file.write_text(f"{BOOT}\n")
    assert read_boot_id(file) == BOOT
    file.write_text("no id")
    assert read_boot_id(file) != read_boot_id(file)
    assert read_boot_id(tmp_path / "missing") != BOOT
