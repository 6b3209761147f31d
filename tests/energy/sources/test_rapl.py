"""RAPL through the real sysfs path, in trees that the tests write."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from etui.config.config import Config, load_config
from etui.energy.discovery import find_sources, open_recorder
from etui.energy.recorder import Recorder
from etui.energy.sources.rapl import RaplSource, find_zones
from etui.energy.sources.sysfs import graphics_cards
from etui.energy.types import ChannelProbe, Kind
from tests.support.devices import FakeClock
from tests.support.play import sample

Zone = Callable[..., Path]


def add(sysfs: Path, address: str, vendor: str, class_: str) -> Path:
    device = sysfs / "bus" / "pci" / "devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{class_}\n")
    return device


def test_cards_are_told_from_other_devices_and_vendors(tmp_path):
    integrated = add(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    server = add(tmp_path, "0000:01:00.0", "0x10de", "0x030200")
    add(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # its audio
    other = add(tmp_path, "0000:03:00.0", "0x1002", "0x038000")
    add(tmp_path, "0000:04:00.0", "0x1a03", "0x030000")  # a board's own display chip
    for missing, address in (("vendor", "0000:05:00.0"), ("class", "0000:06:00.0")):
        (add(tmp_path, address, "0x10de", "0x030200") / missing).unlink()
    assert graphics_cards(tmp_path / "no bus") == ()
    assert [(card.vendor, card.path) for card in graphics_cards(tmp_path)] == [
        ("Intel", integrated),
        ("NVIDIA", server),
        ("AMD", other),
    ]


def probes(config: Config) -> tuple[ChannelProbe, ...]:
    found = find_sources(config)
    for source in found.sources:
        source.close()
    return found.probes


def scopes(sysfs: Path) -> list[str]:
    return [channel.scope for channel in RaplSource(sysfs).channels]


def test_package_dram_and_psys_are_read_and_cores_never(sysfs, powercap):
    powercap("intel-rapl:0", "package-0")
    powercap("intel-rapl:0:0", "core", 2_000_000)
    powercap("intel-rapl:0:1", "uncore", 3_000_000)
    powercap("intel-rapl:0:2", "dram", 4_000_000)
    powercap("intel-rapl:1", "psys", 5_000_000)
    assert scopes(sysfs) == ["dram:0", "package:0", "psys"]
    channels = {c.scope: c for c in RaplSource(sysfs).channels}
    assert channels["package:0"].kind is Kind.COUNTER
    assert channels["package:0"].range_joules == pytest.approx(262_143.328850)
    assert channels["package:0"].limit_watts == 65


def test_two_packages_each_with_memory(sysfs, powercap):
    powercap("intel-rapl:0", "package-1")  # zone numbers need not be package numbers
    powercap("intel-rapl:0:0", "dram", 11)
    powercap("intel-rapl:1", "package-0", 12)
    powercap("intel-rapl:1:0", "dram", 13)
    assert scopes(sysfs) == ["dram:0", "dram:1", "package:0", "package:1"]
    readings = RaplSource(sysfs).read()
    assert readings["dram:1"].joules == pytest.approx(11e-6)


def test_one_package_under_two_interfaces_counts_once(sysfs, powercap):
    powercap("intel-rapl:0", "package-0", 1_000_000)
    mmio = powercap("intel-rapl-mmio:0", "package-0", 2_000_000)
    zones = find_zones(sysfs / "class" / "powercap")
    assert [zone.folder for zone in zones] == [mmio]
    (mmio / "energy_uj").unlink()  # the interface that can be read is taken
    assert RaplSource(sysfs).read()["package:0"].joules == 1.0


@pytest.mark.parametrize(
    ("zones", "found"),
    [
        (  # nested in their parents
            {
                "intel-rapl/intel-rapl:0": ("package-0", 1),
                "intel-rapl/intel-rapl:0/intel-rapl:0:0": ("dram", 2),
            },
            ["dram:0", "package:0"],
        ),
        (  # dies that mirror one counter
            {"intel-rapl:0": ("package-0-die-0", 7), "intel-rapl:1": ("package-0-die-1", 7)},
            ["package:0/die:0"],
        ),
        (
            {"intel-rapl:0": ("package-0-die-0", 7), "intel-rapl:1": ("package-0-die-1", 9)},
            ["package:0/die:0", "package:0/die:1"],
        ),
    ],
)
def test_zones_of_a_tree(sysfs, powercap, zones, found):
    for zone, (name, energy_uj) in zones.items():
        powercap(zone, name, energy_uj)
    assert scopes(sysfs) == found


@pytest.mark.parametrize("content", ["garbage", "", "12.5", "-5", "1e9"])
def test_garbage_is_unreadable_and_named(sysfs, powercap, content):
    powercap("intel-rapl:0", "package-0", content)
    source = RaplSource(sysfs)
    assert source.channels == []
    assert source.unreadable_scopes == ["package:0"]
    [probe] = source.probe()
    assert probe.found
    assert not probe.readable
    assert "energy_uj" in probe.why_not


def test_a_zone_without_a_range_is_still_read(sysfs, powercap):
    powercap("intel-rapl:0", "package-0", range_uj="nonsense", limit_uw=None)
    [channel] = RaplSource(sysfs).channels
    assert channel.range_joules is None
    assert channel.limit_watts is None


def test_a_read_that_fails_later_is_an_empty_reading(sysfs, powercap):
    zone = powercap("intel-rapl:0", "package-0")
    source = RaplSource(sysfs)
    (zone / "energy_uj").write_text("half a num")
    assert source.read()["package:0"].joules is None
    (zone / "energy_uj").unlink()
    assert source.read()["package:0"].joules is None


def test_permission_denied_names_the_line_that_mends_it(sysfs, powercap, config, monkeypatch):
    zone = powercap("intel-rapl:0", "package-0")
    real = Path.open

    def guarded(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "energy_uj":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", guarded)
    probe = next(p for p in probes(config) if p.id == "package:0")
    assert probe.found
    assert not probe.readable
    assert "permission denied" in probe.why_not
    assert f"sudo chmod a+r {zone / 'energy_uj'}" in probe.fix
    assert "mode class/powercap/intel-rapl:0/energy_uj = 0444" in probe.fix
    recorder = open_recorder(config)
    assert recorder.unmeasured == ("package:0",)
    assert [c.kind for c in recorder.selection.summed] == [Kind.ESTIMATE]


def test_no_powercap_says_what_to_do(config):
    probe = next(p for p in probes(config) if p.id == "rapl")
    assert not probe.found
    assert "does not exist" in probe.why_not
    assert probe.fix


def test_the_cpu_total_while_the_counter_advances_and_wraps(powercap, etui_home):
    """The real recorder on real files, 30 W; a clock of its own, since threads may be late."""
    start_uj, range_uj = 262_132_828_850, 262_143_328_850
    zone = powercap("intel-rapl:0", "package-0", start_uj)

    class Clock(FakeClock):
        def advance(self, seconds: float) -> None:
            super().advance(seconds)
            spent = int(30e-3 * (self.now_ns - self.start_ns))  # microjoules at 30 W
            (zone / "energy_uj").write_text(f"{(start_uj + spent) % range_uj}\n")

    clock = Clock()
    recorder = open_recorder(load_config(), clock)
    sample(recorder, clock, 0.8, random.Random(1))
    energy = recorder.energy(clock.at(0.15), clock.at(0.55))
    recorder.close()
    assert energy.kind is Kind.COUNTER
    assert energy.unmeasured == ()
    assert energy.joules == pytest.approx(12.0, rel=0.1)
    assert abs(energy.joules - 12.0) <= energy.uncertainty + 0.3


def test_a_read_that_was_held_up_is_made_again(powercap, sysfs, monkeypatch):
    """Its value may be of any time of the call."""
    powercap("intel-rapl:0", "package-0")
    clock = FakeClock()
    source = RaplSource(sysfs, clock)
    taken_s = [0.0001, 0.030, 0.0001, 0.040, 0.020]

    def read_slowly(path: Path) -> float:
        clock.advance(taken_s.pop(0))
        return 5.0

    monkeypatch.setattr("etui.energy.sources.rapl.read_micro", read_slowly)
    halves_ns = [source.read()["package:0"].half_ns for _ in range(3)]
    assert halves_ns == [50_000, 50_000, 10_000_000]


@pytest.mark.parametrize("back", [1e-6, 0.5, 1.0, 500.0])
@pytest.mark.parametrize("range_uj", [262_143_328_850, 65_532_610_987])
@pytest.mark.parametrize("pause_s", [0, 30, 70, 262.142])
def test_a_counter_that_goes_back_is_no_wrap_and_is_flagged(
    sysfs, powercap, back, range_uj, pause_s
):
    zone = powercap("intel-rapl:0", "package-0", range_uj=range_uj)
    clock = FakeClock()
    recorder = Recorder([RaplSource(sysfs, clock)], clock=clock)
    for beat in range(400):  # 20 W
        joules = 1000 + beat - (back + 1 if beat >= 200 else 0)
        if beat == 200:
            clock.advance(pause_s)
        (zone / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
        recorder.sample_now()
        clock.advance(0.05)
    energy = recorder.energy(clock.at(5), clock.at(15 + pause_s))
    assert energy.joules < 201 + 20 * pause_s
    assert abs(energy.joules - 200 - 20 * pause_s) <= energy.uncertainty
    assert "gap" in energy.flags
    assert energy.coverage < 1
    assert recorder.energy(clock.at(11 + pause_s), clock.at(15 + pause_s)).flags == ()
