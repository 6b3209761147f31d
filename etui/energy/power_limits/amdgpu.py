"""Power limits of AMD GPUs through hwmon: ``power1_cap`` and its range, microwatts.

The kernel's driver cuts a limit to whole watts. Format: Documentation/gpu/amdgpu/thermal.rst and
Documentation/hwmon/sysfs-interface.rst of Linux. What is enforced below the limit is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from etui.energy.power_limits.files import (
    LimitFiles,
    format_tee,
    read_positive_watts,
    read_watts,
    to_microwatts,
)
from etui.energy.power_limits.types import LimitReasons, PowerLimit, Setter, WriteRefused
from etui.energy.power_limits.zeusd import ZeusdGpu
from etui.energy.sources.hwmon import is_apu, read_address
from etui.energy.sources.sysfs import entries, text_or

KNOB = "power1_cap"


class AmdGpuLimit:
    """The limit of one AMD GPU.

    Args:
        zeusd: The GPU in a running zeusd; None without one.
    """

    unit_watts = 1.0

    def __init__(
        self, scope: str, label: str, folder: Path, files: LimitFiles, zeusd: ZeusdGpu | None
    ) -> None:
        self.scope = scope
        self.label = label
        self._folder = folder
        self._files = files
        self._zeusd = zeusd

    def read(self) -> PowerLimit:
        """Read the limit and its range."""
        watts = read_watts(self._folder / KNOB)
        default = read_positive_watts(self._folder / "power1_cap_default")
        command_watts = watts or default
        return PowerLimit(
            scope=self.scope,
            label=self.label,
            watts=watts,
            enforced_watts=None,
            min_watts=read_watts(self._folder / "power1_cap_min"),
            max_watts=read_positive_watts(self._folder / "power1_cap_max"),
            default_watts=default,
            setter=self._find_setter(),
            command=self.format_command({KNOB: command_watts} if command_watts else {}),
        )

    def read_knobs(self) -> Mapping[str, float | None]:
        """Read the limit."""
        return {KNOB: read_watts(self._folder / KNOB)}

    def plan(self, watts: float) -> Mapping[str, float]:
        """Set the only limit."""
        return {KNOB: watts}

    def write(self, knob: str, watts: float) -> None:
        """Write the limit, through zeusd if etui may not.

        Raises:
            WriteRefused: The kernel or zeusd refused.
        """
        try:
            self._files.write(self._folder / knob, to_microwatts(watts))
        except WriteRefused as refused:
            if not refused.denied or self._zeusd is None:
                raise
            self._zeusd.set_power_limit(watts)

    def format_command(self, changes: Mapping[str, float]) -> str:
        """Return the command that writes the limit."""
        return "; ".join(
            format_tee(to_microwatts(watts), [self._folder / knob])
            for knob, watts in changes.items()
        )

    def explain_lower(self) -> str:
        """Return nothing: hwmon does not say what is enforced."""
        return ""

    def read_reasons(self, t_ns: int) -> LimitReasons:
        """Return nothing known: hwmon does not say what lowers the clocks."""
        return LimitReasons(self.scope, t_ns, None, None, None)

    def _find_setter(self) -> Setter:
        if self._files.can_write(self._folder / KNOB):
            return "etui"
        return "zeusd" if self._zeusd is not None else "user"


def find_folders(sysfs_dir: Path) -> list[tuple[str, Path]]:
    """Find the AMD GPUs with a power limit: PCI address (or name in hwmon) and folder of each."""
    return [
        (read_address(folder / "device") or folder.name, folder)
        for folder in entries(sysfs_dir / "class" / "hwmon")
        if text_or(folder / "name") == "amdgpu" and (folder / KNOB).is_file()
    ]


def make_device(
    address: str,
    folder: Path,
    files: LimitFiles,
    zeusd: ZeusdGpu | None,
    packages: frozenset[str] = frozenset(),
) -> AmdGpuLimit:
    """Make the device of a GPU; an APU has the scope of its package, as in the meter.

    Args:
        address: PCI address, or name in hwmon.
        zeusd: The GPU in a running zeusd; None without one.
        packages: Scopes of packages that have a limit of their own (RAPL).
    """
    if not is_apu(folder / "device"):
        return AmdGpuLimit(f"gpu:{address}", f"AMD GPU {address}", folder, files, zeusd)
    scope = "package:0/hwmon" if "package:0" in packages else "package:0"
    return AmdGpuLimit(scope, "AMD GPU (whole APU)", folder, files, zeusd)
