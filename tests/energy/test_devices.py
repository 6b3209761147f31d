"""The state of the devices from fake drivers and a fake sysfs; missing is None, never 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.devices import (
    ChannelState,
    DeviceReader,
    Heat,
    HeatSensors,
    describe_throttling,
    join_states,
    read_gpu,
)
from etui.energy.recorder import Recorder
from etui.energy.sharing import CpuWatch, DeviceVitals, GpuWatch
from etui.energy.types import Channel, ChannelPower, ChannelProbe, Kind, Reading
from tests.energy.fake_nvml import OpenDriver
from tests.support.devices import FakeClock, FakeDevice
from tests.support.power_curves import steps

STATES = """
import dataclasses, json, os, time
os.environ["FAKE_NVML_PIDS"] = os.environ["PIDS"] % os.getpid()
from etui.config.config import load_config
from etui.energy.devices import join_states
from etui.energy.devices import DeviceReader
from etui.energy.discovery import open_recorder
config = load_config()
with open_recorder(config) as recorder:
    reader = DeviceReader(recorder, config.sysfs_dir, time.monotonic_ns)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        found = join_states(recorder.latest(), reader.read(), recorder.idle_by_channel)
        gpus = [s.device for s in found if s.power.channel.scope.startswith("gpu:")]
        known = all(gpu.temperature_celsius is not None for gpu in gpus)
        known = known and (all(gpu.own_share for gpu in gpus) or ":0" in os.environ["PIDS"])
        if known and found[0].power.watts is not None:
            break
        time.sleep(0.05)
print(json.dumps([
    dict(dataclasses.asdict(s.device), scope=s.power.channel.scope, limit=s.limit_watts,
         own=s.own_watts) for s in found]))
"""
CHANNEL = Channel("gpu:a", "gpu:a", Kind.COUNTER)
SECOND = 1_000_000_000
ADDRESS = "0000:03:00.0"
GPU = Channel("gpu:GPU-1", "gpu:GPU-1", Kind.COUNTER, limit_watts=350.0)


def test_the_hottest_sensor_of_each_device_counts(tmp_path):
    assert HeatSensors(tmp_path).read() == Heat()
    for folder, name, value in (
        ("thermal_zone0", "acpitz", 90),
        ("thermal_zone1", "x86_pkg_temp", 52),
    ):
        write(tmp_path / "class" / "thermal" / folder / "type", name)
        write(tmp_path / "class" / "thermal" / folder / "temp", 1000 * value)
    assert HeatSensors(tmp_path).read().cpu_celsius == 52.0
    for number, (name, values) in enumerate(
        (("coretemp", (61_000, 64_500)), ("amdgpu", (71_000,)), ("nvme", (90_000,)))
    ):
        folder = tmp_path / "class" / "hwmon" / f"hwmon{number}"
        write(folder / "name", name)
        for index, value in enumerate(values):
            write(folder / f"temp{index}_input", value)
    heat = HeatSensors(tmp_path).read()
    assert (heat.cpu_celsius, heat.gpu_celsius) == (64.5, 71.0)


@pytest.mark.parametrize("value", ["", "no number", "-273000", "255000"])
def test_a_sensor_that_says_nonsense_is_unknown(tmp_path, value):
    write(tmp_path / "class" / "hwmon" / "hwmon0" / "name", "k10temp")
    write(tmp_path / "class" / "hwmon" / "hwmon0" / "temp1_input", value)
    assert HeatSensors(tmp_path).read().cpu_celsius is None


def test_throttle_counters_are_compared_and_not_added_up(tmp_path):
    cpu = tmp_path / "devices" / "system" / "cpu"
    for number in (0, 1):
        write(cpu / f"cpu{number}" / "thermal_throttle" / "package_throttle_count", 5)
    write(cpu / "cpu0" / "thermal_throttle" / "core_throttle_count", 1)
    sensors = HeatSensors(tmp_path)
    before = sensors.read()
    assert describe_throttling(before, sensors.read()) == ""
    for number in (0, 1):
        write(cpu / f"cpu{number}" / "thermal_throttle" / "package_throttle_count", 7)
    after = sensors.read()
    assert describe_throttling(before, after) == "the CPU was slowed down by heat 2 times"
    assert describe_throttling(after, before) == describe_throttling(Heat(), after) == ""


def test_a_driver_that_has_ended_is_not_asked(tmp_path):
    source = OpenDriver(None, [(GPU, "handle")])
    assert HeatSensors(tmp_path, source).read() == Heat()


class NvmlError(Exception):
    pass


@pytest.mark.parametrize(
    ("calls", "celsius", "said"),
    [
        (
            {
                "nvmlDeviceGetTemperature": lambda handle, sensor: 66,
                "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(
                    violationTime=next(TIMES)
                ),
                "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x20,
            },
            *(66.0, "a GPU was slowed down by heat for 0.40 s"),
        ),
        # Without that time the reasons for the clocks count.
        *(
            (
                {f"nvmlDeviceGetCurrentClocks{name}Reasons": lambda handle, bits=bits: bits},
                None,
                said,
            )
            for name, bits, said in (
                ("Event", 0x40, "a GPU was slowed down by heat"),
                ("Throttle", 0x20, "a GPU was slowed down by heat"),
                ("Event", 0x4 | 0x1, ""),  # a power cap, idle
            )
        ),
    ],
)
def test_a_gpu_says_how_heat_slowed_it_down(tmp_path, calls, celsius, said):
    library = SimpleNamespace(NVMLError=NvmlError, **calls)
    sensors = HeatSensors(tmp_path, OpenDriver(library, [(GPU, "handle")]))
    before, after = sensors.read(), sensors.read()
    assert after.gpu_celsius == celsius
    assert describe_throttling(before, after) == said


TIMES = iter([1_000_000_000, 1_400_000_000])


@pytest.mark.parametrize(
    ("changes", "pids", "utilisation", "own_share"),
    [
        ({}, "%d:60,OTHER:20", 0.1, 0.75),
        ({"FAKE_NVML_MISSING": "rates"}, "%d:60", None, 1.0),  # nobody else uses it
        ({}, "%d:0", 0.1, None),  # nobody does
    ],
)
def test_gpus_a_package_and_its_memory_have_their_states(
    many_channels, changes, pids, utilisation, own_share
):
    done = subprocess.run(
        [sys.executable, "-c", STATES],
        env={**many_channels, "PIDS": pids.replace("OTHER", str(os.getpid())), **changes},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    gpus, (package, dram) = found[:8], found[8:]
    assert gpus[0]["utilisation"] == utilisation
    assert {state["temperature_celsius"] for state in gpus} == {61}
    assert {(state["clock_mhz"], state["memory_mhz"]) for state in gpus} == {(1980, 9501)}
    assert all(state["own_share"] == (own_share and pytest.approx(own_share)) for state in gpus)
    assert (gpus[0]["own"] is None) == (own_share is None)
    assert gpus[0]["memory_total_bytes"] is None  # this driver does not report it
    assert (package["scope"], package["limit"]) == ("package:0", 150)
    assert (package["temperature_celsius"], package["clock_mhz"]) == (58, 2100)
    assert dram["utilisation"] is dram["temperature_celsius"] is dram["own"] is None


def test_etuis_part_of_the_cpu_is_recorded_once_it_is_shown(tmp_path):
    clock = FakeClock()
    used = {"own": 0.0, "busy": 0.0}
    watch = CpuWatch(
        clock, lambda: used["own"], lambda: (used["busy"], clock.seconds * 4), attribute=False
    )
    device = FakeDevice(steps([(99.0, 100.0)]), clock, scope="package:0", limit_watts=150.0)
    recorder = Recorder([device, watch], clock=clock)
    recorder.set_idle({"package:0": 20.0})

    def run(seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            clock.advance(0.05)
            used["own"] += 0.05
            used["busy"] += 0.1
            recorder.sample_now()

    run(3)
    assert watch.share("package:0", clock.at(1), clock.at(3)).own is None  # nobody asked for it
    reader = DeviceReader(recorder, tmp_path, clock)
    run(3)
    (state,) = join_states(recorder.latest(), reader.read(), recorder.idle_by_channel)
    assert state.device.utilisation == pytest.approx(0.5)
    assert state.device.own_share == pytest.approx(0.5)
    assert state.power.watts == pytest.approx(100, rel=0.05)
    assert state.own_watts == pytest.approx(40, rel=0.1)
    assert state.others_watts == pytest.approx(40, rel=0.1)
    assert state.device.temperature_celsius is None
    assert recorder.energy(clock.at(4), clock.at(6)).own_joules is None  # only of estimates


@given(
    watts=st.none() | st.floats(0, 1000),
    idle=st.none() | st.floats(0, 1000),
    share=st.none() | st.floats(0, 1),
)
def test_idle_own_and_others_are_the_whole(watts, idle, share):
    state = ChannelState(
        ChannelPower(CHANNEL, 0, watts, None, True), DeviceVitals("gpu:a", own_share=share), idle
    )
    own, others = state.own_watts, state.others_watts
    if watts is None or share is None:
        assert own is others is None
    else:
        assert own is not None
        assert others is not None
        assert own >= 0
        assert others >= 0
        assert own + others + min(idle or 0.0, watts) == pytest.approx(watts, abs=1e-6)


class Library:
    """The functions of pynvml that the watch calls; those in ``without`` are not supported."""

    NVMLError = NvmlError

    def __init__(self, *without: str) -> None:
        self._without = without

    def __getattr__(self, name: str) -> Any:
        values: dict[str, Any] = {
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=1), SimpleNamespace(pid=2),
            ],
            "nvmlDeviceGetProcessUtilization": [
                SimpleNamespace(timeStamp=5, pid=1, smUtil=60),
                SimpleNamespace(timeStamp=5, pid=2, smUtil=20),
            ],
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=87, memory=30),
            "nvmlDeviceGetEnforcedPowerLimit": 300_000,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=40_000_000_000, total=48_000_000_000),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetClockInfo": 1980,
        }  # fmt: skip

        def call(*_args: Any) -> Any:
            if name in self._without or name not in values:
                raise NvmlError
            return values[name]

        return call


class Readable:
    """A source whose channels have no reading."""

    name = "fake"

    def __init__(self, *channels: Channel) -> None:
        self.channels: Sequence[Channel] = channels

    def probe(self) -> Sequence[ChannelProbe]:
        return ()

    def read(self) -> Mapping[str, Reading]:
        return {}

    def close(self) -> None:
        pass


def watch(library: Library) -> GpuWatch:
    nvml = OpenDriver(library, [(GPU, "handle")])
    return GpuWatch(nvml, clock=lambda: SECOND, is_own=lambda pid: pid == 1, proc=Path("/"))


def reader(tmp_path: Path, recorder: Recorder, **given: Any) -> DeviceReader:
    return DeviceReader(recorder, tmp_path, lambda: SECOND, **given)


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_an_nvidia_gpu_reports_everything_and_who_uses_it(tmp_path):
    gpus = watch(Library())
    gpus._proc = tmp_path  # both processes are visible
    (tmp_path / "2").mkdir()
    gpus.read()
    dram = Channel("dram:0", "dram:0", Kind.COUNTER)
    (found, memory) = reader(tmp_path, Recorder([Readable(GPU, dram), gpus])).read()
    assert memory == DeviceVitals("dram:0")
    assert found == DeviceVitals(
        "gpu:GPU-1", 0.87, 61, 1980, 1980, 300.0, 40_000_000_000, 48_000_000_000, True, 0.75
    )


@pytest.mark.parametrize(
    ("missing", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilisation"),
        ("nvmlDeviceGetTemperature", "temperature_celsius"),
        ("nvmlDeviceGetClockInfo", "clock_mhz"),
        ("nvmlDeviceGetEnforcedPowerLimit", "limit_watts"),
        ("nvmlDeviceGetMemoryInfo", "memory_used_bytes"),
        ("nvmlDeviceGetProcessUtilization", "own_share"),
    ],
)
def test_what_a_driver_does_not_report_is_none(tmp_path, missing, field):
    gpus = watch(Library(missing))
    gpus.read()
    (found,) = reader(tmp_path, Recorder([Readable(GPU), gpus])).read()
    assert getattr(found, field) is None


def test_an_amd_gpu_is_read_from_sysfs(tmp_path):
    device = tmp_path / "bus" / "pci" / "devices" / ADDRESS
    for name, value in (
        ("gpu_busy_percent", 42), ("mem_info_vram_used", 8_000_000_000),
        ("mem_info_vram_total", 16_000_000_000), ("hwmon/hwmon3/temp1_input", 55_000),
        ("hwmon/hwmon3/freq1_input", 2_100_000_000), ("hwmon/hwmon3/freq2_input", 1_200_000_000),
        ("hwmon/hwmon3/power1_cap", 220_000_000),
    ):  # fmt: skip
        write(device / name, value)
    assert read_gpu(tmp_path, f"gpu:{ADDRESS}") == DeviceVitals(
        f"gpu:{ADDRESS}", 0.42, 55.0, 2100.0, 1200.0, 220.0, 8_000_000_000, 16_000_000_000
    )
    assert read_gpu(tmp_path, "gpu:elsewhere") == DeviceVitals("gpu:elsewhere")


def test_a_package_has_the_sensor_and_the_clocks_of_its_own(tmp_path):
    for package, temperature in ((0, 48_000), (1, 71_000)):
        sensor = tmp_path / "class" / "hwmon" / f"hwmon{package}"
        write(sensor / "name", "coretemp")
        write(sensor / "temp1_label", f"Package id {package}")
        write(sensor / "temp1_input", temperature)
    for cpu, package in ((0, 0), (1, 0), (2, 1)):
        folder = tmp_path / "devices" / "system" / "cpu" / f"cpu{cpu}"
        write(folder / "topology" / "physical_package_id", package)
        write(folder / "cpufreq" / "scaling_cur_freq", 1_000_000 * (cpu + 1))
    packages = [Channel(f"package:{n}", f"package:{n}", Kind.COUNTER) for n in (0, 1)]
    times = iter([[(0.0, 0.0)] * 3, [(1.0, 1.0), (0.0, 1.0), (0.2, 1.0)]])
    devices = reader(tmp_path, Recorder([Readable(*packages)]), cpu_times=lambda: next(times))
    assert [d.utilisation for d in devices.read()] == [None, None]
    first, second = devices.read()
    assert (first.utilisation, second.utilisation) == (0.5, 0.2)
    assert (first.temperature_celsius, second.temperature_celsius) == (48.0, 71.0)
    assert (first.clock_mhz, second.clock_mhz) == (1500.0, 3000.0)


def test_an_estimate_shows_the_use_of_the_cpus_and_etuis_part(tmp_path):
    now = [0]
    used = iter([(0.0, 0.0), (3.0, 4.0)])
    own = iter([0.0, 1.5])
    cpus = CpuWatch(lambda: now[0], own_seconds=lambda: next(own), cpu_seconds=lambda: next(used))
    cpus.read()
    now[0] = SECOND
    cpus.read()
    estimate = Channel("estimate:cpu", "estimate:cpu", Kind.ESTIMATE, limit_watts=65.0)
    sensor = tmp_path / "class" / "hwmon" / "hwmon0"
    write(sensor / "name", "k10temp")
    write(sensor / "temp1_label", "Tctl")
    write(sensor / "temp1_input", 66_500)
    (found,) = reader(tmp_path, Recorder([Readable(estimate), cpus])).read()
    assert found == DeviceVitals("estimate:cpu", 0.75, 66.5, shared=True, own_share=0.5)
