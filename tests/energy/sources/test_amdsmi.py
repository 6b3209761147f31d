"""AMD GPUs through amdsmi: a counter that is believed only after a look at the power."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from etui.config.config import Config
from etui.energy.discovery import find_sources
from etui.energy.recorder import Recorder
from etui.energy.sources.hwmon import AmdSmiSource
from etui.energy.types import Kind
from tests.support.devices import FakeClock
from tests.support.play import sample
from tests.support.power_curves import WattCurve, constant, steps

ADDRESS = "0000:03:00.0"
RESOLUTION_UJ = 15.259
BUSY = steps([(4, 90.0), (4, 280.0), (4, 120.0)])


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


Opened = Callable[..., AmdSmiSource]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opened(clock: FakeClock, tmp_path: Path) -> Opened:
    def make(library: FakeAmdSmi) -> AmdSmiSource:
        return AmdSmiSource(tmp_path / "sysfs", clock, library, sleep=clock.advance)

    return make


def test_the_counter_is_read_in_joules(clock: FakeClock, opened: Opened) -> None:
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
def test_a_counter_that_contradicts_the_power_is_not_used(
    clock: FakeClock, opened: Opened, unit: float
) -> None:
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
def test_a_card_without_average_power_gives_its_current_one(
    clock: FakeClock, opened: Opened, average: object
) -> None:
    source = opened(FakeAmdSmi(clock, constant(118.0, 10), average=average))
    assert source.read()[f"gpu:{ADDRESS}"].watts == 118


def test_the_second_die_of_a_card_is_not_a_zero(clock: FakeClock, opened: Opened) -> None:
    source = opened(FakeAmdSmi(clock, BUSY, None))
    assert [channel.id for channel in source.channels] == [f"gpu:{ADDRESS}"]
    assert [(probe.id, probe.readable) for probe in source.probe()] == [
        (f"gpu:{ADDRESS}", True),
        ("gpu:0000:04:00.0", False),
    ]


def test_a_gpu_that_vanishes_leaves_a_gap(clock: FakeClock, opened: Opened) -> None:
    source = opened(FakeAmdSmi(clock, constant(118.0, 30), gone_at=5))
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    assert recorder.energy(clock.at(1), clock.at(4)).joules == pytest.approx(3 * 118, rel=0.01)
    assert recorder.energy(clock.at(1), clock.at(9)).coverage < 0.6


def test_a_library_that_fails_is_told_and_closed_quietly(clock: FakeClock, opened: Opened) -> None:
    class Broken(FakeAmdSmi):
        def amdsmi_init(self) -> None:
            raise KeyError("libamd_smi.so\nnot found")

    source = opened(Broken(clock, BUSY))
    assert source.channels == []
    [probe] = source.probe()
    assert not probe.readable
    assert "\n" not in probe.why_not
    source.close()


def test_closing_gives_the_library_back(clock: FakeClock, opened: Opened) -> None:
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


def card(sysfs: Path, *, vram_bytes: int) -> None:
    """An AMD GPU below hwmon, as its PCI device sees it."""
    device = sysfs / "bus" / "pci" / "devices" / ADDRESS
    hwmon = device / "hwmon" / "hwmon2"
    hwmon.mkdir(parents=True)
    (device / "uevent").write_text(f"DRIVER=amdgpu\nPCI_SLOT_NAME={ADDRESS}\n")
    (device / "mem_info_vram_total").write_text(f"{vram_bytes}\n")
    for name, value in (("name", "amdgpu"), ("power1_average", 90_000_000)):
        (hwmon / name).write_text(f"{value}\n")
    (hwmon / "power1_cap").write_text("303000000\n")
    (hwmon / "device").symlink_to(device)
    (sysfs / "class" / "hwmon").mkdir(parents=True)
    (sysfs / "class" / "hwmon" / "hwmon2").symlink_to(hwmon)


@pytest.mark.usefixtures("installed")
def test_one_card_seen_by_amdsmi_and_hwmon_counts_once(config: Config) -> None:
    card(config.sysfs_dir, vram_bytes=16 << 30)
    found = find_sources(config)
    channels = [channel for source in found.sources for channel in source.channels]
    assert [(c.id, c.limit_watts) for c in channels] == [(f"gpu:{ADDRESS}", 303)]
    assert [type(source).__name__ for source in found.sources] == ["AmdSmiSource"]
    assert found.unmeasured == ("package:0",)


@pytest.mark.usefixtures("installed")
def test_an_apu_stays_the_package_that_hwmon_knows(config: Config) -> None:
    card(config.sysfs_dir, vram_bytes=512 << 20)
    found = find_sources(config)
    channels = [channel for source in found.sources for channel in source.channels]
    assert [channel.id for channel in channels] == ["package:0/hwmon"]
