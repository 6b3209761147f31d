"""NVIDIA GPUs through the real pynvml and a fake driver library, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etui.energy.idle import Baselines, IdleBaseline, save_baselines
from etui.energy.sources.nvml import INSTANT_POWER, TOTAL_ENERGY, NvmlSource
from etui.energy.types import DividedSource
from tests.support.devices import FakeClock

READ = """
import collections, ctypes, json, random, sys, time
import psutil
from tests.support.devices import FakeClock
seconds = float(sys.argv[1])
driver_ns = ctypes.c_longlong.in_dll(ctypes.CDLL("libnvidia-ml.so.1"), "fake_nvml_now_ns")
class SharedClock(FakeClock):
    # One clock for etui and the driver: no other program can hold up a read of either.
    def advance(self, seconds):
        super().advance(seconds)
        driver_ns.value = self.now_ns
clock = SharedClock()
clock.advance(0.0)
time.time_ns = clock  # before the sources bind it: timestamps of the driver are wall-clock times
CpuTimes = collections.namedtuple("CpuTimes", "user idle")
psutil.cpu_times = lambda: CpuTimes(clock() / 2e9, clock() / 2e9)  # half busy, for the estimate
from etui.config.config import load_config
from etui.energy.discovery import find_sources, open_recorder
from etui.energy.recorder import SETTLE_OF_AVERAGE, SETTLE_S
from etui.energy.sampler import HURRY_INTERVAL_NS
from tests.support.play import sample
config = load_config()
found = find_sources(config)
for source in found.sources:
    source.close()
probes = [[p.id, p.found, p.readable, p.why_not, p.fix] for p in found.probes]
out = {"probes": probes}
recorder = open_recorder(config, clock)
# The same part of the curve every time: how much of a step is in the window decides the ±.
warm_up_s = 0.35 + (0.95 - clock() / 1e9 - 0.35) % 2.6
start_ns = clock() + round(warm_up_s * 1e9)
end_ns = start_ns + round(seconds * 1e9)
sample(recorder, clock, warm_up_s + seconds, random.Random(0))
limit_s = SETTLE_S + SETTLE_OF_AVERAGE * max(c.average_s for c in recorder.channels)
limit_ns = clock() + round(limit_s * 1e9)
while not recorder.settle(end_ns) and clock() < limit_ns:
    clock.advance(HURRY_INTERVAL_NS / 1e9)
energy = recorder.energy(start_ns, end_ns)
out |= {
    "joules": energy.joules, "uncertainty": energy.uncertainty, "kind": energy.kind,
    "coverage": energy.coverage, "flags": energy.flags, "unmeasured": energy.unmeasured,
    "parts": {p.id: p.joules for p in energy.channels}, "start_ns": start_ns, "end_ns": end_ns,
    "labels": [c.label for c in recorder.channels],
    "averages": [c.average_s for c in recorder.channels],
    "limits": [c.limit_watts for c in recorder.channels],
    "periods": [recorder.period_s(c.id) for c in recorder.channels],
}
recorder.close()
print(json.dumps(out))
"""
STEPS = "0:80,1.1:80,1.1:310,2.0:310,2.0:140,2.6:140"
SLOPES = "0:80,1.3:300,2.6:80"


class Driver:
    """The part of pynvml that a source uses, with calls that take time of a fake clock."""

    class NVMLError(Exception):
        pass

    def __init__(self, clock: FakeClock, gpus: int) -> None:
        self.clock, self.gpus = clock, gpus
        self.stalls_s: list[float] = []
        self.calls: list[int] = []
        self.closed = 0

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.closed += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetFieldValues(self, handle: int, fields: Any) -> list[Any]:  # noqa: N802
        self.calls.append(handle)
        self.clock.advance(self.stalls_s.pop(0) if self.stalls_s else 0.0002)
        stamp_us = self.clock() // 1000
        return [
            SimpleNamespace(
                fieldId=field,
                nvmlReturn=0,
                valueType=3,
                timestamp=stamp_us,
                value=SimpleNamespace(ullVal=value),
            )
            for field, value in ((TOTAL_ENERGY, 1_000_000), (INSTANT_POWER, 90_000))
        ]


def opened(gpus: int = 2) -> tuple[FakeClock, Driver, NvmlSource]:
    clock = FakeClock()
    driver: Any = Driver(clock, gpus)
    source = NvmlSource(clock, clock, driver)
    driver.calls.clear()
    return clock, driver, source


def test_each_gpu_can_be_read_apart():
    _, driver, source = opened(3)
    assert isinstance(source, DividedSource)
    assert [part.channels for part in source.parts] == [[c] for c in source.channels]
    readings = source.parts[1].read()
    assert driver.calls == [1]
    assert readings.keys() == {source.channels[1].id}
    assert source.read().keys() == {channel.id for channel in source.channels}
    source.parts[1].close()
    assert not driver.closed
    source.close()
    assert driver.closed == 1


def test_a_call_that_was_held_up_is_made_again():
    """Its values are of an unknown time: of its begin, or of its end."""
    clock, driver, source = opened(1)
    source.read()
    driver.stalls_s = [3.0]
    begin_s = clock.seconds
    (reading,) = source.read().values()
    assert (reading.t_ns - clock.start_ns) / 1e9 == pytest.approx(begin_s + 3.0, abs=0.001)
    assert len(driver.calls) == 3


def test_a_driver_that_is_always_slow_is_not_called_twice():
    _, driver, source = opened(1)
    driver.stalls_s = [0.08] * 20
    for _ in range(6):
        source.read()
    assert len(driver.calls) == 6


@pytest.fixture
def meter(fake_nvml_dir: Path, etui_home: Path, tmp_path: Path) -> Any:
    """Measures on a clock that only the measuring program moves, as the sampler's thread would."""

    def measure(seconds: float = 0.6, **env: str) -> dict[str, Any]:
        settings = {f"FAKE_NVML_{key.upper()}": value for key, value in env.items()}
        done = subprocess.run(
            [sys.executable, "-c", READ, str(seconds)],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(fake_nvml_dir),
                "FAKE_NVML_CURVE": STEPS,
                **settings,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return measure


def curve_joules(start_ns: int, end_ns: int, text: str = STEPS) -> float:
    """Integral of a repeated curve, by the same definition as fake_nvml.c."""
    points = [tuple(map(float, part.split(":"))) for part in text.split(",")]
    span = points[-1][0]

    def until(seconds: float) -> float:
        rounds, rest = divmod(seconds, span)
        total = 0.0
        for (t0, w0), (t1, w1) in pairwise(points):
            whole = (t1 - t0) * (w0 + w1) / 2
            total += rounds * whole
            if rest >= t1:
                total += whole
            elif rest > t0:
                w = w0 + (w1 - w0) * (rest - t0) / (t1 - t0)
                total += (rest - t0) * (w0 + w) / 2
        return total

    return until(end_ns / 1e9) - until(start_ns / 1e9)


def assert_true_energy(found: dict[str, Any], scale: float = 1.0) -> None:
    truth = scale * curve_joules(found["start_ns"], found["end_ns"])
    assert found["joules"] is not None
    assert abs(found["joules"] - truth) <= found["uncertainty"]
    assert found["uncertainty"] < 0.5 * truth


def test_the_counter_field_gives_the_curves_integral(meter):
    found = meter()
    assert_true_energy(found)
    assert found["kind"] == "counter"
    assert found["coverage"] > 0.95
    assert found["uncertainty"] < 0.15 * found["joules"]
    assert found["probes"][0] == ["gpu:GPU-fake-0", True, True, "", ""]
    assert found["unmeasured"] == ["package:0"]
    assert found["limits"] == [450.0]
    assert found["periods"][0] == pytest.approx(0.1, rel=0.15)
    assert found["parts"].keys() == {"gpu:GPU-fake-0"}


@pytest.mark.parametrize(
    ("driver", "kind", "average_s", "remark"),
    [
        ({"stamp": "call"}, "counter", 0.0, ""),  # timestamps are those of the call
        ({"missing": "fields"}, "counter", 1.0, "average over one second"),  # the older calls
        ({"period": "0"}, "integrated", 0.0, "no energy counter"),
        ({"period": "0", "missing": "fields", "arch": "6"}, "integrated", 0.0, ""),  # Turing
        ({"mig": "1", "missing": "uuid"}, "counter", 0.0, "whole board"),
    ],
)
def test_older_and_odd_drivers_give_the_curves_integral(meter, driver, kind, average_s, remark):
    found = meter(**driver)
    assert_true_energy(found)
    assert (found["kind"], found["averages"]) == (kind, [average_s])
    assert remark in found["probes"][0][3]
    if "uuid" in driver.get("missing", ""):
        assert found["parts"].keys() == {"gpu:0"}


def test_the_average_of_ampere_and_newer_is_flagged(meter):
    found = meter(1.5, period="0", missing="fields")
    truth = curve_joules(found["start_ns"], found["end_ns"])
    assert abs(found["joules"] - truth) <= found["uncertainty"]
    assert found["kind"] == "integrated"
    assert "lag" in found["flags"]


def test_several_gpus_are_summed(meter):
    found = meter(gpus="3")
    assert_true_energy(found, scale=6)
    assert found["parts"]["gpu:GPU-fake-2"] == pytest.approx(
        3 * found["parts"]["gpu:GPU-fake-0"], rel=0.05
    )


def test_a_gpu_that_gives_nothing_is_named(meter):
    found = meter(missing="fields,total,usage")
    assert found["kind"] == "estimate"
    assert found["unmeasured"] == ["gpu:GPU-fake-0", "package:0"]
    probe = found["probes"][0]
    assert probe[:3] == ["gpu:GPU-fake-0", True, False]
    assert "neither energy nor power" in probe[3]


def test_a_module_reading_covers_gpu_and_cpu(meter):
    found = meter(0.6, period="0", missing="usage,average,instant-gpu")
    assert found["parts"].keys() == {"module:GPU-fake-0"}
    assert found["unmeasured"] == []
    assert "together" in found["labels"][0]


def test_a_driver_that_is_not_loaded_is_explained(meter, tmp_path):
    card = tmp_path / "sysfs" / "bus" / "pci" / "devices" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    found = meter(0.2, init="9")
    probe = found["probes"][0]
    assert probe[:3] == ["nvml", True, False]
    assert "driver not loaded" in probe[3]
    assert "install the NVIDIA driver" in probe[4]
    assert found["kind"] == "estimate"


def test_an_answer_costs_the_curves_integral(fake_nvml_dir, config, starter_model):
    """The whole path: etui ask, a real model, and the fake GPU's known curve."""
    idle = IdleBaseline({"gpu:GPU-fake-0": 60.0}, 1.0, 5.0, True)
    save_baselines(config, Baselines(loaded={"smollm2-135m": idle}))
    command = ["ask", "What is a joule?", "--model", "smollm2-135m", "--max-tokens", "8", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "etui", *command],
        env={
            **os.environ,
            "ETUI_MODELS": str(starter_model.parent),
            "LD_LIBRARY_PATH": str(fake_nvml_dir),
            "FAKE_NVML_CURVE": SLOPES,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    energy = document["energy"]
    # How wide the uncertainty is depends on when a busy machine lets the sampler read: the tests
    # on a clock of their own bound it. Here the truth has to lie within what the answer states.
    # The curve has no steps: one that is not of the answer, in a tick of the counter at its ends,
    # is outside of the stated uncertainty in about one answer of ten.
    truth = curve_joules(energy["start_ns"], energy["end_ns"], SLOPES)
    assert abs(energy["joules"] - truth) <= energy["uncertainty"]
    assert energy["kind"] == "counter"
    assert document["settings"]["idle_baseline"] == "loaded"
    seconds = document["seconds"]["total"]
    assert energy["net_joules"] == pytest.approx(energy["joules"] - 60 * seconds)
    phases = energy["phases"]
    assert phases["prefill"] + phases["decode"] == pytest.approx(energy["joules"], rel=1e-9)
    assert energy["phases"]["load"] > 0
