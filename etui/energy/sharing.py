"""Who uses the GPUs and CPUs: etui's part of devices that several processes use at once.

A GPU is divided by the SM time of its processes, the CPUs of an estimate by CPU time, as the
estimate follows the utilisation by all processes. Two sources without channels record the use:
:class:`GpuWatch` twice a second, with temperature, clocks and memory, and :class:`CpuWatch` four
times a second.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etui.energy.sources.nvml import NvmlSource
from etui.energy.types import BaseSource, ChannelEnergy, Reading

_GPU_EVERY_NS = 500_000_000
_REACH_NS = 700_000_000
_GPU_LOOKS = 8192
_CORE_TEMPERATURE, _SM_CLOCK, _MEMORY_CLOCK = 0, 1, 2
_CPU_EVERY_NS = 250_000_000
_FAMILY_NS = 2_000_000_000
"""Listing child processes looks at every process of the machine, so it is done rarely."""
_CPU_LOOKS = 14_400
"""Samples to keep: an hour of them."""
_OTHERS_OF_MACHINE = 0.02
_OTHERS_OF_BUSY = 0.1
"""The CPUs count as shared only if other processes use at least this share of all CPU time, and of
the time in which the CPUs are busy: a few services run on every machine."""
_IDLE_PERCENT = 1.0
"""A GPU counts as shared only if other processes use at least this percentage of it."""


@dataclass(frozen=True, slots=True)
class GpuShare:
    """Whether a GPU, or the CPUs of an estimate, were shared in an interval, and etui's part."""

    shared: bool
    own: float | None  # Etui's share of the SM or CPU time, 0..1; None when it cannot be determined


@dataclass(frozen=True, slots=True)
class GpuUse:
    """A sample of the processes that use one GPU; utilisation is None where not by process."""

    t_ns: int  # Time on the monotonic clock, nanoseconds
    scope: str
    own_percent: float | None  # SM utilisation of etui's processes
    other_percent: float | None  # SM utilisation of all others
    others: int  # Number of other processes with a compute context
    unknown: int = 0
    """Number of processes with an unknown owner (another PID namespace, as in a container)."""


def compute_share(
    uses: Iterable[GpuUse], scope: str, start_ns: int, end_ns: int, reach_ns: int
) -> GpuShare:
    """Compute etui's share of a GPU over an interval, by samples up to ``reach_ns`` outside."""
    near = [
        u for u in uses if u.scope == scope and start_ns - reach_ns <= u.t_ns <= end_ns + reach_ns
    ]
    if not near:
        return GpuShare(False, None)
    if any(use.unknown for use in near):
        # A single unknown process is most likely etui itself, under its PID outside the container.
        return GpuShare(any(use.others or use.unknown > 1 for use in near), None)
    known = [u for u in near if u.own_percent is not None and u.other_percent is not None]
    if not known:
        return GpuShare(any(use.others for use in near), None)
    own = sum(use.own_percent or 0.0 for use in known)
    other = sum(use.other_percent or 0.0 for use in known)
    if other / len(known) < _IDLE_PERCENT:
        return GpuShare(False, 1.0)
    return GpuShare(True, own / (own + other))


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU seconds up to a time; only differences are meaningful."""

    t_ns: int  # Time on the monotonic clock, nanoseconds
    own_seconds: float  # Used by etui's own processes
    busy_seconds: float
    total_seconds: float  # Used and unused, of all CPUs together


def compute_cpu_share(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> GpuShare:
    """Compute etui's share of the busy CPU time in an interval, from samples in order."""
    own, busy, total = _used(uses, start_ns, end_ns)
    if busy <= 0 or total <= 0:
        return GpuShare(False, None)
    others = max(busy - own, 0.0)
    if others < _OTHERS_OF_MACHINE * total or others < _OTHERS_OF_BUSY * busy:
        return GpuShare(False, 1.0)
    return GpuShare(True, min(max(own / busy, 0.0), 1.0))


def busy_share(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> float | None:
    """Compute the utilisation of all CPUs in an interval, 0..1; None if it was not recorded."""
    _, busy, total = _used(uses, start_ns, end_ns)
    return min(max(busy / total, 0.0), 1.0) if total > 0 else None


def others_use(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> tuple[float, float]:
    """Compute what other processes used in an interval: CPU seconds, and their share of all CPUs.

    Zeros if it was not recorded.
    """
    own, busy, total = _used(uses, start_ns, end_ns)
    others = max(busy - own, 0.0)
    return others, min(others / total, 1.0) if total > 0 else 0.0


def _used(uses: Sequence[CpuUse], start_ns: int, end_ns: int) -> tuple[float, float, float]:
    """Compute own, busy and total seconds of an interval; zeros outside the record."""
    if len(uses) < 2:
        return 0.0, 0.0, 0.0
    first, last = _interpolate(uses, start_ns), _interpolate(uses, end_ns)
    return last[0] - first[0], last[1] - first[1], last[2] - first[2]


def _interpolate(uses: Sequence[CpuUse], t_ns: int) -> tuple[float, float, float]:
    """Interpolate between two samples; before the first and after the last, take that one."""
    index = bisect_right(uses, t_ns, key=lambda use: use.t_ns)
    before, after = uses[max(index - 1, 0)], uses[min(index, len(uses) - 1)]
    span = after.t_ns - before.t_ns
    part = (t_ns - before.t_ns) / span if span > 0 else 0.0
    return (
        before.own_seconds + part * (after.own_seconds - before.own_seconds),
        before.busy_seconds + part * (after.busy_seconds - before.busy_seconds),
        before.total_seconds + part * (after.total_seconds - before.total_seconds),
    )


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


def divide(
    parts: Iterable[ChannelEnergy],
    share_of: Callable[[ChannelEnergy], GpuShare | None],
    idle_watts: Mapping[str, float],
    seconds: float,
) -> tuple[bool, float | None]:
    """Return whether a part of a sum was shared, and the joules that are own.

    Of a shared channel these are the own part of the joules above idle. They are None if nothing
    was shared, or if the own part of a shared channel is unknown. ``share_of`` is None if the use
    of a channel is not recorded.
    """
    shared, known, own = False, True, 0.0
    for part in parts:
        share = share_of(part)
        if share is None or not share.shared:
            own += part.joules
            continue
        shared = True
        known = known and share.own is not None
        idle = idle_watts.get(part.id, 0.0) * seconds
        own += max(part.joules - idle, 0.0) * (share.own or 0.0)
    return shared, own if shared and known else None


class GpuWatch(BaseSource):
    """A source without channels: it only records the use and state of the GPUs."""

    def __init__(
        self,
        nvml: NvmlSource,
        clock: Callable[[], int] = time.monotonic_ns,
        is_own: Callable[[int], bool] | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        super().__init__(clock)
        self._nvml = nvml
        self._is_own = is_own or is_own_process
        self._owners: dict[int, bool] = {}
        self._proc = proc
        self._uses: deque[GpuUse] = deque(maxlen=_GPU_LOOKS)
        self._states: dict[str, DeviceVitals] = {}
        self._seen_us: dict[str, int] = {}
        self._due_ns = 0

    @property
    def states(self) -> tuple[DeviceVitals, ...]:
        """The newest state of every GPU."""
        return tuple(self._states.values())

    def read(self) -> Mapping[str, Reading]:
        """Sample the GPUs when half a second has passed; return no readings."""
        now_ns = self.clock()
        if now_ns < self._due_ns or self._nvml.library is None:
            return {}
        self._due_ns = now_ns + _GPU_EVERY_NS
        for channel, handle in self._nvml.handles:
            self._uses.append(self._read_use(now_ns, channel.scope, handle))
            self._states[channel.scope] = self._read_state(channel.scope, handle)
        return {}

    def share(self, scope: str, start_ns: int, end_ns: int) -> GpuShare:
        """Return whether a GPU was shared in an interval, and etui's part of it."""
        return compute_share(tuple(self._uses), scope, start_ns, end_ns, _REACH_NS)

    def is_used_by_own(self, scope: str, start_ns: int, end_ns: int) -> bool:
        """Return whether etui's processes are known to have used a GPU in an interval."""
        return any(
            use.own_percent
            for use in tuple(self._uses)
            if use.scope == scope and start_ns - _REACH_NS <= use.t_ns <= end_ns + _REACH_NS
        )

    def _read_use(self, now_ns: int, scope: str, handle: Any) -> GpuUse:
        processes = self._nvml.ask("nvmlDeviceGetComputeRunningProcesses", handle) or []
        pids = {int(process.pid) for process in processes}
        self._owners = {  # each process is checked once
            pid: self._owners[pid] if pid in self._owners else self._is_own(pid) for pid in pids
        }
        own = {pid for pid in pids if self._owners[pid]}
        known = {pid for pid in pids if pid in own or self._exists(pid)}
        since_us = self._seen_us.get(scope, 0)
        samples = self._nvml.ask("nvmlDeviceGetProcessUtilization", handle, since_us)
        own_percent = other_percent = None
        if samples is not None or not pids:
            newest: dict[int, tuple[int, float]] = {}
            for sample in samples or []:
                stamp, pid = int(sample.timeStamp), int(sample.pid)
                if stamp >= newest.get(pid, (0, 0.0))[0] and int(sample.smUtil) <= 100:
                    newest[pid] = (stamp, float(sample.smUtil))
                self._seen_us[scope] = max(self._seen_us.get(scope, 0), stamp)
            own_percent = sum(sm for pid, (_, sm) in newest.items() if pid in own)
            other_percent = sum(sm for pid, (_, sm) in newest.items() if pid not in own)
        return GpuUse(
            now_ns, scope, own_percent, other_percent, len(known - own), len(pids - known)
        )

    def _exists(self, pid: int) -> bool:
        """Return whether a process can be seen, unlike one of another container."""
        import psutil

        here = self._proc.is_dir()  # Windows has no /proc
        return (self._proc / str(pid)).exists() if here else bool(psutil.pid_exists(pid))

    def _read_state(self, scope: str, handle: Any) -> DeviceVitals:
        ask = self._nvml.ask
        limit_mw = ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        memory = ask("nvmlDeviceGetMemoryInfo", handle)
        # The share of time with a kernel; not reported with MIG.
        percent = getattr(ask("nvmlDeviceGetUtilizationRates", handle), "gpu", None)
        return DeviceVitals(
            scope,
            utilisation=percent / 100 if percent is not None and 0 <= percent <= 100 else None,
            temperature_celsius=ask("nvmlDeviceGetTemperature", handle, _CORE_TEMPERATURE),
            clock_mhz=ask("nvmlDeviceGetClockInfo", handle, _SM_CLOCK),
            memory_mhz=ask("nvmlDeviceGetClockInfo", handle, _MEMORY_CLOCK),
            limit_watts=limit_mw / 1e3 if limit_mw else None,
            memory_used_bytes=int(memory.used) if memory else None,
            memory_total_bytes=int(memory.total) if memory else None,
        )


def is_own_process(pid: int) -> bool:
    """Return whether a process is this one or its descendant: the engine may run in a child."""
    import psutil

    own = os.getpid()
    if pid == own:
        return True
    with suppress(psutil.Error):
        return any(parent.pid == own for parent in psutil.Process(pid).parents())
    return False


class OwnProcesses:
    """CPU time of this process and its descendants: the engine may run in a child process.

    A process that ends keeps the time it has used in the sum.
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        list_pids: Callable[[], Sequence[int]] | None = None,
        read_seconds: Callable[[int], float | None] | None = None,
    ) -> None:
        self._clock = clock
        self._list_pids = list_pids or list_family
        self._read_seconds = read_seconds or read_process_seconds
        self._last: dict[int, float] = {}
        self._ended = 0.0
        self._due_ns: int | None = None

    def seconds(self) -> float:
        """Return the CPU seconds of all processes so far; it never decreases."""
        now_ns = self._clock()
        pids: Sequence[int] = tuple(self._last)
        if self._due_ns is None or now_ns >= self._due_ns:
            self._due_ns = now_ns + _FAMILY_NS
            pids = tuple(dict.fromkeys((*pids, *self._list_pids())))
        for pid in pids:
            used = self._read_seconds(pid)
            if used is None or used < self._last.get(pid, 0.0):  # it ended, or its id is reused
                self._ended += self._last.pop(pid, 0.0)
            else:
                self._last[pid] = used
        return self._ended + sum(self._last.values())


class CpuWatch(BaseSource):
    """A source without channels: it only records the use of the CPUs.

    etui's part takes a list of all processes, and is left out without ``attribute``.
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        own_seconds: Callable[[], float] | None = None,
        cpu_seconds: Callable[[], tuple[float, float]] | None = None,
        *,
        attribute: bool = True,
    ) -> None:
        super().__init__(clock)
        self._attribute = attribute
        self._own_seconds = own_seconds or OwnProcesses(clock).seconds
        self._cpu_seconds = cpu_seconds or read_cpu_seconds
        self._uses: list[CpuUse] = []
        self._due_ns = 0

    def read(self) -> Mapping[str, Reading]:
        """Sample the CPU time when a quarter of a second has passed; return no readings."""
        now_ns = self.clock()
        if now_ns < self._due_ns:
            return {}
        self._due_ns = now_ns + _CPU_EVERY_NS
        try:
            busy, total = self._cpu_seconds()
        except (OSError, RuntimeError):
            return {}
        own = self._own_seconds() if self._attribute else 0.0
        self._uses.append(CpuUse(now_ns, own, busy, total))
        if len(self._uses) > _CPU_LOOKS + _CPU_LOOKS // 4:
            self._uses = self._uses[-_CPU_LOOKS:]  # a new list: another thread may read the old one
        return {}

    def start_attribution(self) -> None:
        """Record etui's part from now on; a record without it starts again."""
        if not self._attribute:
            self._uses = []
            self._attribute = True

    def own_share(self, start_ns: int, end_ns: int) -> float | None:
        """Return etui's share of the busy CPU time, 0..1, also where others use next to nothing."""
        own, busy, _ = _used(self._uses if self._attribute else (), start_ns, end_ns)
        return min(max(own / busy, 0.0), 1.0) if busy > 0 else None

    def share(self, scope: str, start_ns: int, end_ns: int) -> GpuShare:
        """Return whether other processes used the CPUs in an interval, and etui's part of it."""
        if not self._attribute:
            return GpuShare(False, None)
        return compute_cpu_share(self._uses, start_ns, end_ns)

    def busy_share(self, start_ns: int, end_ns: int) -> float | None:
        """Return the utilisation of all CPUs in an interval, 0..1; None if not recorded."""
        return busy_share(self._uses, start_ns, end_ns)


def list_family() -> list[int]:
    """List this process and its descendants."""
    import psutil

    own = psutil.Process()
    try:
        return [own.pid, *(child.pid for child in own.children(recursive=True))]
    except (psutil.Error, OSError):
        return [own.pid]


def read_process_seconds(pid: int) -> float | None:
    """Read the user and system CPU seconds of a process; None if it has ended."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, OSError):
        return None
    return float(times.user + times.system)


def read_cpu_seconds() -> tuple[float, float]:
    """Read the busy and total CPU seconds of all cores since boot."""
    import psutil

    return sum_cpu_times(psutil.cpu_times())


def sum_cpu_times(times: Any) -> tuple[float, float]:
    """Sum the fields of psutil's CPU times to busy and total seconds."""
    fields = times._asdict()
    # User time includes guest time already (proc(5)); waiting for a disk counts as idle.
    total = sum(v for k, v in fields.items() if k not in ("guest", "guest_nice"))
    idle = fields.get("idle", 0.0) + fields.get("iowait", 0.0)
    return total - idle, total
