"""The state of the devices from fake drivers and a fake sysfs; missing is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etui.energy.devices import DeviceReader, read_cpu_times, read_gpu
from etui.energy.recorder import Recorder
from etui.energy.sharing import CpuWatch, DeviceVitals, GpuWatch
from etui.energy.types import Channel, ChannelProbe, Kind, Reading
from tests.energy.fake_nvml import OpenDriver

SECOND = 1_000_000_000
ADDRESS = "0000:03:00.0"
GPU = Channel("gpu:GPU-1", "gpu:GPU-1", Kind.COUNTER, limit_watts=350.0)


class NvmlError(Exception):
    pass


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


def test_an_nvidia_gpu_reports_everything_and_who_uses_it(tmp_path: Path) -> None:
    gpus = watch(Library())
    gpus._proc = tmp_path  # both processes are visible
    (tmp_path / "2").mkdir()
    gpus.read()
    (found,) = reader(tmp_path, Recorder([Readable(GPU)], watch=gpus)).read()
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
def test_what_a_driver_does_not_report_is_none(tmp_path: Path, missing: str, field: str) -> None:
    gpus = watch(Library(missing))
    gpus.read()
    (found,) = reader(tmp_path, Recorder([Readable(GPU)], watch=gpus)).read()
    assert getattr(found, field) is None


def test_a_gpu_that_was_not_read_yet_has_no_values(tmp_path: Path) -> None:
    recorder = Recorder([Readable(GPU)], watch=watch(Library()))
    assert reader(tmp_path, recorder).read() == (DeviceVitals("gpu:GPU-1"),)


def test_an_amd_gpu_is_read_from_sysfs(tmp_path: Path) -> None:
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


def test_an_idle_amd_gpu_is_at_0_and_not_missing(tmp_path: Path) -> None:
    device = tmp_path / "class" / "hwmon" / "hwmon2" / "device"
    write(device / "gpu_busy_percent", 0)
    assert read_gpu(tmp_path, "gpu:hwmon2").utilisation == 0.0


def test_a_package_has_the_sensor_and_the_clocks_of_its_own(tmp_path: Path) -> None:
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


def test_an_estimate_shows_the_use_of_the_cpus_and_etuis_part(tmp_path: Path) -> None:
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
    (found,) = reader(tmp_path, Recorder([Readable(estimate)], cpu_watch=cpus)).read()
    assert found == DeviceVitals("estimate:cpu", 0.75, 66.5, shared=True, own_share=0.5)


def test_memory_has_no_state(tmp_path: Path) -> None:
    dram = Channel("dram:0", "dram:0", Kind.COUNTER)
    assert reader(tmp_path, Recorder([Readable(dram)])).read() == (DeviceVitals("dram:0"),)


def test_the_times_of_this_machine_can_be_read() -> None:
    times = read_cpu_times()
    assert times
    assert all(0 <= busy <= total for busy, total in times)
