"""GPUs through hwmon, batteries, and Apple Silicon."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from etui.config.config import Config
from etui.energy.discovery import find_sources, open_recorder
from etui.energy.recorder import Recorder
from etui.energy.sources.apple import AppleSource
from etui.energy.sources.battery import BatterySource
from etui.energy.sources.hwmon import HwmonSource
from etui.energy.types import Kind
from tests.support.devices import FakeClock
from tests.support.play import sample

Write = Callable[..., Path]


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    return tmp_path / "sysfs"


@pytest.fixture
def write(sysfs: Path) -> Write:
    def make(folder: str, **files: object) -> Path:
        path = sysfs / folder
        for name, value in files.items():
            file = path / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        return path

    return make


def test_an_amd_card_is_integrated_power(sysfs: Path, write: Write) -> None:
    write(
        "class/hwmon/hwmon2",
        name="amdgpu",
        power1_average=118_000_000,
        power1_cap=220_000_000,
        device__uevent="DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0",
        device__mem_info_vram_total=16 << 30,
    )
    source = HwmonSource(sysfs)
    [channel] = source.channels
    assert channel.id == "gpu:0000:03:00.0"
    assert channel.kind is Kind.INTEGRATED
    assert channel.limit_watts == 220
    assert source.read()[channel.id].watts == 118
    assert source.read()[channel.id].joules is None


def test_newer_amd_cards_have_input_instead_of_average(sysfs: Path, write: Write) -> None:
    write("class/hwmon/hwmon2", name="amdgpu", power1_input=90_000_000)
    source = HwmonSource(sysfs)
    assert source.read()["gpu:hwmon2"].watts == 90


def test_an_apu_is_the_package_and_never_added_to_it(
    write: Write, powercap: Write, config: Config
) -> None:
    write(
        "class/hwmon/hwmon0",
        name="amdgpu",
        power1_input=15_000_000,
        device__mem_info_vram_total=512 << 20,
    )
    assert HwmonSource(config.sysfs_dir).channels[0].scope == "package:0"
    powercap("intel-rapl:0", "package-0")
    selection = open_recorder(config).selection
    assert [channel.id for channel in selection.summed] == ["package:0"]
    assert [channel.id for channel in selection.cross_checks] == ["package:0/hwmon"]


@pytest.mark.parametrize("driver", ["i915", "xe"])
def test_an_intel_card_has_a_counter(sysfs: Path, write: Write, driver: str) -> None:
    write("class/hwmon/hwmon3", name=driver, energy1_input=7_500_000, power1_max=190_000_000)
    source = HwmonSource(sysfs)
    [channel] = source.channels
    assert channel.kind is Kind.COUNTER
    assert source.read()[channel.id].joules == 7.5


def test_a_sleeping_gpu_is_missing_and_not_zero(sysfs: Path, write: Write) -> None:
    folder = write("class/hwmon/hwmon2", name="amdgpu", power1_average=118_000_000)
    source = HwmonSource(sysfs)
    (folder / "power1_average").write_text("0\n")
    assert source.read()["gpu:hwmon2"].watts is None
    (folder / "power1_average").write_text("-3\n")
    assert source.read()["gpu:hwmon2"].watts is None
    (folder / "power1_average").unlink()
    assert source.read()["gpu:hwmon2"].watts is None


def test_other_hwmon_devices_are_left_alone(sysfs: Path, write: Write) -> None:
    write("class/hwmon/hwmon0", name="nvme", power1_input=5_000_000)
    source = HwmonSource(sysfs)
    assert source.channels == []
    assert source.probe() == []


def test_garbage_is_unreadable_and_named(write: Write, config: Config) -> None:
    write("class/hwmon/hwmon2", name="amdgpu", power1_average="n/a")
    found = find_sources(config)
    assert "gpu:hwmon2" in found.unmeasured
    probe = next(p for p in found.probes if p.id == "gpu:hwmon2")
    assert not probe.readable
    assert "not a number" in probe.why_not


def test_a_discharging_battery_is_the_whole_machine(write: Write, config: Config) -> None:
    write(
        "class/power_supply/BAT0",
        type="Battery",
        status="Discharging",
        power_now=12_500_000,
    )
    source = BatterySource(config.sysfs_dir)
    assert source.read()["battery"].watts == 12.5
    recorder = open_recorder(config)
    assert [channel.kind for channel in recorder.selection.summed] == [Kind.BATTERY]
    assert recorder.unmeasured == ()


def test_current_times_voltage_stands_in_for_power(sysfs: Path, write: Write) -> None:
    write(
        "class/power_supply/BAT0",
        type="Battery",
        status="Discharging",
        current_now=-1_000_000,
        voltage_now=11_400_000,
    )
    assert BatterySource(sysfs).read()["battery"].watts == pytest.approx(11.4)


def test_two_batteries_are_added(sysfs: Path, write: Write) -> None:
    for name, power in (("BAT0", 8_000_000), ("BAT1", 4_000_000)):
        write(f"class/power_supply/{name}", type="Battery", status="Discharging", power_now=power)
    assert BatterySource(sysfs).read()["battery"].watts == 12


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_on_mains_a_battery_says_nothing(sysfs: Path, write: Write, status: str) -> None:
    write("class/power_supply/BAT0", type="Battery", status=status, power_now=9_000_000)
    source = BatterySource(sysfs)
    assert source.channels == []
    assert "unplug" in source.probe()[0].fix


def test_a_mouse_is_no_battery_of_the_machine(sysfs: Path, write: Write) -> None:
    write(
        "class/power_supply/hidpp_0",
        type="Battery",
        scope="Device",
        status="Discharging",
        power_now=1,
    )
    assert BatterySource(sysfs).probe() == []


def test_the_battery_checks_a_finer_total(write: Write, powercap: Write, config: Config) -> None:
    write("class/power_supply/BAT0", type="Battery", status="Discharging", power_now=12_500_000)
    powercap("intel-rapl:0", "package-0")
    selection = open_recorder(config).selection
    assert [channel.id for channel in selection.summed] == ["package:0"]
    assert [channel.id for channel in selection.cross_checks] == ["battery"]


def test_a_battery_that_only_checks_leaves_the_package_unmeasured(
    write: Write, config: Config
) -> None:
    write("class/power_supply/BAT0", type="Battery", status="Discharging", power_now=30_000_000)
    write("class/hwmon/hwmon2", name="amdgpu", power1_average=18_000_000)
    recorder = open_recorder(config)
    assert [channel.id for channel in recorder.selection.summed] == ["gpu:hwmon2"]
    assert recorder.unmeasured == ("package:0",)


def test_a_battery_alone_leaves_nothing_unmeasured(write: Write, config: Config) -> None:
    write("class/power_supply/BAT0", type="Battery", status="Discharging", power_now=30_000_000)
    write("class/hwmon/hwmon2", name="amdgpu", power1_average="asleep")
    assert open_recorder(config).unmeasured == ()


class Monitor:
    """An AppleEnergyMonitor that counts 8 W of CPU, 20 W of GPU and no memory."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.fails = False

    def get_cumulative_energy(self) -> SimpleNamespace:
        if self.fails:
            raise RuntimeError("IOReport subscription is gone")
        milliseconds = self.clock.seconds * 1e3
        return SimpleNamespace(
            cpu_total_mj=int(8 * milliseconds),
            gpu_mj=int(20 * milliseconds),
            dram_mj=None,
            ane_mj=0,
        )


def test_apple_silicon_is_the_vendors_model() -> None:
    clock = FakeClock()
    source = AppleSource(clock, Monitor(clock), on_apple=True)
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(8))
    assert energy.kind is Kind.MODEL
    parts = {part.id: part.joules for part in energy.channels}
    assert parts["package:0"] == pytest.approx(48, rel=0.01)
    assert parts["gpu:apple"] == pytest.approx(120, rel=0.01)
    assert "dram:0" not in parts
    assert energy.coverage == 1


def test_apple_counters_that_stop_are_gaps() -> None:
    clock = FakeClock()
    monitor = Monitor(clock)
    source = AppleSource(clock, monitor, on_apple=True)
    monitor.fails = True
    assert source.read()["gpu:apple"].joules is None


def test_a_mac_without_the_package_is_told_what_to_install() -> None:
    [probe] = AppleSource(on_apple=True).probe()
    assert probe.found
    assert probe.fix == "pip install zeus-apple-silicon"
    assert AppleSource(on_apple=False).probe() == []
