"""All power limits of this machine: read without privileges, set and verified where allowed.

A CPU package (powercap, Intel RAPL) has a ``long_term`` limit (averaged over about 30 s on most
machines) and a ``short_term`` limit above it. With a long-term limit alone a processor may draw the
short-term power for the whole of a short measurement, so both are set to the requested watts: the
average over any window then stays below the limit, and ``short_term`` is never below ``long_term``.
Both are restored. The kernel may show a package under the MSR and the MMIO interface; the processor
obeys the lower of both. The MSR one is set, and what is enforced is the lowest of all.

Format: Documentation/power/powercap/powercap.rst of Linux. Processors count in 1/8 W
(MSR_RAPL_POWER_UNIT, Intel SDM vol. 3B, section 15.10.1).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Self

from etui.config.config import Config
from etui.energy.power_limits._gpus import (
    SetLimit,
    Zeusd,
    ZeusdError,
    find_amd_folders,
    find_gpus,
    make_amd_device,
)
from etui.energy.power_limits.limit import (
    LimitDevice,
    LimitFiles,
    LimitPart,
    PowerLimit,
    WriteRefused,
    check_range,
    format_tee,
    is_root,
    to_microwatts,
)
from etui.energy.scopes import family as find_family
from etui.energy.sources.nvml import NvmlSource
from etui.energy.sources.rapl import read_scope, walk_zone_folders
from etui.energy.sources.sysfs import int_or_none, read_micro, read_positive, text_or
from etui.errors import UsageError
from etui.text import suggest
from etui.units import limit_text

LONG_TERM, SHORT_TERM = "long_term", "short_term"
_UNIT_WATTS = 0.125
_MOST_CONSTRAINTS = 8


class PowerLimits:
    """The power limits of this machine; ``problems`` names ways to set them that fail."""

    def __init__(
        self,
        devices: Sequence[LimitDevice],
        problems: Sequence[str] = (),
        close: Callable[[], None] = lambda: None,
        zeusd_socket: str = "",
    ) -> None:
        self._devices = {device.scope: device for device in devices}
        self._close = close
        self.problems = tuple(problems)
        self.zeusd_socket = zeusd_socket
        # The range of a package depends on its limit, so it is that of the beginning.
        self._found = {scope: device.read() for scope, device in self._devices.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the driver; nothing can be read afterwards."""
        self._close()

    def read(self) -> tuple[PowerLimit, ...]:
        """Read the limit of every device: GPUs first, then CPU packages."""
        return tuple(self.read_one(scope) for scope in self._devices)

    def read_one(self, scope: str) -> PowerLimit:
        """Read the limit of a device; UsageError as in :meth:`device`."""
        limit = self.device(scope).read()
        return replace(limit, max_watts=self._found[scope].max_watts)

    def scopes(self, family: str) -> tuple[str, ...]:
        """List the scopes of a family (``gpu``, ``package``): all that get the same limit."""
        return tuple(scope for scope in self._devices if find_family(scope) == family)

    def device(self, scope: str) -> LimitDevice:
        """Return a device; UsageError if none of this scope has a limit that can be read."""
        found = self._devices.get(scope)
        if found is not None:
            return found
        if not self._devices:
            raise UsageError(
                "no device of this machine has a power limit that etui can read",
                "`etui doctor` lists what was found",
            )
        hint = suggest(scope, self._devices) or f"choose one of {', '.join(self._devices)}"
        raise UsageError(f"no power limit of {scope!r} was found", hint)

    def check(self, scope: str, watts: float) -> None:
        """Check that a device can have a limit, without touching anything; UsageError if not."""
        self.device(scope)
        check_range(self._found[scope], watts)


def open_power_limits(
    config: Config,
    environ: Mapping[str, str] = os.environ,
    *,
    files: LimitFiles | None = None,
    root: bool | None = None,
    zeusd_socket: str = "",
    library: ModuleType | None = None,
    clock: Callable[[], int] = time.monotonic_ns,
) -> PowerLimits:
    """Find every power limit of this machine; the caller closes the result.

    The environment names a running zeusd (``ZEUSD_SOCK_PATH``, ``ZEUSD_TOKEN``), or else the last
    socket is used.
    """
    files = files or LimitFiles()
    source = NvmlSource(clock, library=library)
    cards = find_amd_folders(config.sysfs_dir)
    remote: Mapping[str, SetLimit] = {}
    problems = []
    socket = environ.get("ZEUSD_SOCK_PATH") or zeusd_socket
    if socket and (source.handles or cards):
        try:
            token = environ.get("ZEUSD_TOKEN", "")
            remote = Zeusd(socket, token).find_gpus()
        except ZeusdError as error:
            problems.append(f"zeusd at {socket} cannot set limits: {error}")
    packages = find_packages(config.sysfs_dir, files)
    scopes = frozenset(package.scope for package in packages)
    devices: list[LimitDevice] = []
    if source.library is not None:
        devices += find_gpus(source, is_root() if root is None else root, remote.get)
    devices += [
        make_amd_device(address, folder, files, remote.get(address.lower()), scopes)
        for address, folder in cards
    ]
    devices += packages
    return PowerLimits(devices, problems, source.close, socket if remote else "")


class Constraint(NamedTuple):
    """The files of one limit of a zone, in microwatts and microseconds."""

    watts_file: Path
    max_file: Path
    window_file: Path

    @property
    def watts(self) -> float | None:
        """The limit now."""
        return read_micro(self.watts_file)


class PackageLimit(LimitDevice):
    """The limit of one CPU package; of its zones with a long-term limit, the first is set."""

    unit_watts = _UNIT_WATTS

    def __init__(self, scope: str, zones: Sequence[Path], files: LimitFiles) -> None:
        self.scope = scope
        number, _, die = scope.partition(":")[2].partition("/die:")
        self.label = f"CPU package {number}" + (f" die {die}" if die else "")
        self._files = files
        self._zones = [(zone, find_constraints(zone)) for zone in zones]
        self._knobs = {
            name: constraint
            for name, constraint in self._zones[0][1].items()
            if name in (LONG_TERM, SHORT_TERM)
        }

    def read(self) -> PowerLimit:
        """Read the limits of the package."""
        parts = tuple(
            LimitPart(
                name,
                constraint.watts,
                read_positive(constraint.max_file),
                read_positive(constraint.window_file),
            )
            for name, constraint in self._knobs.items()
        )
        watts = self._knobs[LONG_TERM].watts
        writable = all(self._files.can_write(c.watts_file) for c in self._knobs.values())
        enforced = self._find_enforced()
        stated = read_positive(self._knobs[LONG_TERM].max_file)
        # max_power_uw is the design power, which many machines exceed from the factory.
        known = [value for value in (stated, watts) if value is not None]
        return PowerLimit(
            scope=self.scope,
            label=self.label,
            watts=watts,
            enforced_watts=enforced[1] if enforced else None,
            min_watts=None,
            max_watts=max(known) if stated is not None else None,
            default_watts=None,
            setter="etui" if writable else "user",
            command=self.format_command({k: v for k, v in self.read_knobs().items() if v}),
            parts=parts,
            note="" if self._is_enabled(self._zones[0][0]) else "the limit is switched off",
        )

    def read_knobs(self) -> Mapping[str, float | None]:
        """Read the long-term limit, and the short-term limit if there is one."""
        return {name: constraint.watts for name, constraint in self._knobs.items()}

    def write(self, knob: str, watts: float) -> None:
        """Write one limit; WriteRefused if the kernel refused."""
        try:
            self._files.write(self._knobs[knob].watts_file, to_microwatts(watts))
        except WriteRefused as refused:
            if refused.denied and is_root():
                why = "the kernel refused it although etui is root: the firmware has locked it"
                raise WriteRefused(why, denied=True) from refused
            raise

    def format_command(self, changes: Mapping[str, float]) -> str:
        """Return the command that writes the limits; equal ones are written at once."""
        by_value: dict[int, list[Path]] = {}
        for knob, watts in changes.items():
            by_value.setdefault(to_microwatts(watts), []).append(self._knobs[knob].watts_file)
        return "; ".join(format_tee(value, paths) for value, paths in by_value.items())

    def explain_lower(self) -> str:
        """Name the limit that is the lowest."""
        enforced = self._find_enforced()
        return f"{enforced[0]} is {limit_text(enforced[1])}" if enforced else ""

    def _find_enforced(self) -> tuple[str, float] | None:
        """Find the lowest limit of all interfaces that are switched on: its name and watts."""
        found = [
            (watts, name if index == 0 else f"{name} of {zone.name}")
            for index, (zone, constraints) in enumerate(self._zones)
            if self._is_enabled(zone)
            for name, constraint in constraints.items()
            if name in (LONG_TERM, SHORT_TERM) and (watts := constraint.watts)
        ]
        if not found:
            return None
        watts, name = min(found)
        return name, watts

    def _is_enabled(self, zone: Path) -> bool:
        return int_or_none(zone / "enabled") != 0


def find_packages(sysfs_dir: Path, files: LimitFiles) -> list[PackageLimit]:
    """Find the CPU packages that have a long-term limit, by scope."""
    zones: dict[str, list[Path]] = {}
    for folder in walk_zone_folders(sysfs_dir / "class" / "powercap"):
        scope = read_scope(folder)
        if scope and scope.startswith("package:") and LONG_TERM in find_constraints(folder):
            zones.setdefault(scope, []).append(folder)
    return [
        PackageLimit(scope, sorted(found, key=_rank_interface), files)
        for scope, found in sorted(zones.items())
    ]


def find_constraints(zone: Path) -> dict[str, Constraint]:
    """Find the limits of a zone by name; a file that states a limit may be unreadable now."""
    found: dict[str, Constraint] = {}
    for number in range(_MOST_CONSTRAINTS):
        watts_file = zone / f"constraint_{number}_power_limit_uw"
        name = text_or(zone / f"constraint_{number}_name")
        if name and watts_file.is_file():
            others = (f"constraint_{number}_max_power_uw", f"constraint_{number}_time_window_us")
            found[name] = Constraint(watts_file, *(zone / other for other in others))
    return found


def _rank_interface(zone: Path) -> tuple[bool, str]:
    return zone.name.startswith("intel-rapl-mmio"), zone.name
