"""CPU packages and memory, by RAPL (Intel, also AMD since Zen): powercap on Linux, EMI on Windows.

Of powercap only ``package-N`` and ``dram`` are summed; ``psys`` covers the whole platform and is a
cross-check; ``core`` and ``uncore`` are parts of the package and are never read. The same zone can
appear under the MSR and the MMIO interface, and dies of one package can mirror one counter; each is
used once.

Drivers of the Energy Meter Interface give cumulative counters in picowatt-hours by IOCTLs, on
Windows 11 with channels named ``RAPL_Package0_PKG``, ``..._DRAM`` and the parts of a package, which
are never read. Format: emi.h of the Windows SDK.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from etui.energy.sources.sysfs import (
    SysfsError,
    entries,
    int_or_none,
    read_int,
    read_micro,
    read_positive,
    text_or,
)
from etui.energy.types import BaseSource, Channel, Kind

_ZONE = re.compile(r"(?P<control>intel-rapl(?:-mmio)?):(?P<path>\d+(?::\d+)*)$")
_PACKAGE = re.compile(r"package-(?P<package>\d+)(?:-die-(?P<die>\d+))?$")
_PERIOD_S = 0.001
"""RAPL counters are refreshed about every millisecond (Intel SDM vol. 3B, section 15.10)."""
VERSION, METADATA_SIZE, METADATA, MEASUREMENT = (0x224000 + 4 * number for number in range(4))
"""The IOCTLs of EMI."""
EmiDevice = Callable[[int, int], bytes]
"""Sends an IOCTL to a device (code, most bytes of its answer); OSError if that fails."""

_EMI_NAME = re.compile(r"RAPL_Package(\d+)_(PKG|DRAM)", re.IGNORECASE)
_PICOWATT_HOUR = 3.6e-9  # Joules
_EMI_VERSION = 2  # Of 1, a device has a single rail of a board, and never a package
_EMI_HEADER = struct.Struct("<66xH")  # Number of channels, after the maker's names
_EMI_CHANNEL = struct.Struct("<IH")  # Unit, and size of the name that follows
_EMI_MEASURED = struct.Struct("<Q8x")  # Energy, before the time of some clock in 100 ns
_MOST_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone of the powercap tree that the meter may use."""

    folder: Path
    scope: str
    range_joules: float | None
    limit_watts: float | None

    @property
    def counter(self) -> Path:
        """The file with the cumulative counter, microjoules."""
        return self.folder / "energy_uj"

    def read(self) -> tuple[float | None, None]:
        """Read the counter, joules."""
        return read_micro(self.counter), None


class RaplSource(BaseSource):
    """RAPL zones below ``<sysfs>/class/powercap``."""

    def __init__(self, sysfs_dir: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(clock)
        self._open_zones(sysfs_dir / "class" / "powercap")

    def _open_zones(self, root: Path) -> None:
        zones = find_zones(root)
        if not root.is_dir() and not sys.platform.startswith("linux"):
            self.refuse(
                "rapl", "powercap, with the counters of CPUs (RAPL), is on Linux only", found=False
            )
        elif not root.is_dir():
            self.refuse(
                "rapl",
                f"{root} does not exist: this kernel, container or virtual machine has no powercap",
                "run etui on the machine itself, or mount its /sys/class/powercap and set "
                "ETUI_SYSFS",
                found=False,
            )
        elif not zones:
            fix = "sudo modprobe intel_rapl_common intel_rapl_msr"
            self.refuse("rapl", f"{root} contains no RAPL zone", fix, found=False)
        seen: dict[str, int] = {}
        for zone in zones:
            package = zone.scope.partition("/")[0]
            try:
                now = read_int(zone.counter)
            except SysfsError as error:
                self._refuse_zone(zone, error)
                continue
            if now < 0:
                why = f"{zone.counter} holds {now}, but a counter cannot be negative"
                self.refuse(zone.scope, why)
            elif not now or seen.get(package) != now:  # else a die that mirrors the same counter
                seen[package] = now
                self.add(_make_channel(zone), read=zone.read)

    def _refuse_zone(self, zone: Zone, error: SysfsError) -> None:
        why, fix = f"{zone.counter}: {error.why}", ""
        if error.denied:
            below = "/".join(zone.counter.parts[-4:])
            fix = (
                f"sudo chmod a+r {zone.counter} (until the next boot); permanently: echo "
                f"'mode {below} = 0444' | sudo tee -a /etc/sysfs.conf (package sysfsutils)"
            )
            why += " (since Linux 5.10 only root may read it, CVE-2020-8694)"
        self.refuse(zone.scope, why, fix)


def find_zones(root: Path) -> list[Zone]:
    """Find the package, dram and psys zones of a powercap folder, each scope once.

    Of a zone under both the MSR and the MMIO interface, the one whose counter can be read is used,
    and MMIO if both can.
    """
    best: dict[str, tuple[int, Zone]] = {}
    for folder in walk_zone_folders(root):
        scope = read_scope(folder)
        if scope is None:
            continue
        limit_watts = read_positive(folder / "constraint_0_power_limit_uw")
        zone = Zone(folder, scope, read_positive(folder / "max_energy_range_uj"), limit_watts)
        readable = int_or_none(zone.counter) is not None
        rank = 2 * readable + folder.name.startswith("intel-rapl-mmio")
        if zone.scope not in best or rank > best[zone.scope][0]:
            best[zone.scope] = (rank, zone)
    return [best[scope][1] for scope in sorted(best)]


def walk_zone_folders(root: Path) -> Iterator[Path]:
    """Yield the zone folders, whether the tree lists them flat (as sysfs does), nested, or both."""
    names: set[str] = set()
    pending = entries(root)
    while pending:
        folder = pending.pop(0)
        control = folder.name in ("intel-rapl", "intel-rapl-mmio")
        match = _ZONE.match(folder.name)
        if not control and (match is None or folder.name in names):
            continue
        if match is not None:
            names.add(folder.name)
            yield folder
        pending.extend(e for e in entries(folder) if e.name.startswith("intel-rapl") and e.is_dir())


def read_scope(folder: Path) -> str | None:
    """Read the scope of a zone: ``package:0``, ``dram:0``, ``psys``; None for all others."""
    name = text_or(folder / "name")
    if name == "psys":
        return "psys"
    if match := _PACKAGE.match(name):
        return _format_package_scope(match)
    if name == "dram":
        parent = _ZONE.match(folder.name)
        assert parent is not None
        above = f"{parent['control']}:{parent['path'].rpartition(':')[0]}"
        holder = folder.parent if folder.parent.name == above else folder.parent / above
        match = _PACKAGE.match(text_or(holder / "name"))
        if match:
            return _format_package_scope(match).replace("package", "dram")
        return f"dram:{parent['path'].partition(':')[0]}"
    return None


def _format_package_scope(match: re.Match[str]) -> str:
    scope = f"package:{match['package']}"
    return f"{scope}/die:{match['die']}" if match["die"] is not None else scope


def _make_channel(zone: Zone) -> Channel:
    kinds = {"package": "CPU package", "dram": "memory", "psys": "platform"}
    word = kinds[zone.scope.partition(":")[0]]
    number = zone.scope.partition(":")[2]
    return Channel(
        id=zone.scope,
        scope=zone.scope,
        kind=Kind.COUNTER,
        parent=None if zone.scope == "psys" else "psys",
        limit_watts=zone.limit_watts,
        label=f"{word} {number}".strip(),
        range_joules=zone.range_joules,
        period_s=_PERIOD_S,
    )


class EmiSource(BaseSource):
    """The packages and memory whose energy a device of EMI counts, each once."""

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        devices: Sequence[EmiDevice] | None = None,
    ) -> None:
        super().__init__(clock)
        for device in _open_devices() if devices is None else devices:
            try:
                self._open(device)
            except (OSError, struct.error, UnicodeDecodeError) as error:
                why = f"an energy meter of Windows cannot be read: {error or type(error).__name__}"
                self.refuse("emi", why, "run etui as administrator")

    def _open(self, device: EmiDevice) -> None:
        (version,) = struct.unpack("<H", device(VERSION, 2))
        if version < _EMI_VERSION:
            return
        (size,) = struct.unpack("<I", device(METADATA_SIZE, 4))
        metadata = device(METADATA, size)
        (count,) = _EMI_HEADER.unpack_from(metadata)
        at = _EMI_HEADER.size
        for number in range(count):
            unit, size = _EMI_CHANNEL.unpack_from(metadata, at)
            at += _EMI_CHANNEL.size + size
            match = _EMI_NAME.fullmatch(metadata[at - size : at].decode("utf-16-le").rstrip("\0"))
            if match is None or unit:  # 0 is the picowatt-hour, the only unit there is
                continue
            memory = match[2].upper() == "DRAM"
            scope = f"{'dram' if memory else 'package'}:{match[1]}"
            if scope not in self._readers:  # else a die, which mirrors the counter of its package
                label = f"{'memory' if memory else 'CPU package'} {match[1]}"
                channel = Channel(scope, scope, Kind.COUNTER, label=label)
                self.add(channel, read=partial(_read_counter, device, number))


def _read_counter(device: EmiDevice, number: int) -> tuple[float | None, None]:
    try:
        measured = device(MEASUREMENT, _MOST_BYTES)
        (count,) = _EMI_MEASURED.unpack_from(measured, number * _EMI_MEASURED.size)
    except (OSError, struct.error):
        return None, None
    return count * _PICOWATT_HOUR, None


def _open_devices() -> list[EmiDevice]:
    """Open every device of EMI; they stay open for the life of the process."""
    if sys.platform != "win32":
        return []
    windows, manager = ctypes.WinDLL("kernel32", use_last_error=True), ctypes.WinDLL("cfgmgr32")
    word, pointer = ctypes.c_ulong, ctypes.c_void_p
    windows.CreateFileW.restype = pointer
    windows.DeviceIoControl.argtypes = [
        pointer, word, pointer, word, pointer, word, pointer, pointer,
    ]  # fmt: skip
    guid = struct.pack("<IHH8B", 0x45BD8344, 0x7ED6, 0x49CF, *bytes.fromhex("A440C276C933B053"))
    length = word()
    manager.CM_Get_Device_Interface_List_SizeW(ctypes.byref(length), guid, None, 0)
    paths = ctypes.create_unicode_buffer(max(length.value, 1))
    manager.CM_Get_Device_Interface_ListW(guid, None, paths, length, 0)
    return [_open_device(windows, path) for path in "".join(paths[:]).split("\0") if path]


def _open_device(windows: Any, path: str) -> EmiDevice:
    # To read, shared with all others, an existing one.
    device = windows.CreateFileW(path, 0x80000000, 3, None, 3, 0, None)

    def control(code: int, size: int) -> bytes:
        answer, length = ctypes.create_string_buffer(size), ctypes.c_ulong()
        if not windows.DeviceIoControl(
            device, code, None, 0, answer, size, ctypes.byref(length), None
        ):
            failure = getattr(ctypes, "get_last_error", int)()
            raise OSError(f"Windows error {failure} of {path}")
        return answer.raw[: length.value]

    return control
