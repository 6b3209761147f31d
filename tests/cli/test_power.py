"""``etui power`` as a user runs it, against the fake GPU and without one."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from etui.energy.diagnosis import TraceWriter, any_failed, run_selftest
from etui.energy.idle import load_baselines
from etui.energy.recorder import Recorder
from tests.cli.conftest import check
from tests.support.command import run_here
from tests.support.devices import SENSORS, FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import constant

CURVE = "0:100,1.0:300,1.8:100"
"""Without steps: one in a tick of the counter at an end of an interval is not of the interval, and
beyond the stated uncertainty in about one interval of ten."""


@pytest.fixture
def etui(tmp_path):
    def run(*args, code=0, **env):
        words = [sys.executable, "-m", "etui", "power", *args]
        env = {**os.environ, **env}
        done = subprocess.run(
            words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        return check(done, code)

    return run


@pytest.fixture
def here(etui_home):
    """Run the command in this process; the fake GPU needs one of its own."""
    return lambda *args, code=0: check(run_here("power", *args), code)


@pytest.fixture
def gpu(fake_nvml_dir):
    return {"LD_LIBRARY_PATH": str(fake_nvml_dir), "FAKE_NVML_CURVE": CURVE}


def truth(start_ns, end_ns):
    """Integral of CURVE, repeated."""
    points = [tuple(map(float, part.split(":"))) for part in CURVE.split(",")]

    def until(seconds):
        rounds, rest = divmod(seconds, points[-1][0])
        total = 0.0
        for (t0, w0), (t1, w1) in pairwise(points):
            total += rounds * (t1 - t0) * (w0 + w1) / 2
            part = min(max(rest - t0, 0.0), t1 - t0)
            total += part * (w0 + (w1 - w0) * part / (t1 - t0) / 2)
        return total

    return until(end_ns / 1e9) - until(start_ns / 1e9)


def test_json_reports_the_curves_integral(etui, gpu):
    done = etui("--json", "--seconds", "0.8", **gpu)
    document: dict[str, Any] = json.loads(done.stdout)
    energy = document["energy"]
    real = truth(energy["start_ns"], energy["end_ns"])
    # How wide it is depends on when a busy machine reads: tests/energy/sources/test_nvml.py.
    assert abs(energy["joules"] - real) <= energy["uncertainty"]
    assert energy["kind"] == "counter"
    assert energy["unmeasured"] == ["package:0"]
    [channel] = document["channels"]
    assert channel["in_total"]
    assert channel["label"] == "NVIDIA Fake 4000"
    assert channel["joules"] == energy["channels"]["gpu:GPU-fake-0"]
    assert "cost" not in document  # nobody stated a factor


def test_lines_touch_and_sum(etui, gpu):
    done = etui("--jsonl", "--seconds", "0.9", "--interval", "0.3", **gpu)
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(documents) == 3
    for before, after in pairwise(documents):
        assert before["energy"]["end_ns"] == after["energy"]["start_ns"]
    first, last = documents[0]["energy"], documents[-1]["energy"]
    total = sum(document["energy"]["joules"] for document in documents)
    spread = sum(document["energy"]["uncertainty"] for document in documents)
    assert abs(total - truth(first["start_ns"], last["end_ns"])) <= spread


def test_the_selftest_compares_counter_and_integral(etui, gpu):
    done = etui("selftest", "--seconds", "1.5", "--json", **gpu)
    document = json.loads(done.stdout)
    assert done.returncode == 0, document
    found = {(check["name"], check["channel"]): check for check in document["checks"]}
    assert found["additivity", ""]["passed"]
    assert found["agreement", "gpu:GPU-fake-0"]["passed"]
    assert found["period", "gpu:GPU-fake-0"]["passed"]


def test_a_recorded_trace_is_replayed_to_the_same_energy(etui, tmp_path):
    file = tmp_path / "trace.jsonl"
    clock = FakeClock()
    curve = constant(180.0, 9)
    device = FakeDevice(curve, clock, SENSORS["counter 100 ms + instant power"])
    recorder = Recorder([device], clock=clock)
    with file.open("x", encoding="utf-8") as out:
        recorder.taps.append(TraceWriter(out, recorder.channels, recorder.unmeasured).write)
        sample(recorder, clock, 6, random.Random(1))
    replayed = json.loads(etui("replay", str(file), "--json").stdout)["energy"]
    live = recorder.energy(replayed["start_ns"], replayed["end_ns"])
    assert replayed["kind"] == "counter"
    assert live.joules is not None
    assert replayed["joules"] == pytest.approx(live.joules, rel=1e-6)
    seconds = (replayed["end_ns"] - replayed["start_ns"]) / 1e9
    assert abs(replayed["joules"] - 180 * seconds) <= replayed["uncertainty"]


def test_a_trace_is_recorded_and_never_written_over(etui, gpu, tmp_path):
    file = tmp_path / "trace.jsonl"
    etui("record", str(file), "--seconds", "0.8", **gpu)
    written = file.read_bytes()
    replayed = json.loads(etui("replay", str(file), "--json").stdout)["energy"]
    assert replayed["kind"] == "counter"
    # The curve stays between 100 and 300 W, however late a busy machine reads the counter.
    seconds = (replayed["end_ns"] - replayed["start_ns"]) / 1e9
    spread = replayed["uncertainty"]
    assert 100 * seconds - spread <= replayed["joules"] <= 300 * seconds + spread
    etui("record", str(file), code=1)
    assert file.read_bytes() == written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1:1: is not JSON"),
        ("{}", ":1:1: is not a power trace"),
        ('{"format": "etui-power-trace", "version": 99}', "has trace version 99"),
        ('{"format": "etui-power-trace", "version": 1, "channels": 3}', "has invalid channels"),
        (
            '{"format": "etui-power-trace", "version": 1, "channels": []}\n{"id": "gpu:A"}',
            ":2:1: is not a reading of a channel",
        ),
        ('{"format": "etui-power-trace", "version": 1, "channels": []}', ":2:1: has no readings"),
    ],
)
def test_a_damaged_trace_is_refused_by_line(here, tmp_path, content, message):
    file = tmp_path / "trace.jsonl"
    file.write_text(content)
    done = here("replay", str(file), code=2)
    assert message in done.stderr


def test_without_hardware_the_table_says_estimate_and_unmeasured(here):
    done = here("--seconds", "0.4")
    assert "(estimate)" in done.stdout
    assert "≈" in done.stdout
    assert "CPU package: not readable (see `etui doctor`)" in done.stdout


def test_nothing_measured_is_the_word_and_not_a_zero(here, etui_home):
    (etui_home / "config.yaml").write_text("estimate: never\n")
    done = here("--seconds", "0.2")
    assert re.search(r"total over \d\.\d+ s: unmeasured", done.stdout)
    document = json.loads(here("--json", "--seconds", "0.2").stdout)
    assert document["energy"]["joules"] is None
    assert document["energy"]["kind"] is None
    assert document["channels"] == []


def test_stated_factors_are_multiplied_and_nothing_else(etui, gpu, etui_home):
    (etui_home / "config.yaml").write_text(
        "carbon_g_per_kwh: 400\nprice_per_kwh: 0.30\ncurrency: EUR\n"
    )
    document = json.loads(etui("--json", "--seconds", "0.5", **gpu).stdout)
    hours = document["energy"]["joules"] / 3.6e6
    assert document["cost"]["kilowatt_hours"] == pytest.approx(hours)
    assert document["cost"]["grams_co2e"] == pytest.approx(400 * hours)
    assert document["cost"]["price"] == pytest.approx(0.3 * hours)
    assert document["cost"]["currency"] == "EUR"


def test_prometheus_gets_every_channel(etui, gpu):
    pytest.importorskip("prometheus_client")
    done = etui("export", "--prometheus", "--seconds", "0.4", **gpu)
    assert 'etui_energy_joules_total{channel="gpu:GPU-fake-0",in_total="true"' in done.stdout
    assert 'etui_unmeasured{scope="package:0"} 1.0' in done.stdout


@pytest.mark.parametrize("place", ["9595", "localhost:", "127.0.0.1:99999", "a:b"])
def test_a_place_to_listen_needs_host_and_port(here, place):
    done = here("export", "--listen", place, code=2)
    assert "HOST:PORT" in done.stderr


def test_json_and_jsonl_exclude_each_other(here):
    done = here("--json", "--jsonl", code=2)
    assert "cannot be combined" in done.stderr


def test_a_measured_baseline_gives_net_joules(etui, gpu):
    quiet = {**gpu, "FAKE_NVML_CURVE": "0:40,1:40"}
    done = etui("idle", "--seconds", "0.5", "--force", "--json", **quiet)
    idle = json.loads(done.stdout)
    assert idle["watts"]["gpu:GPU-fake-0"] == pytest.approx(40, rel=0.05)
    busy = {**gpu, "FAKE_NVML_CURVE": "0:240,1:240"}
    energy = json.loads(etui("--json", "--seconds", "0.5", **busy).stdout)["energy"]
    seconds = (energy["end_ns"] - energy["start_ns"]) / 1e9
    assert energy["idle_watts"] == pytest.approx(40, rel=0.05)
    assert energy["net_joules"] == pytest.approx(energy["joules"] - energy["idle_watts"] * seconds)


def test_a_loaded_model_gets_a_baseline_of_its_own(etui, gpu, config, starter_model):
    quiet = {**gpu, "FAKE_NVML_CURVE": "0:65,1:65", "ETUI_MODELS": str(starter_model.parent)}
    done = etui("idle", "--model", "smollm2-135m", "--seconds", "0.5", "--force", "--json", **quiet)
    document = json.loads(done.stdout)
    assert document["model"] == "smollm2-135m"
    assert document["watts"]["gpu:GPU-fake-0"] == pytest.approx(65, rel=0.05)
    kept = load_baselines(config)
    assert kept.cold is None
    assert dict(kept.loaded["smollm2-135m"].watts) == document["watts"]


def test_a_baseline_of_a_model_that_is_not_here_is_refused(etui, gpu):
    done = etui("idle", "--model", "smollm2-135m", **gpu, code=1)
    assert "etui models pull smollm2-135m" in done.stderr


def test_nothing_to_calibrate_with_is_said(here):
    done = here("calibrate", "--seconds", "0.5", code=1)
    assert "no counter of the CPU package" in done.stderr


def test_a_counter_and_an_integral_that_disagree_fail_the_selftest():
    class Biased(FakeDevice):
        def _power(self, refreshed_s):
            return 1.3 * super()._power(refreshed_s)

    clock = FakeClock()
    sensor = SENSORS["counter 100 ms + instant power"]
    for device, good in (
        (FakeDevice(constant(100.0, 9), clock, sensor), True),
        (Biased(constant(100.0, 99), clock, sensor), False),
    ):
        recorder = Recorder([device], clock=clock)
        begin = clock.seconds
        sample(recorder, clock, 7, random.Random(1))
        checks = run_selftest(recorder, clock.at(begin + 2), clock.at(begin + 6))
        assert any_failed(checks) is not good
        found = {check.name: check.passed for check in checks}
        assert found["agreement"] is good
        assert found["additivity"]


def test_a_device_that_is_silent_fails_the_selftest():
    clock = FakeClock()
    device = FakeDevice(constant(100.0, 9), clock, fails=lambda now: True)
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, 5, random.Random(1))
    checks = run_selftest(recorder, clock.at(1), clock.at(4))
    found = {check.name: check.passed for check in checks}
    assert any_failed(checks)
    assert found["coverage"] is False
    assert found["additivity"] is None
