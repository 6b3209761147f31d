"""NVIDIA's boards whose sensors name what they measure, through hwmon: Jetson, Grace and GB10.

- Jetson: an INA3221 has volts and amperes of three rails. On some boards one rail supplies CPU and
  GPU. ``VDD_IN`` supplies the whole module, and a 5-V rail that of the memory, so it is not read.
- Grace: an ACPI power meter for each part of a socket. ``Grace`` is the CPU with all beside the
  GPU; ``CPU`` and ``SysIO`` are parts of it, and ``Module`` adds the GPU, which NVML reads.
- GB10 (DGX Spark): the driver spbm (https://github.com/antheas/spark_hwmon) has a counter of the
  package with its GPU. Without that driver only the GPU can be read, by NVML.

Formats: Documentation/hwmon/ina3221.rst and acpi_power_meter.rst of Linux. Rails of each board:
"Platform Power and Performance" in NVIDIA's Jetson Linux Developer Guide.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from etui.energy.sources.sysfs import entries, int_or_none, read_micro, text_or
from etui.energy.types import BaseSource, Channel, Kind, Reading

_RAILS = (
    (re.compile(r"(VDD_|POM_5V_|5V_|V)?IN"), "system"),
    (re.compile(r"VDD_CPU_GPU(_CV)?"), "module:{gpu}"),
    (re.compile(r"(VDD_|POM_5V_)?(SYS_)?GPU(_SOC)?"), "gpu:{gpu}"),
    (re.compile(r"(VDD_|POM_5V_)?(SYS_)?CPU(_CV|_SOC_MSS)?"), "package:0"),
    (re.compile(r"VDDR?Q.*|(VDD_)?(SYS_)?DDR"), "dram:0"),
    (re.compile(r"(VDD_)?(SYS_)?(SOC|CV)"), "soc:{label}"),
)
"""Labels of a Jetson's rails, and the scopes that they supply; others are not read."""
_SOCKET = re.compile(r"(CPU|Grace) Power Socket (\d+)")
_LEAST_AVERAGE_S = 0.2
_SPBM_JOULES = 2**32 / 1e3  # The only counters here have 32 bits, in millijoules


@dataclass(frozen=True, slots=True)
class _Rail:
    scope: str
    label: str
    files: tuple[Path, ...]  # Volts and amperes in thousandths, or watts in millionths
    counter: Path | None = None
    average_s: float = 0.0

    def read(self) -> tuple[float | None, float | None]:
        joules = read_micro(self.counter) if self.counter else None
        values = [value for file in self.files if (value := int_or_none(file)) is not None]
        known = values and len(values) == len(self.files)
        # The offset of a shunt makes the power of a rail that is off negative.
        return joules, max(math.prod(values) / 1e6, 0.0) if known else None


class BoardSource(BaseSource):
    """The rails of a Jetson, the sockets of Grace, or the package of a GB10.

    Args:
        gpu: What NVML calls the GPU of the board, so that it is counted once.
    """

    def __init__(
        self,
        sysfs_dir: Path,
        clock: Callable[[], int] = time.monotonic_ns,
        gpu: str = "board",
    ) -> None:
        super().__init__(clock)
        self._rails: dict[str, _Rail] = {}
        folders = entries(sysfs_dir / "class" / "hwmon")
        rails = [rail for folder in folders for rail in _find_rails(folder, gpu)]
        for rail in sorted(rails, key=lambda rail: rail.label.startswith("CPU ")):  # a part, last
            self._open(rail)
        tree = text_or(sysfs_dir / "firmware" / "devicetree" / "base" / "compatible")
        is_jetson = "nvidia,tegra" in tree or any("rail" in rail.label for rail in rails)
        if is_jetson and not {f"gpu:{gpu}", f"module:{gpu}"} & {c.scope for c in self.channels}:
            why = "no rail with a sensor that can be read supplies the GPU"
            self.refuse(f"gpu:{gpu}", why, "sudo modprobe ina3221")

    def read_channel(self, channel: Channel) -> Reading:
        """Read counter and power of a rail."""
        begin_ns = self.clock()
        return self.date(begin_ns, *self._rails[channel.id].read())

    def _open(self, rail: _Rail) -> None:
        (joules, watts), name = rail.read(), f"{rail.scope}/board"
        if joules is None and watts is None:
            self.refuse(rail.scope, f"the sensor of {rail.label} cannot be read")
        elif name not in self._rails:
            kind = Kind.INTEGRATED if joules is None else Kind.COUNTER
            self._rails[name] = rail
            self.add(
                Channel(
                    id=name,
                    scope=rail.scope,
                    kind=kind,
                    label=rail.label,
                    range_joules=_SPBM_JOULES,
                    average_s=rail.average_s,
                )
            )


def _find_rails(folder: Path, gpu: str) -> Iterator[_Rail]:
    driver = text_or(folder / "name")
    if driver == "ina3221":
        for number in (1, 2, 3):
            label = text_or(folder / f"in{number}_label")
            rail = folder / f"in{number}_input", folder / f"curr{number}_input"
            scope = next((s for pattern, s in _RAILS if pattern.fullmatch(label.upper())), None)
            if scope is not None:
                yield _Rail(scope.format(gpu=gpu, label=label.lower()), f"rail {label}", rail)
    elif driver == "power_meter":
        for place in (folder, folder / "device"):  # where older kernels have the files
            match = _SOCKET.fullmatch(text_or(place / "power1_oem_info"))
            if match is not None:
                seconds = (int_or_none(place / "power1_average_interval") or 0) / 1e3
                average_s = seconds if seconds >= _LEAST_AVERAGE_S else 0.0
                files = (place / "power1_average",)
                yield _Rail(f"package:{match[2]}", match[0], files, average_s=average_s)
    elif driver == "spbm":
        counter = _find_input(folder, "energy*_label", "pkg")
        power = (_find_input(folder, "power*_label", "soc_pkg"),)
        yield _Rail(f"module:{gpu}", "GB10 package (GPU and CPU together)", power, counter)
        yield _Rail("system", "DGX Spark", (_find_input(folder, "power*_label", "sys_total"),))


def _find_input(folder: Path, pattern: str, label: str) -> Path:
    """Find the file of a label; without one, a file that does not exist."""
    labels = (file for file in sorted(folder.glob(pattern)) if text_or(file) == label)
    found = next(labels, folder / "no_label")
    return found.with_name(found.name.replace("_label", "_input"))
