"""Sixty machines with AMD and Intel graphics: each device counts once, or is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from etui.energy.discovery import find_sources, open_recorder
from etui.energy.power_limits.limits import open_power_limits
from etui.energy.scopes import family
from etui.energy.types import Kind

CPU_JOULES, APU_WATTS, CARD_WATTS = 5_000_000, 15_000_000, 118_000_000


@dataclass(frozen=True)
class Machine:
    """Devices as the kernel shows them; sizes in GiB, None for a device that is not there."""

    name: str
    has_rapl: bool = True
    apu: float | None = None
    card: float | None = None
    is_old: bool = False  # Whether the kernel is so old that labels are missing
    xe: tuple[tuple[str, Any], ...] | None = None
    unmeasured: tuple[str, ...] = ()


XE = {
    "package alone": {"energy2_input": 1_000_000, "energy2_label": "pkg"},
    "card alone": {"energy1_input": 2_000_000, "energy1_label": "card"},
    "both": {"energy1_input": 2_000_000, "energy1_label": "card",
             "energy2_input": 1_000_000, "energy2_label": "pkg"},
    "both and memory": {"energy1_input": 2_000_000, "energy1_label": "card",
                        "energy2_input": 1_000_000, "energy2_label": "pkg",
                        "energy3_input": 1_000_000, "energy3_label": "vram"},
    "older card": {"energy1_input": 2_000_000},
    "older package": {"energy2_input": 1_000_000},
}  # fmt: skip


def machines() -> Iterator[Machine]:
    for has_rapl in (True, False):
        named = () if has_rapl else ("package:0",)
        rapl = "RAPL" if has_rapl else "no RAPL"
        for gib in (0.5, 1, 2, 4, 8, 16, 32, 64, 96):
            for is_old in (True, False):
                yield Machine(f"APU {gib}, old {is_old}, {rapl}", has_rapl, gib, is_old=is_old)
        for gib in (1, 2, 4, 8, 16, 24):
            yield Machine(f"card {gib}, {rapl}", has_rapl, card=gib, unmeasured=named)
    for gib in (0.5, 8, 96):
        for card in (1, 24):
            yield Machine(f"APU {gib} and card {card}", apu=gib, card=card)
    for name, files in XE.items():
        yield Machine(f"xe, {name}", xe=tuple(files.items()))


MACHINES = tuple(machines())


@pytest.fixture(params=MACHINES, ids=lambda machine: machine.name)
def machine(request, write, powercap) -> Machine:
    found: Machine = request.param
    if found.has_rapl:
        powercap("intel-rapl:0", "package-0", CPU_JOULES)
    for number, gib in enumerate((found.apu, found.card)):
        if gib is not None:
            is_apu = number == 0
            label = {"in1_label": "vddnb"} if is_apu else {"freq2_label": "mclk"}
            vendor = "unknown" if is_apu else "samsung"
            write(
                f"class/hwmon/hwmon{number}",
                name="amdgpu",
                power1_average=APU_WATTS if is_apu else CARD_WATTS,
                power1_cap=CARD_WATTS,
                device__uevent=f"DRIVER=amdgpu\nPCI_SLOT_NAME=0000:0{number}:00.0",
                device__mem_info_vram_total=int(gib * (1 << 30)),
                **({"device__mem_info_vram_vendor": vendor} if found.is_old else label),
            )
    if found.xe is not None:
        write("class/hwmon/hwmon3", name="xe", **dict(found.xe))
    return found


def test_there_are_sixty_machines():
    assert len(MACHINES) == len({machine.name for machine in MACHINES}) == 60


def test_each_device_counts_once_or_is_named(machine, config):
    recorder = open_recorder(config)
    summed = [channel.scope for channel in recorder.selection.summed]
    expected = {"package:0"} if machine.has_rapl or machine.apu is not None else set()
    expected |= {"gpu:0000:01:00.0"} if machine.card is not None else set()
    expected |= {"gpu:hwmon3"} if machine.xe is not None else set()
    assert sorted(summed) == sorted(expected)
    assert recorder.unmeasured == machine.unmeasured
    kinds = {channel.scope: channel.kind for channel in recorder.selection.summed}
    if machine.has_rapl:
        assert kinds["package:0"] is Kind.COUNTER
    if machine.xe is not None:
        [source] = [s for s in recorder.sources if "gpu:hwmon3" in {c.id for c in s.channels}]
        is_package = "pkg" in dict(machine.xe).values() or "older package" in machine.name
        assert source.read()["gpu:hwmon3"].joules == (1 if is_package else 2)


def test_power_limits_name_the_devices_as_the_meter_does(machine, config):
    with open_power_limits(config) as limits:
        scopes = [limit.scope for limit in limits.read()]
    assert len(scopes) == len(set(scopes))
    gpus = {"gpu:0000:01:00.0"} if machine.card is not None else set()
    assert {scope for scope in scopes if family(scope) == "gpu"} == gpus
    packages = [scope for scope in scopes if family(scope) == "package"]
    assert packages == (["package:0"] if machine.apu is not None else [])


@pytest.mark.parametrize("why", ["not a number", "no counter"])
def test_an_intel_card_that_cannot_be_read_is_named(write, config, why):
    files = {"energy2_input": "x", "energy2_label": "pkg"} if why == "not a number" else {}
    write("class/hwmon/hwmon3", name="xe", **files)
    found = find_sources(config)
    assert "gpu:hwmon3" in found.unmeasured
