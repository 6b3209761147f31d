"""What can spoil a visit: other programs, a suspend, heat, the battery, a gap in the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etui.energy.cpu_sharing import CpuUse, others_use
from etui.energy.gpu_sharing import GpuShare
from etui.energy.heat import Heat, HeatSensors, describe_throttling
from etui.energy.recorder import Recorder
from etui.energy.scopes import family
from etui.energy.sources.cpu_watch import OwnProcesses, read_cpu_seconds
from etui.energy.sources.nvml import NvmlSource
from etui.energy.suspend import read_suspended_ns
from etui.runtime.host import read_battery
from etui.units import percent_text, seconds_text

MOST_OTHERS = 0.05
"""Share of all CPUs, or of a GPU, that other programs may use during a visit."""

LEAST_COVERAGE = 0.98
"""Share of a visit that the meter has to have recorded."""

_LEAST_OTHERS_S = 0.1
"""CPU seconds of others below which their share is noise: CPU time is counted in ticks."""

_SUSPENDED_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class MachineState:
    """The state of the machine at a moment."""

    t_ns: int
    cpu: CpuUse | None = None  # CPU time so far; None if it cannot be read
    suspended_ns: int = 0  # Time that the machine has been suspended so far
    on_battery: bool | None = None
    """Whether a battery discharges; None if unknown, or without a battery."""
    heat: Heat = field(default_factory=Heat)  # Temperatures and throttling


class MachineWatch:
    """Reads the state of the machine before and after a visit.

    Args:
        recorder: The recorder, which knows the measured devices and who uses the GPUs.
        own_seconds: CPU seconds of etui's own processes so far; None asks the system.
        cpu_seconds: Busy and total CPU seconds of the machine; None asks the system.
        suspended: Time that the machine has been suspended, nanoseconds.
    """

    def __init__(
        self,
        sysfs_dir: Path,
        recorder: Recorder,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        own_seconds: Callable[[], float] | None = None,
        cpu_seconds: Callable[[], tuple[float, float]] | None = None,
        suspended: Callable[[], int] = read_suspended_ns,
    ) -> None:
        self._supplies = sysfs_dir / "class" / "power_supply"
        self._recorder = recorder
        self._clock = clock
        self._own_seconds = own_seconds or OwnProcesses(clock).seconds
        self._cpu_seconds = cpu_seconds or read_cpu_seconds
        self._suspended = suspended
        nvml = [source for source in recorder.sources if isinstance(source, NvmlSource)]
        self._sensors = HeatSensors(sysfs_dir, nvml[0] if nvml else None)
        scopes = [channel.scope for channel in recorder.selection.summed]
        self._gpus = [scope for scope in scopes if family(scope) in ("gpu", "module")]

    def read(self) -> MachineState:
        """Read the state of the machine now."""
        t_ns = self._clock()
        try:
            busy, total = self._cpu_seconds()
            cpu = CpuUse(t_ns, self._own_seconds(), busy, total)
        except (OSError, RuntimeError):
            cpu = None
        return MachineState(
            t_ns, cpu, self._suspended(), self.is_on_battery(), self._sensors.read()
        )

    def is_on_battery(self) -> bool | None:
        """Return whether a battery discharges; None if unknown, or without a battery."""
        return read_battery(self._supplies)[1]

    def read_celsius(self) -> float | None:
        """Read the hottest sensor of the measured device; None if unknown."""
        return self.choose_celsius(self._sensors.read())

    def choose_celsius(self, heat: Heat) -> float | None:
        """Return the temperature of the measured device: the GPUs if they are measured."""
        return heat.gpu_celsius if self._gpus else heat.cpu_celsius

    def share_of_gpus(self, start_ns: int, end_ns: int) -> tuple[GpuShare, ...]:
        """Return for each measured GPU whether it was shared, and etui's part."""
        watch = self._recorder.watch
        if watch is None:
            return ()
        return tuple(watch.share(scope, start_ns, end_ns) for scope in self._gpus)


def find_disturbance(
    before: MachineState,
    after: MachineState,
    gpus: Sequence[GpuShare],
    coverage: float | None,
    most_others: float = MOST_OTHERS,
) -> str:
    """Find why a visit cannot be used.

    A GPU that others share, of which the driver does not report their part, is no reason.

    Args:
        gpus: The use of the measured GPUs meanwhile.
        coverage: Share of the visit that the meter recorded, 0..1; None without a meter.
        most_others: Largest share of the CPUs or of a GPU that other programs may use.

    Returns:
        The reason as text; empty if the visit can be used.
    """
    if after.suspended_ns - before.suspended_ns > _SUSPENDED_NS:
        seconds = (after.suspended_ns - before.suspended_ns) / 1e9
        return f"the machine was suspended for {seconds_text(seconds)}"
    if None not in (before.on_battery, after.on_battery) and before.on_battery != after.on_battery:
        return f"the machine was {'unplugged' if after.on_battery else 'plugged in'}"
    if before.cpu is not None and after.cpu is not None:
        seconds, share = others_use([before.cpu, after.cpu], before.t_ns, after.t_ns)
        if share > most_others and seconds > _LEAST_OTHERS_S:
            return f"other programs used {percent_text(share)} of the CPUs"
    for gpu in gpus:
        if gpu.shared and gpu.own is not None and 1 - gpu.own > most_others:
            return f"other programs had {percent_text(1 - gpu.own)} of the use of a GPU"
    if coverage is not None and coverage < LEAST_COVERAGE:
        return f"the meter recorded only {percent_text(coverage)} of it"
    return ""


def describe_state(before: MachineState, after: MachineState) -> tuple[str, ...]:
    """Describe what a reader of a visit should know: throttling by heat, the battery."""
    notes = [describe_throttling(before.heat, after.heat)]
    if after.on_battery:
        notes.append("the machine ran on its battery")
    return tuple(note for note in notes if note)
