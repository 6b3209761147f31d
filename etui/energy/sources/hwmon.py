"""GPUs and boards that show power through hwmon, without root: AMD, Intel Arc, others.

amdgpu gives ``power1_average`` or, on newer chips, ``power1_input`` in whole or micro-watts; i915
and xe give ``energy1_input``, a counter in microjoules. An empty file or a sleeping GPU is a
missing value. On an APU, amdgpu reports the power of the whole package, so its scope is that of the
package.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from etui.energy.sources.sysfs import (
    SysfsError,
    entries,
    int_or_none,
    read_int,
    text_or,
)
from etui.energy.types import Channel, ChannelProbe, Kind, Reading

_DRIVERS = {"amdgpu": "AMD GPU", "i915": "Intel GPU", "xe": "Intel GPU"}
_POWER_FILES = ("power1_average", "power1_input")
_ENERGY_FILE = "energy1_input"
_MOST_APU_VRAM = 2 << 30
"""An APU reserves at most this much of main memory for its GPU, bytes; a card has more."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """One hwmon device: its counter, its power file, or both."""

    channel: Channel
    energy: Path | None
    power: Path | None


class HwmonSource:
    """GPUs below ``<sysfs>/class/hwmon``.

    Args:
        without: Scopes that another source already reads.
    """

    name = "hwmon"

    def __init__(
        self,
        sysfs_dir: Path,
        clock: Callable[[], int] = time.monotonic_ns,
        without: Collection[str] = (),
    ) -> None:
        self._clock = clock
        self._sensors: list[Sensor] = []
        self._probes: list[ChannelProbe] = []
        for folder in entries(sysfs_dir / "class" / "hwmon"):
            driver = text_or(folder / "name")
            if driver in _DRIVERS:
                self._add(folder, driver, without)

    @property
    def channels(self) -> Sequence[Channel]:
        """Devices that gave a reading."""
        return [sensor.channel for sensor in self._sensors]

    @property
    def unreadable_scopes(self) -> list[str]:
        """Devices that exist and cannot be read."""
        return [p.id for p in self._probes if not p.readable]

    def probe(self) -> Sequence[ChannelProbe]:
        """Report what was found when the source was opened."""
        return self._probes

    def read(self) -> Mapping[str, Reading]:
        """Read counter and power of every device; one that fails gives an empty reading."""
        readings: dict[str, Reading] = {}
        for sensor in self._sensors:
            joules = _read_micro(sensor.energy)
            watts = _read_micro(sensor.power)
            readings[sensor.channel.id] = Reading(self._clock(), joules, watts or None)
        return readings

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def _add(self, folder: Path, driver: str, without: Collection[str]) -> None:
        device = folder / "device"
        scope = f"gpu:{read_address(device) or folder.name}"
        if driver == "amdgpu" and is_apu(device):
            scope = "package:0"
        if scope in without:
            return
        energy, no_energy = _find_readable(folder, (_ENERGY_FILE,))
        power, no_power = _find_readable(folder, _POWER_FILES)
        if energy is None and power is None:
            self._add_unreadable(scope, folder, no_power or no_energy)
            return
        limit = int_or_none(folder / "power1_cap") or int_or_none(folder / "power1_max")
        label = _DRIVERS[driver]
        suffix = "/hwmon" if scope == "package:0" else ""
        channel = Channel(
            id=scope + suffix,
            scope=scope,
            kind=Kind.COUNTER if energy else Kind.INTEGRATED,
            limit_watts=limit / 1e6 if limit and limit > 0 else None,
            label=f"{label} (whole APU)" if suffix else label,
        )
        self._sensors.append(Sensor(channel, energy, power))
        self._probes.append(ChannelProbe(channel.id, True, True))

    def _add_unreadable(self, scope: str, folder: Path, error: SysfsError | None) -> None:
        if error is None:
            why, fix = f"{folder} has no power or energy file", "update the kernel"
        elif error.denied:
            files = " ".join(str(folder / name) for name in (*_POWER_FILES, _ENERGY_FILE))
            why, fix = f"{folder}: {error.why}", f"sudo chmod a+r {files}"
        else:
            why, fix = (
                f"{folder}: {error.why}",
                "wake the GPU (run a program on it) and try again",
            )
        self._probes.append(ChannelProbe(scope, True, False, why, fix))


def is_apu(device: Path) -> bool:
    """Return whether an amdgpu device is part of a CPU: it has little memory of its own."""
    vram = int_or_none(device / "mem_info_vram_total")
    if vram is None:
        return False
    return vram <= _MOST_APU_VRAM and not (device / "mem_info_vram_vendor").is_file()


def read_address(device: Path) -> str:
    """Read the PCI address of a device, the stable part of its id."""
    for line in text_or(device / "uevent").splitlines():
        if line.startswith("PCI_SLOT_NAME="):
            return line.partition("=")[2]
    return device.resolve().name if device.is_symlink() else ""


def _find_readable(folder: Path, names: Sequence[str]) -> tuple[Path | None, SysfsError | None]:
    """Find the first file that holds a number; with none, the reason of the last failure."""
    failure: SysfsError | None = None
    for name in names:
        path = folder / name
        if not path.exists():
            continue
        try:
            if read_int(path) >= 0:
                return path, None
            failure = SysfsError(f"{name} is negative")
        except SysfsError as error:
            failure = error
    return None, failure


def _read_micro(path: Path | None) -> float | None:
    if path is None:
        return None
    value = int_or_none(path)
    return value / 1e6 if value is not None and value >= 0 else None
