"""GPUs through hwmon and amdsmi, and batteries."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from etui.energy.discovery import find_sources, open_recorder
from etui.energy.recorder import Recorder
from etui.energy.sources.battery import BatterySource
from etui.energy.sources.hwmon import AmdSmiSource, HwmonSource
from etui.energy.types import Kind
from tests.support.devices import FakeClock
from tests.support.play import sample
from tests.support.power_curves import WattCurve, constant, steps

ADDRESS = "0000:03:00.0"
RESOLUTION_UJ = 15.259
BUSY = steps([(4, 90.0), (4, 280.0), (4, 120.0)])
Opened = Callable[..., AmdSmiSource]


class FakeAmdSmi(ModuleType):
    """The part of the module ``amdsmi`` that is used, with the shapes it answers in.

    Args:
        clock: What time it is.
        curves: Power of each GPU; None for one that reports nothing.
        unit: What the counter is multiplied by, as firmware has done.
        gone_at: Seconds from which every call fails.
    """

    class AmdSmiLibraryException(Exception):
        """As amdsmi's own, it has no base in common with OSError."""

    def __init__(
        self,
        clock: FakeClock,
        *curves: WattCurve | None,
        unit: float = 1.0,
        average: object = True,
        gone_at: float = 1e9,
    ) -> None:
        super().__init__("amdsmi")
        self.clock, self.curves, self.unit = clock, curves, unit
        self.average, self.gone_at = average, gone_at
        self.open = False

    def amdsmi_init(self) -> None:
        self.open = True

    def amdsmi_shut_down(self) -> None:
        self.open = False

    def amdsmi_get_processor_handles(self) -> list[int]:
        return list(range(len(self.curves)))

    def amdsmi_get_gpu_device_bdf(self, handle: int) -> str:
        return f"0000:0{3 + handle}:00.0"

    def amdsmi_get_energy_count(self, handle: int) -> dict[str, Any]:
        curve = self._curve(handle)
        joules = self.unit * curve.joules(self.clock.seconds) if curve else 0.0
        count = 1_000_000_000 + int(joules * 1e6 / RESOLUTION_UJ) if curve else 0
        return {
            "energy_accumulator": count,
            "counter_resolution": RESOLUTION_UJ,
            "timestamp": self.clock(),
        }

    def amdsmi_get_power_info(self, handle: int) -> dict[str, Any]:
        curve = self._curve(handle)
        watts = int(curve.watts(self.clock.seconds)) if curve else 0
        return {
            "current_socket_power": "N/A" if self.average is True else watts,
            "average_socket_power": watts if self.average is True else self.average,
            "power_limit": 303_000_000,
        }

    def _curve(self, handle: int) -> WattCurve | None:
        if self.clock.seconds >= self.gone_at:
            raise self.AmdSmiLibraryException("AMDSMI_STATUS_DRM_ERROR")
        return self.curves[handle]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opened(clock: FakeClock, tmp_path: Path) -> Opened:
    def make(library: FakeAmdSmi) -> AmdSmiSource:
        return AmdSmiSource(tmp_path / "sysfs", clock, library, sleep=clock.advance)

    return make


def test_the_counter_is_read_in_joules(clock, opened):
    source = opened(FakeAmdSmi(clock, BUSY))
    [channel] = source.channels
    assert (channel.id, channel.scope, channel.kind) == (
        f"gpu:{ADDRESS}",
        f"gpu:{ADDRESS}",
        Kind.COUNTER,
    )
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(9))
    assert energy.joules == pytest.approx(BUSY.between(2, 9), rel=0.01)
    assert energy.kind is Kind.COUNTER


@pytest.mark.parametrize("unit", [0.01, 100.0, 1e6, -1.0, 0.0])
def test_a_counter_that_contradicts_the_power_is_not_used(clock, opened, unit):
    source = opened(FakeAmdSmi(clock, BUSY, unit=unit))
    [channel] = source.channels
    assert channel.kind is Kind.INTEGRATED
    [probe] = source.probe()
    assert probe.readable
    assert "power is integrated" in probe.why_not
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(9))
    assert energy.joules == pytest.approx(BUSY.between(2, 9), rel=0.03)
    assert energy.kind is Kind.INTEGRATED


@pytest.mark.parametrize("average", ["N/A", None, 0, 0xFFFF, float("nan"), -5])
def test_a_card_without_average_power_gives_its_current_one(clock, opened, average):
    source = opened(FakeAmdSmi(clock, constant(118.0, 10), average=average))
    assert source.read()[f"gpu:{ADDRESS}"].watts == 118


def test_the_second_die_of_a_card_is_not_a_zero(clock, opened):
    source = opened(FakeAmdSmi(clock, BUSY, None))
    assert [channel.id for channel in source.channels] == [f"gpu:{ADDRESS}"]
    assert [(probe.id, probe.readable) for probe in source.probe()] == [
        (f"gpu:{ADDRESS}", True),
        ("gpu:0000:04:00.0", False),
    ]


def test_a_gpu_that_vanishes_leaves_a_gap(clock, opened):
    source = opened(FakeAmdSmi(clock, constant(118.0, 30), gone_at=5))
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    assert recorder.energy(clock.at(1), clock.at(4)).joules == pytest.approx(3 * 118, rel=0.01)
    assert recorder.energy(clock.at(1), clock.at(9)).coverage < 0.6


def test_a_library_that_fails_is_told_and_closed_quietly(clock, opened):
    class Broken(FakeAmdSmi):
        def amdsmi_init(self) -> None:
            raise KeyError("libamd_smi.so\nnot found")

    source = opened(Broken(clock, BUSY))
    assert source.channels == []
    [probe] = source.probe()
    assert not probe.readable
    assert "\n" not in probe.why_not
    source.close()


def test_closing_gives_the_library_back(clock, opened):
    library = FakeAmdSmi(clock, BUSY)
    source = opened(library)
    assert library.open
    source.close()
    source.close()
    assert not library.open
    assert source.read() == {}


@pytest.fixture
def installed(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeAmdSmi:
    library = FakeAmdSmi(clock, constant(118.0, 1000))
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    monkeypatch.setattr("etui.energy.sources.hwmon.CHECK_SECONDS", 0.0)
    return library


def card(sysfs: Path, *, vram_bytes: int, apu: bool = False) -> None:
    """An AMD GPU below hwmon, as its PCI device sees it."""
    device = sysfs / "bus" / "pci" / "devices" / ADDRESS
    hwmon = device / "hwmon" / "hwmon2"
    hwmon.mkdir(parents=True)
    (device / "uevent").write_text(f"DRIVER=amdgpu\nPCI_SLOT_NAME={ADDRESS}\n")
    (device / "mem_info_vram_total").write_text(f"{vram_bytes}\n")
    for name, value in (("name", "amdgpu"), ("power1_average", 90_000_000)):
        (hwmon / name).write_text(f"{value}\n")
    (hwmon / "power1_cap").write_text("303000000\n")
    label, text = ("in1_label", "vddnb") if apu else ("freq2_label", "mclk")
    (hwmon / label).write_text(f"{text}\n")
    (hwmon / "device").symlink_to(device)
    (sysfs / "class" / "hwmon").mkdir(parents=True)
    (sysfs / "class" / "hwmon" / "hwmon2").symlink_to(hwmon)


@pytest.mark.usefixtures("installed")
def test_one_card_seen_by_amdsmi_and_hwmon_counts_once(config):
    card(config.sysfs_dir, vram_bytes=16 << 30)
    found = find_sources(config)
    channels = [channel for source in found.sources for channel in source.channels]
    assert [(c.id, c.limit_watts) for c in channels] == [(f"gpu:{ADDRESS}", 303)]
    assert [type(source).__name__ for source in found.sources] == ["AmdSmiSource", "CpuWatch"]
    assert found.unmeasured == ("package:0",)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("gib", [1, 8, 96])
def test_an_apu_stays_the_package_that_hwmon_knows(config, gib):
    card(config.sysfs_dir, vram_bytes=gib << 30, apu=True)
    found = find_sources(config)
    channels = [channel for source in found.sources for channel in source.channels]
    assert [channel.id for channel in channels] == ["package:0/hwmon"]


@pytest.mark.parametrize("file", ["power1_average", "power1_input"])  # the latter is newer
def test_an_amd_card_is_integrated_power(sysfs, write, file):
    write(
        "class/hwmon/hwmon2",
        name="amdgpu",
        **{file: 118_000_000},
        power1_cap=220_000_000,
        freq2_label="mclk",
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


@pytest.mark.parametrize("vram_gib", [0.5, 2, 2.5, 8, 64, 96])
@pytest.mark.parametrize(
    "shown",
    [
        {"in1_label": "vddnb"},
        {"in1_label": "vddnb", "device__mem_info_vram_vendor": "unknown"},  # older kernels
        {"device__mem_info_vram_vendor": "unknown"},
        {},
    ],
)
def test_an_apu_is_the_package_and_never_added_to_it(write, powercap, config, vram_gib, shown):
    write(
        "class/hwmon/hwmon0",
        name="amdgpu",
        power1_input=15_000_000,
        device__mem_info_vram_total=int(vram_gib * (1 << 30)),
        **shown,
    )
    assert HwmonSource(config.sysfs_dir).channels[0].scope == "package:0"
    powercap("intel-rapl:0", "package-0")
    selection = open_recorder(config).selection
    assert [channel.id for channel in selection.summed] == ["package:0"]
    assert [channel.id for channel in selection.cross_checks] == ["package:0/hwmon"]


@pytest.mark.parametrize("vram_gib", [1, 2, 4, 24])
@pytest.mark.parametrize(
    "shown",
    [
        {"freq2_label": "mclk"},
        {"freq2_label": "mclk", "device__mem_info_vram_vendor": "unknown"},
        {"device__mem_info_vram_vendor": "samsung"},
    ],
)
def test_a_small_card_is_no_apu(sysfs, write, vram_gib, shown):
    write(
        "class/hwmon/hwmon0",
        name="amdgpu",
        power1_average=35_000_000,
        device__mem_info_vram_total=vram_gib << 30,
        **shown,
    )
    assert [channel.scope for channel in HwmonSource(sysfs).channels] == ["gpu:hwmon0"]


@pytest.mark.parametrize(
    ("files", "joules"),
    [
        ({"energy2_input": 7_500_000, "energy2_label": "pkg"}, 7.5),
        ({"energy2_input": 7_500_000}, 7.5),
        ({"energy1_input": 9_000_000, "energy1_label": "card"}, 9),
        (
            {
                "energy1_input": 9_000_000, "energy1_label": "card",
                "energy2_input": 7_500_000, "energy2_label": "pkg",
                "energy3_input": 1_000_000, "energy3_label": "vram",
            },
            7.5,
        ),
        ({"energy1_input": 9_000_000, "energy1_label": "card", "energy2_input": "x",
          "energy2_label": "pkg"}, 9),
    ],
)  # fmt: skip
def test_one_counter_of_an_intel_card_is_read(sysfs, write, files, joules):
    write("class/hwmon/hwmon3", name="xe", power1_max=190_000_000, **files)
    source = HwmonSource(sysfs)
    [channel] = source.channels
    assert (channel.kind, source.read()[channel.id].joules) == (Kind.COUNTER, joules)


def test_a_counter_of_a_part_is_no_reading_of_a_gpu(sysfs, write):
    write("class/hwmon/hwmon3", name="xe", energy3_input=1_000_000, energy3_label="vram")
    assert HwmonSource(sysfs).channels == []


@pytest.mark.parametrize("driver", ["i915", "xe"])
def test_an_intel_card_has_a_counter(sysfs, write, driver):
    write("class/hwmon/hwmon3", name=driver, energy1_input=7_500_000, power1_max=190_000_000)
    source = HwmonSource(sysfs)
    [channel] = source.channels
    assert channel.kind is Kind.COUNTER
    assert source.read()[channel.id].joules == 7.5


def test_a_sleeping_gpu_is_missing_and_not_zero(sysfs, write):
    folder = write("class/hwmon/hwmon2", name="amdgpu", power1_average=118_000_000)
    source = HwmonSource(sysfs)
    (folder / "power1_average").write_text("0\n")
    assert source.read()["gpu:hwmon2"].watts is None
    (folder / "power1_average").write_text("-3\n")
    assert source.read()["gpu:hwmon2"].watts is None
    (folder / "power1_average").unlink()
    assert source.read()["gpu:hwmon2"].watts is None


def test_other_hwmon_devices_are_left_alone(sysfs, write):
    write("class/hwmon/hwmon0", name="nvme", power1_input=5_000_000)
    source = HwmonSource(sysfs)
    assert source.channels == []
    assert source.probe() == []


def test_garbage_is_unreadable_and_named(write, config):
    write("class/hwmon/hwmon2", name="amdgpu", power1_average="n/a")
    found = find_sources(config)
    assert "gpu:hwmon2" in found.unmeasured
    probe = next(p for p in found.probes if p.id == "gpu:hwmon2")
    assert not probe.readable
    assert "not a number" in probe.why_not


DISCHARGING = {"type": "Battery", "status": "Discharging"}


@pytest.mark.parametrize(
    ("batteries", "watts"),
    [
        ([{"power_now": 12_500_000}], 12.5),
        ([{"current_now": -1_000_000, "voltage_now": 11_400_000}], 11.4),
        ([{"power_now": 8_000_000}, {"power_now": 4_000_000}], 12),
        ([{"scope": "Device", "power_now": 1}], None),  # a mouse
        *(
            ([{"status": status, "power_now": 9_000_000}], None)
            for status in ("Charging", "Full", "Not charging", "Unknown")
        ),
    ],
)
def test_a_battery_that_discharges_has_power(sysfs, write, batteries, watts):
    for number, files in enumerate(batteries):
        write(f"class/power_supply/BAT{number}", **DISCHARGING | files)
    source = BatterySource(sysfs)
    if watts is not None:
        assert source.read()["battery"].watts == pytest.approx(watts)
        return
    assert source.channels == []
    assert [probe.fix for probe in source.probe()] == (
        [] if "scope" in batteries[0] else ["unplug the machine"]
    )


@pytest.mark.parametrize(
    ("power", "has_package", "summed", "unmeasured"),
    [
        (None, False, "battery", ()),
        ("asleep", False, "battery", ()),
        (18_000_000, False, "gpu:hwmon2", ("package:0",)),  # the battery only checks
        (None, True, "package:0", ()),
    ],
)
def test_a_battery_is_the_total_only_where_nothing_finer_is_read(
    write, powercap, config, power, has_package, summed, unmeasured
):
    write("class/power_supply/BAT0", **DISCHARGING, power_now=30_000_000)
    if power is not None:
        write("class/hwmon/hwmon2", name="amdgpu", power1_average=power)
    if has_package:
        powercap("intel-rapl:0", "package-0")
    recorder = open_recorder(config)
    assert [channel.id for channel in recorder.selection.summed] == [summed]
    checks = [channel.id for channel in recorder.selection.cross_checks]
    assert checks == ([] if summed == "battery" else ["battery"])
    assert recorder.unmeasured == unmeasured


def metrics(
    socket: int, npu: int, cards: int = 0, *, revision: tuple[int, int] = (3, 0), size: int = 264
) -> bytes:
    """``struct gpu_metrics_v3_0`` as Linux lays it out: powers in milliwatts."""
    table = bytearray(b"\xff" * 264)
    struct.pack_into("<HBB", table, 0, size, *revision)
    struct.pack_into("<I", table, 112, socket)
    struct.pack_into("<H", table, 116, npu)
    struct.pack_into("<I", table, 128, cards)
    return bytes(table)


@pytest.fixture
def apu(write) -> Path:
    return write(
        "class/hwmon/hwmon0",
        name="amdgpu",
        power1_average=25_000_000,
        in1_label="vddnb",
        device__uevent="DRIVER=amdgpu",
    )


@pytest.mark.parametrize(
    ("table", "watts", "npu"),
    [
        (metrics(24_890, 1_250), 24.89, 1.25),
        (metrics(24_890, 0xFFFF), 24.89, None),
        (metrics(64_890, 0, cards=40_000), 24.89, 0),  # a card under the same limit is no APU
        (metrics(24_890, 0xFFFF, cards=0xFFFF_FFFF), 24.89, None),
        (metrics(0xFFFF_FFFF, 1_250), 25, None),
        (metrics(0, 1_250), 25, None),
        (metrics(24_890, 1_250, revision=(2, 4)), 25, None),
        (metrics(24_890, 1_250, size=256), 25, None),
        (metrics(24_890, 1_250)[:200], 25, None),
        (b"", 25, None),
    ],
)
def test_the_metrics_of_an_apu_give_its_power_and_that_of_its_npu(sysfs, apu, table, watts, npu):
    (apu / "device" / "gpu_metrics").write_bytes(table)
    source = HwmonSource(sysfs)
    readings = source.read()
    assert readings["package:0/hwmon"].watts == pytest.approx(watts)
    assert ("npu:0" in readings) is (npu is not None)
    assert npu is None or readings["npu:0"].watts == pytest.approx(npu)


def test_the_npu_is_a_part_of_the_package_and_never_added(apu, config):
    (apu / "device" / "gpu_metrics").write_bytes(metrics(24_890, 1_250))
    selection = open_recorder(config).selection
    assert [channel.id for channel in selection.summed] == ["package:0/hwmon"]
    assert [channel.id for channel in selection.cross_checks] == ["npu:0"]


def test_metrics_that_fail_later_are_a_gap(sysfs, apu):
    table = apu / "device" / "gpu_metrics"
    table.write_bytes(metrics(24_890, 1_250))
    source = HwmonSource(sysfs)
    table.unlink()
    readings = source.read()
    # What hwmon has may include a card.
    assert (readings["package:0/hwmon"].watts, readings["npu:0"].watts) == (None, None)
