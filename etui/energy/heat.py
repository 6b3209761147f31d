"""Temperatures, and whether the CPU or a GPU was slowed down by heat.

Sources: Linux's ``thermal_throttle`` counters (Intel), hwmon and thermal zones for temperatures;
NVML's time of thermal violations and the reasons for its current clocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etui.energy.sources.nvml import NvmlSource
from etui.energy.sources.sysfs import entries, int_or_none, text_or
from etui.units import count_text, seconds_text

_CPU_DRIVERS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_GPU_DRIVERS = ("amdgpu", "i915", "xe", "nouveau")
_CPU_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal")
_THROTTLE_FILES = ("core_throttle_count", "package_throttle_count")
_SLOWED_BY_HEAT = 0x20 | 0x40
"""Software and hardware thermal slowdown, of NVML's reasons for the current clocks."""
_THERMAL_POLICY, _CORE = 1, 0
"""``NVML_PERF_POLICY_THERMAL``, ``NVML_TEMPERATURE_GPU``."""
_LEAST_VIOLATION_NS = 10_000_000
_PLAUSIBLE_CELSIUS = (-40.0, 150.0)


@dataclass(frozen=True, slots=True)
class Heat:
    """The heat of a machine at a moment.

    Attributes:
        cpu_celsius, gpu_celsius: Hottest sensor of the CPUs and of the GPUs; None if unknown.
    """

    cpu_celsius: float | None = None
    gpu_celsius: float | None = None
    cpu_throttles: Mapping[str, int] = field(default_factory=dict)
    """How often a CPU was slowed down by heat so far, by counter."""
    gpu_slowed_ns: Mapping[str, int] = field(default_factory=dict)
    """Time that a GPU was slowed down by heat so far, by scope, nanoseconds."""
    slowed_gpus: tuple[str, ...] = ()  # Scopes of the GPUs that are slowed down by heat now


class HeatSensors:
    """The temperature sensors and throttle counters of this machine.

    Args:
        nvml: The NVIDIA GPUs that are measured; None without any.
    """

    def __init__(self, sysfs_dir: Path, nvml: NvmlSource | None = None) -> None:
        self._nvml = nvml
        sensors = entries(sysfs_dir / "class" / "hwmon")
        self._cpu = _find_inputs(sensors, _CPU_DRIVERS)
        self._gpu = _find_inputs(sensors, _GPU_DRIVERS)
        if not self._cpu:
            zones = entries(sysfs_dir / "class" / "thermal")
            self._cpu = [zone / "temp" for zone in zones if text_or(zone / "type") in _CPU_ZONES]
        cpus = entries(sysfs_dir / "devices" / "system" / "cpu")
        found = (cpu / "thermal_throttle" / name for cpu in cpus for name in _THROTTLE_FILES)
        self._throttles = [path for path in found if int_or_none(path) is not None]

    def read(self) -> Heat:
        """Read all sensors; it never fails, what cannot be read is left out."""
        gpu = [_read_celsius(path) for path in self._gpu]
        slowed_ns: dict[str, int] = {}
        slowed_now: list[str] = []
        for scope, handle in self._handles():
            degrees = self._ask("nvmlDeviceGetTemperature", handle, _CORE)
            gpu.append(None if degrees is None else float(degrees))
            violation = self._ask("nvmlDeviceGetViolationStatus", handle, _THERMAL_POLICY)
            if violation is not None:
                slowed_ns[scope] = int(violation.violationTime)
            reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
            if reasons is None:  # its name in older drivers
                reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
            if reasons is not None and int(reasons) & _SLOWED_BY_HEAT:
                slowed_now.append(scope)
        counts = {str(path): int_or_none(path) for path in self._throttles}
        return Heat(
            cpu_celsius=_find_hottest([_read_celsius(path) for path in self._cpu]),
            gpu_celsius=_find_hottest(gpu),
            cpu_throttles={name: count for name, count in counts.items() if count is not None},
            gpu_slowed_ns=slowed_ns,
            slowed_gpus=tuple(slowed_now),
        )

    def _handles(self) -> list[tuple[str, Any]]:
        if self._nvml is None or self._nvml.library is None:
            return []
        return [(channel.scope, handle) for channel, handle in self._nvml.handles]

    def _ask(self, function: str, *args: Any) -> Any:
        """Call an NVML function; return None if the card, the driver or pynvml lacks it."""
        assert self._nvml is not None
        library = self._nvml.library
        call = getattr(library, function, None)
        if call is None:
            return None
        try:
            return call(*args)
        except library.NVMLError:
            return None


def describe_throttling(before: Heat, after: Heat) -> str:
    """Describe what was slowed down by heat between two moments; empty if nothing was.

    The counters of a package are the same number in each of its CPUs, so the largest increase
    counts and not their sum.
    """
    found = []
    rises = [
        count - before.cpu_throttles.get(name, count) for name, count in after.cpu_throttles.items()
    ]
    if (most := max(rises, default=0)) > 0:
        found.append(f"the CPU was slowed down by heat {count_text(most, 'time')}")
    slowed_ns = max(
        (ns - before.gpu_slowed_ns.get(scope, ns) for scope, ns in after.gpu_slowed_ns.items()),
        default=0,
    )
    if slowed_ns >= _LEAST_VIOLATION_NS:
        found.append(f"a GPU was slowed down by heat for {seconds_text(slowed_ns / 1e9)}")
    elif before.slowed_gpus or after.slowed_gpus:
        found.append("a GPU was slowed down by heat")
    return "; ".join(found)


def _find_inputs(sensors: Sequence[Path], drivers: Sequence[str]) -> list[Path]:
    return [
        path
        for sensor in sensors
        if text_or(sensor / "name") in drivers
        for path in entries(sensor)
        if path.name.startswith("temp") and path.name.endswith("_input")
    ]


def _read_celsius(path: Path) -> float | None:
    """Read a temperature in thousandths of a degree; None if it is missing or impossible."""
    value = int_or_none(path)
    if value is None:
        return None
    least, most = _PLAUSIBLE_CELSIUS
    return value / 1000 if least < value / 1000 < most else None


def _find_hottest(celsius: Sequence[float | None]) -> float | None:
    return max((each for each in celsius if each is not None), default=None)
