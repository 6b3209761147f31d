"""CPU packages and memory through the powercap tree (Intel RAPL, also AMD since Zen).

Only ``package-N`` and ``dram`` are summed; ``psys`` covers the whole platform and is a cross-check;
``core`` and ``uncore`` are parts of the package and are never read. The same zone can appear under
the MSR and the MMIO interface, and dies of one package can mirror one counter; each is used once.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from etui.energy.sources.sysfs import (
    SysfsError,
    entries,
    int_or_none,
    read_int,
    read_micro,
    read_positive,
    text_or,
)
from etui.energy.types import BaseSource, Channel, Kind, Reading

_ZONE = re.compile(r"(?P<control>intel-rapl(?:-mmio)?):(?P<path>\d+(?::\d+)*)$")
_PACKAGE = re.compile(r"package-(?P<package>\d+)(?:-die-(?P<die>\d+))?$")
_PERIOD_S = 0.001
"""RAPL counters are refreshed about every millisecond (Intel SDM vol. 3B, section 15.10)."""


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


class RaplSource(BaseSource):
    """RAPL zones below ``<sysfs>/class/powercap``."""

    def __init__(self, sysfs_dir: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(clock)
        self._counters: dict[str, Path] = {}
        self._open_zones(sysfs_dir / "class" / "powercap")

    def read_channel(self, channel: Channel) -> Reading:
        """Read a counter in joules."""
        begin_ns = self.clock()
        return self.date(begin_ns, read_micro(self._counters[channel.id]))

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
                self._counters[zone.scope] = zone.counter
                self.add(_make_channel(zone))

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
