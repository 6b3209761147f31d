"""The state of every measured device: utilisation, temperature, clocks, memory, users, heat.

NVIDIA GPUs are read by :class:`~etui.energy.sharing.GpuWatch`; other GPUs and the CPU packages from
sysfs. A value that the driver does not report is None, and never 0. Whether heat slowed a device
down follows from Linux's ``thermal_throttle`` counters (Intel), and from NVML's time of thermal
violations and the reasons for its current clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from etui.energy.scopes import family
from etui.energy.sharing import CpuWatch, DeviceVitals, GpuWatch, sum_cpu_times
from etui.energy.sources.nvml import NvmlSource
from etui.energy.sources.sysfs import entries, int_or_none, read_micro, read_positive, text_or
from etui.energy.types import Channel, ChannelPower, Kind, sum_known
from etui.units import count_text, seconds_text

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder

CpuTimes = Callable[[], Sequence[tuple[float, float]]]
"""Returns the busy and total seconds of every logical CPU since boot."""
_FIRST = ("gpu", "package", "estimate")
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
_WINDOW_NS = 2_000_000_000
"""Time over which utilisation and shares are averaged, ns."""
_MOST_CLOCKS = 16
"""Most cores of a package whose clock is read; reading one may wake it."""


class DeviceReader:
    """Reads the state of the devices of a recorder."""

    def __init__(
        self,
        recorder: Recorder,
        sysfs_dir: Path,
        clock: Callable[[], int],
        cpu_times: CpuTimes | None = None,
    ) -> None:
        self._recorder = recorder
        self._sysfs = sysfs_dir
        self._clock = clock
        self._cpu_times = cpu_times or read_cpu_times
        self._last_times: Sequence[tuple[float, float]] = ()
        if isinstance(recorder.cpu_watch, CpuWatch):
            recorder.cpu_watch.start_attribution()

    def read(self) -> tuple[DeviceVitals, ...]:
        """Read the state of every device with a channel, in the order of the channels."""
        now_ns = self._clock()
        watch = self._recorder.watch
        states = {s.scope: s for s in watch.states} if isinstance(watch, GpuWatch) else {}
        busy = self._read_busy()
        scopes = {channel.scope: channel for channel in self._recorder.channels}
        return tuple(
            self._read_device(channel, states, busy, now_ns) for channel in scopes.values()
        )

    def _read_device(
        self,
        channel: Channel,
        states: Mapping[str, DeviceVitals],
        busy: Mapping[str, float],
        now_ns: int,
    ) -> DeviceVitals:
        scope = channel.scope
        if scope in states:
            found = states[scope]
        elif family(scope) == "gpu":
            found = read_gpu(self._sysfs, scope)
        elif family(scope) == "package" or channel.kind is Kind.ESTIMATE:
            found = self._read_cpu(channel, busy, now_ns)
        else:
            return DeviceVitals(scope)
        shared, own_share = self._read_own(channel, now_ns)
        return replace(found, shared=shared, own_share=own_share)

    def _read_own(self, channel: Channel, now_ns: int) -> tuple[bool, float | None]:
        """Return whether others use a device, and etui's part; None where etui may use nothing."""
        start_ns, cpus, gpus = now_ns - _WINDOW_NS, self._recorder.cpu_watch, self._recorder.watch
        if family(channel.scope) == "package" or channel.kind is Kind.ESTIMATE:
            if not isinstance(cpus, CpuWatch):
                return False, None
            share = cpus.share(channel.scope, start_ns, now_ns)
            return share.shared, cpus.own_share(start_ns, now_ns)
        if not isinstance(gpus, GpuWatch):
            return False, None
        share = gpus.share(channel.scope, start_ns, now_ns)
        is_known = share.shared or gpus.is_used_by_own(channel.scope, start_ns, now_ns)
        return share.shared, share.own if is_known else None

    def _read_cpu(self, channel: Channel, busy: Mapping[str, float], now_ns: int) -> DeviceVitals:
        package = channel.scope if channel.kind is not Kind.ESTIMATE else "package:0"
        used = busy.get(package)
        watch = self._recorder.cpu_watch
        if len(self._packages) <= 1 and watch is not None:
            used = watch.busy_share(now_ns - _WINDOW_NS, now_ns)
        sensor = self._sensors.get(package)
        millidegrees = None if sensor is None else int_or_none(sensor)
        clocks = [int_or_none(path) for path in self._clocks.get(package, ())]
        known = [clock for clock in clocks if clock]
        return DeviceVitals(
            channel.scope,
            utilisation=used,
            temperature_celsius=millidegrees / 1e3 if millidegrees else None,
            clock_mhz=sum(known) / len(known) / 1e3 if known else None,
        )

    def _read_busy(self) -> dict[str, float]:
        """Return the utilisation of each package since the last call, where there are several."""
        if len(self._packages) <= 1:
            return {}
        before, now = self._last_times, self._cpu_times()
        self._last_times = now
        shares = {}
        for package, cpus in self._packages.items():
            pairs = [(before[cpu], now[cpu]) for cpu in cpus if cpu < min(len(before), len(now))]
            total = sum(new[1] - old[1] for old, new in pairs)
            if total > 0:
                share = sum(new[0] - old[0] for old, new in pairs) / total
                shares[package] = min(max(share, 0.0), 1.0)
        return shares

    @cached_property
    def _packages(self) -> dict[str, list[int]]:
        """Package -> its logical CPUs."""
        found: dict[str, list[int]] = {}
        for folder in entries(self._sysfs / "devices" / "system" / "cpu"):
            number = folder.name.removeprefix("cpu")
            if folder.name.startswith("cpu") and number.isdigit():
                package = int_or_none(folder / "topology" / "physical_package_id")
                if package is not None and package >= 0:
                    found.setdefault(f"package:{package}", []).append(int(number))
        return found

    @cached_property
    def _clocks(self) -> dict[str, list[Path]]:
        """Package -> the files with the clocks of some of its cores."""
        root = self._sysfs / "devices" / "system" / "cpu"
        found = {}
        for package, cpus in self._packages.items():
            files = [root / f"cpu{cpu}" / "cpufreq" / "scaling_cur_freq" for cpu in sorted(cpus)]
            found[package] = [file for file in files if file.is_file()][:_MOST_CLOCKS]
        return found

    @cached_property
    def _sensors(self) -> dict[str, Path]:
        """Package -> the file with its temperature."""
        found: dict[str, Path] = {}
        for folder in entries(self._sysfs / "class" / "hwmon"):
            if text_or(folder / "name") not in _CPU_DRIVERS:
                continue
            package, file = f"package:{len(found)}", folder / "temp1_input"
            for label in entries(folder):
                words = text_or(label) if label.name.endswith("_label") else ""
                if words.startswith("Package id "):
                    package = f"package:{words.rpartition(' ')[2]}"
                    file = folder / label.name.replace("_label", "_input")
                elif words in ("Tdie", "Tctl"):
                    file = folder / label.name.replace("_label", "_input")
            if int_or_none(file) is not None:
                found.setdefault(package, file)
        return found


def read_gpu(sysfs_dir: Path, scope: str) -> DeviceVitals:
    """Read the state of a GPU from its driver's files (amdgpu; i915 and xe give fewer).

    The scope is ``gpu:`` with the PCI address, or with the name of its hwmon folder.
    """
    name = scope.partition(":")[2]
    device = sysfs_dir / "bus" / "pci" / "devices" / name
    if not device.exists():
        device = sysfs_dir / "class" / "hwmon" / name / "device"
    sensors = next(iter(entries(device / "hwmon")), device)
    percent = int_or_none(device / "gpu_busy_percent")
    heat = int_or_none(sensors / "temp1_input")
    clock, memory = read_micro(sensors / "freq1_input"), read_micro(sensors / "freq2_input")
    return DeviceVitals(
        scope,
        utilisation=None if percent is None else min(max(percent / 100, 0.0), 1.0),
        temperature_celsius=None if heat is None else heat / 1e3,
        clock_mhz=clock,
        memory_mhz=memory,
        limit_watts=read_positive(sensors / "power1_cap"),
        memory_used_bytes=int_or_none(device / "mem_info_vram_used"),
        memory_total_bytes=int_or_none(device / "mem_info_vram_total"),
    )


def read_cpu_times() -> list[tuple[float, float]]:
    """Read the busy and total seconds of every logical CPU since boot."""
    import psutil

    return [sum_cpu_times(times) for times in psutil.cpu_times(percpu=True)]


@dataclass(frozen=True, slots=True)
class ChannelState:
    """One power channel at a moment; None where a value is not reported."""

    power: ChannelPower  # Its newest watts
    device: DeviceVitals
    """State of the device that it measures; all None where no driver reports one."""
    idle_watts: float | None = None

    @property
    def limit_watts(self) -> float | None:
        """The power limit that is in force."""
        return self.device.limit_watts or self.power.channel.limit_watts

    @property
    def kind(self) -> str | None:
        """``estimate`` for an estimate, for :mod:`etui.units`."""
        kind = self.power.channel.kind
        return kind.value if kind is Kind.ESTIMATE else None

    @property
    def own_watts(self) -> float | None:
        """Watts above idle that are etui's own, by its part of the use; None when unknown."""
        if self.power.watts is None or self.device.own_share is None:
            return None
        return max(self.power.watts - (self.idle_watts or 0.0), 0.0) * self.device.own_share

    @property
    def others_watts(self) -> float | None:
        """Watts above idle of all other programs; None when unknown."""
        own = self.own_watts
        if self.power.watts is None or own is None:
            return None
        return max(self.power.watts - (self.idle_watts or 0.0) - own, 0.0)


def join_states(
    powers: Sequence[ChannelPower],
    devices: Sequence[DeviceVitals],
    idle_by_channel: Mapping[str, float],
) -> tuple[ChannelState, ...]:
    """Join the watts of every channel with the state of its device: GPUs first, then CPUs."""
    by_scope = {device.scope: device for device in devices}
    states = [
        ChannelState(
            power,
            by_scope.get(power.channel.scope) or DeviceVitals(power.channel.scope),
            idle_by_channel.get(power.channel.id),
        )
        for power in powers
    ]
    return tuple(sorted(states, key=_rank))


def _rank(state: ChannelState) -> tuple[bool, int]:
    """Order states: the total before its cross-checks, GPUs and CPUs before their parts."""
    kind = family(state.power.channel.scope)
    return not state.power.in_total, _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def total_watts(powers: Sequence[ChannelPower]) -> float | None:
    """Sum the watts of the channels in the total; None if there is none or one is unknown."""
    return sum_known(power.watts for power in powers if power.in_total)


def total_idle_watts(states: Sequence[ChannelState]) -> float | None:
    """Sum the idle baselines of the channels in the total; None if one has none."""
    return sum_known(state.idle_watts for state in states if state.power.in_total)


def total_kind(states: Sequence[ChannelState]) -> str | None:
    """Return ``estimate`` if a channel in the total is one, for :mod:`etui.units`."""
    return next((s.kind for s in states if s.power.in_total and s.kind), None)


def total_limit_watts(states: Sequence[ChannelState]) -> float | None:
    """Sum the power limits of the channels in the total; None if one has none."""
    return sum_known(state.limit_watts for state in states if state.power.in_total)


@dataclass(frozen=True, slots=True)
class Heat:
    """The heat of a machine at a moment; temperatures are those of the hottest sensors."""

    cpu_celsius: float | None = None
    gpu_celsius: float | None = None
    cpu_throttles: Mapping[str, int] = field(default_factory=dict)
    """How often a CPU was slowed down by heat so far, by counter."""
    gpu_slowed_ns: Mapping[str, int] = field(default_factory=dict)
    """Time that a GPU was slowed down by heat so far, by scope, nanoseconds."""
    slowed_gpus: tuple[str, ...] = ()  # Scopes of the GPUs that are slowed down by heat now


class HeatSensors:
    """The temperature sensors and throttle counters of this machine, and of NVIDIA GPUs."""

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
        nvml = self._nvml
        for channel, handle in nvml.handles if nvml is not None and nvml.library else ():
            assert nvml is not None
            degrees = nvml.ask("nvmlDeviceGetTemperature", handle, _CORE)
            gpu.append(None if degrees is None else float(degrees))
            violation = nvml.ask("nvmlDeviceGetViolationStatus", handle, _THERMAL_POLICY)
            if violation is not None:
                slowed_ns[channel.scope] = int(violation.violationTime)
            if (nvml.read_clock_reasons(handle) or 0) & _SLOWED_BY_HEAT:
                slowed_now.append(channel.scope)
        counts = {str(path): int_or_none(path) for path in self._throttles}
        return Heat(
            cpu_celsius=_find_hottest([_read_celsius(path) for path in self._cpu]),
            gpu_celsius=_find_hottest(gpu),
            cpu_throttles={name: count for name, count in counts.items() if count is not None},
            gpu_slowed_ns=slowed_ns,
            slowed_gpus=tuple(slowed_now),
        )


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
    chosen = (sensor for sensor in sensors if text_or(sensor / "name") in drivers)
    return [path for sensor in chosen for path in sensor.glob("temp*_input")]


def _read_celsius(path: Path) -> float | None:
    """Read a temperature in thousandths of a degree; None if it is missing or impossible."""
    value = int_or_none(path)
    if value is None:
        return None
    least, most = _PLAUSIBLE_CELSIUS
    return value / 1000 if least < value / 1000 < most else None


def _find_hottest(celsius: Sequence[float | None]) -> float | None:
    return max((each for each in celsius if each is not None), default=None)
