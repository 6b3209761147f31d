"""Utilisation, temperature, clocks, memory and users of every measured device, once a second.

NVIDIA GPUs are read by :class:`~etui.energy.sources.nvml_watch.GpuWatch`; other GPUs and the CPU
packages from sysfs. A value that the driver does not report is None, and never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from etui.energy.recorder import Recorder
from etui.energy.scopes import family
from etui.energy.sources.cpu_watch import CpuWatch
from etui.energy.sources.nvml_watch import GpuState, GpuWatch
from etui.energy.sources.sysfs import entries, int_or_none, text_or
from etui.energy.types import Channel, Kind

_WINDOW_NS = 2_000_000_000
"""Time over which utilisation and shares are averaged, ns."""

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_MOST_CLOCKS = 16
"""Most cores of a package whose clock is read; reading one may wake it."""

CpuTimes = Callable[[], Sequence[tuple[float, float]]]
"""Returns the busy and total seconds of every logical CPU since boot."""


@dataclass(frozen=True, slots=True)
class DeviceVitals:
    """The state of one device at a moment; None where it is not reported."""

    scope: str  # The hardware, as in its channel
    utilisation: float | None = None  # Share of the time in which it worked, 0..1
    temperature_celsius: float | None = None
    clock_mhz: float | None = None  # Clock of its cores; of a CPU the mean
    memory_mhz: float | None = None
    limit_watts: float | None = None  # Power limit in force
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    shared: bool = False  # Whether other processes use it too
    own_share: float | None = None
    """Etui's part of its use, 0..1: of SM or CPU time. None if the driver does not report it by
    process, and if no program uses a GPU."""


class DeviceReader:
    """Reads the state of the devices of a recorder.

    Args:
        recorder: Its channels, and its watches on the GPUs and CPUs.
        cpu_times: Times of every logical CPU; None asks the system.
    """

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
        states: Mapping[str, GpuState],
        busy: Mapping[str, float],
        now_ns: int,
    ) -> DeviceVitals:
        scope = channel.scope
        if state := states.get(scope):
            found = _from_state(state)
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
            if text_or(folder / "name") not in _CPU_SENSORS:
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

    Args:
        scope: ``gpu:`` with the PCI address, or with the name of its hwmon folder.
    """
    name = scope.partition(":")[2]
    device = sysfs_dir / "bus" / "pci" / "devices" / name
    if not device.exists():
        device = sysfs_dir / "class" / "hwmon" / name / "device"
    sensors = next(iter(entries(device / "hwmon")), device)
    percent = int_or_none(device / "gpu_busy_percent")
    heat = int_or_none(sensors / "temp1_input")
    clock, memory = int_or_none(sensors / "freq1_input"), int_or_none(sensors / "freq2_input")
    limit = int_or_none(sensors / "power1_cap")
    return DeviceVitals(
        scope,
        utilisation=None if percent is None else min(max(percent / 100, 0.0), 1.0),
        temperature_celsius=None if heat is None else heat / 1e3,
        clock_mhz=None if clock is None else clock / 1e6,
        memory_mhz=None if memory is None else memory / 1e6,
        limit_watts=limit / 1e6 if limit and limit > 0 else None,
        memory_used_bytes=int_or_none(device / "mem_info_vram_used"),
        memory_total_bytes=int_or_none(device / "mem_info_vram_total"),
    )


def _from_state(state: GpuState) -> DeviceVitals:
    percent = state.utilisation_percent
    return DeviceVitals(
        state.scope,
        utilisation=None if percent is None else min(max(percent / 100, 0.0), 1.0),
        temperature_celsius=state.temperature_celsius,
        clock_mhz=state.sm_mhz,
        memory_mhz=state.memory_mhz,
        limit_watts=state.limit_watts,
        memory_used_bytes=state.memory_used_bytes,
        memory_total_bytes=state.memory_total_bytes,
    )


def read_cpu_times() -> list[tuple[float, float]]:
    """Read the busy and total seconds of every logical CPU since boot."""
    import psutil

    found = []
    for times in psutil.cpu_times(percpu=True):
        fields = times._asdict()
        total = sum(v for k, v in fields.items() if k not in ("guest", "guest_nice"))
        idle = fields.get("idle", 0.0) + fields.get("iowait", 0.0)
        found.append((total - idle, total))
    return found
