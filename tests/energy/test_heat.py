"""Temperatures and throttling by heat, from a fake sysfs and a fake NVML."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.devices import Heat, HeatSensors, describe_throttling
from tests.energy.fake_nvml import OpenDriver


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


class NVMLError(Exception):
    pass


def nvml(**calls: Any) -> Any:
    """A source with one GPU whose driver has these calls."""
    library = SimpleNamespace(NVMLError=NVMLError, **calls)
    return OpenDriver(library, [(SimpleNamespace(scope="gpu:GPU-1"), "handle")])


def refuse(*_: object) -> None:
    raise NVMLError


def test_a_machine_without_sensors_knows_nothing(tmp_path):
    assert HeatSensors(tmp_path).read() == Heat()


def test_the_hottest_sensor_of_each_device_counts(tmp_path):
    hwmon = tmp_path / "class" / "hwmon"
    write(hwmon / "hwmon0", name="coretemp", temp1_input=61_000, temp2_input=64_500, temp1_max=99)
    write(hwmon / "hwmon1", name="amdgpu", temp1_input=71_000)
    write(hwmon / "hwmon2", name="nvme", temp1_input=90_000)
    heat = HeatSensors(tmp_path).read()
    assert (heat.cpu_celsius, heat.gpu_celsius) == (64.5, 71.0)


def test_a_thermal_zone_of_the_cpu_replaces_hwmon(tmp_path):
    thermal = tmp_path / "class" / "thermal"
    write(thermal / "thermal_zone0", type="acpitz", temp=90_000)
    write(thermal / "thermal_zone1", type="x86_pkg_temp", temp=52_000)
    assert HeatSensors(tmp_path).read().cpu_celsius == 52.0


@pytest.mark.parametrize("value", ["", "no number", "-273000", "255000"])
def test_a_sensor_that_says_nonsense_is_unknown(tmp_path, value):
    write(tmp_path / "class" / "hwmon" / "hwmon0", name="k10temp", temp1_input=value)
    assert HeatSensors(tmp_path).read().cpu_celsius is None


def test_throttle_counters_are_compared_and_not_added_up(tmp_path):
    cpu = tmp_path / "devices" / "system" / "cpu"
    for number in (0, 1):
        write(cpu / f"cpu{number}" / "thermal_throttle", package_throttle_count=5)
    write(cpu / "cpu0" / "thermal_throttle", core_throttle_count=1)
    sensors = HeatSensors(tmp_path)
    before = sensors.read()
    assert describe_throttling(before, sensors.read()) == ""
    for number in (0, 1):
        write(cpu / f"cpu{number}" / "thermal_throttle", package_throttle_count=7)
    assert describe_throttling(before, sensors.read()) == "the CPU was slowed down by heat 2 times"


def test_a_gpu_gives_its_temperature_and_its_time_of_violations(tmp_path):
    times = iter([1_000_000_000, 1_400_000_000])
    source = nvml(
        nvmlDeviceGetTemperature=lambda handle, sensor: 66,
        nvmlDeviceGetViolationStatus=lambda handle, policy: SimpleNamespace(
            violationTime=next(times)
        ),
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x20,
    )
    sensors = HeatSensors(tmp_path, source)
    before, after = sensors.read(), sensors.read()
    assert after.gpu_celsius == 66.0
    assert describe_throttling(before, after) == "a GPU was slowed down by heat for 0.40 s"


@pytest.mark.parametrize(
    ("name", "reasons", "expected"),
    [
        ("nvmlDeviceGetCurrentClocksEventReasons", 0x40, "a GPU was slowed down by heat"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", 0x20, "a GPU was slowed down by heat"),
        ("nvmlDeviceGetCurrentClocksEventReasons", 0x4 | 0x1, ""),  # a power cap, idle
    ],
)
def test_without_that_time_the_reasons_for_the_clocks_count(tmp_path, name, reasons, expected):
    source = nvml(nvmlDeviceGetViolationStatus=refuse, **{name: lambda handle: reasons})
    heat = HeatSensors(tmp_path, source).read()
    assert heat.gpu_celsius is None
    assert describe_throttling(heat, heat) == expected


def test_a_driver_that_has_ended_is_not_asked(tmp_path):
    source = OpenDriver(None, [(SimpleNamespace(scope="gpu:1"), "handle")])
    assert HeatSensors(tmp_path, source).read() == Heat()


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10**6)), st.integers(0, 1000))
def test_counters_that_stay_or_begin_are_no_throttling(counts, more):
    before = Heat(cpu_throttles=counts)
    assert describe_throttling(before, Heat(cpu_throttles={**counts, "new": more})) == ""
    assert describe_throttling(before, Heat(cpu_throttles={})) == ""
    lower = {name: count - 1 for name, count in counts.items()}
    assert describe_throttling(before, Heat(cpu_throttles=lower)) == ""
