"""The CPU time of etui's own processes and of the whole machine, sampled four times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from etui.energy.cpu_sharing import CpuUse, busy_share, compute_cpu_share, own_share
from etui.energy.gpu_sharing import GpuShare
from etui.energy.types import Channel, ChannelProbe, Reading

_EVERY_NS = 250_000_000
_FAMILY_NS = 2_000_000_000
"""Listing child processes looks at every process of the machine, so it is done rarely."""
_LOOKS = 14_400
"""Samples to keep: an hour of them."""


class OwnProcesses:
    """CPU time of this process and its descendants: the engine may run in a child process.

    A process that ends keeps the time it has used in the sum.

    Args:
        list_pids: Lists the processes; None asks the system.
        read_seconds: Returns the CPU seconds of a process, None if it has ended; None asks the
            system.
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


class CpuWatch:
    """A source without channels: it only records the use of the CPUs.

    Args:
        own_seconds: CPU seconds of etui's own processes so far; None asks the system.
        cpu_seconds: Busy and total CPU seconds of the machine; None asks the system.
        attribute: Whether etui's part is needed, which takes a list of all processes.
    """

    name = "cpu-watch"

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        own_seconds: Callable[[], float] | None = None,
        cpu_seconds: Callable[[], tuple[float, float]] | None = None,
        *,
        attribute: bool = True,
    ) -> None:
        self._clock = clock
        self._attribute = attribute
        self._own_seconds = own_seconds or OwnProcesses(clock).seconds
        self._cpu_seconds = cpu_seconds or read_cpu_seconds
        self._uses: list[CpuUse] = []
        self._due_ns = 0

    @property
    def channels(self) -> Sequence[Channel]:
        """No channels: this source measures no energy."""
        return ()

    def probe(self) -> Sequence[ChannelProbe]:
        """Report nothing: there are no channels."""
        return ()

    def read(self) -> Mapping[str, Reading]:
        """Sample the CPU time when a quarter of a second has passed; return no readings."""
        now_ns = self._clock()
        if now_ns < self._due_ns:
            return {}
        self._due_ns = now_ns + _EVERY_NS
        try:
            busy, total = self._cpu_seconds()
        except (OSError, RuntimeError):
            return {}
        own = self._own_seconds() if self._attribute else 0.0
        self._uses.append(CpuUse(now_ns, own, busy, total))
        if len(self._uses) > _LOOKS + _LOOKS // 4:
            self._uses = self._uses[-_LOOKS:]  # a new list: another thread may read the old one
        return {}

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def start_attribution(self) -> None:
        """Record etui's part from now on; a record without it starts again."""
        if not self._attribute:
            self._uses = []
            self._attribute = True

    def own_share(self, start_ns: int, end_ns: int) -> float | None:
        """Return etui's share of the busy CPU time, 0..1, also where others use next to nothing."""
        return own_share(self._uses, start_ns, end_ns) if self._attribute else None

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

    times = psutil.cpu_times()
    fields = times._asdict()
    # User time includes guest time already (proc(5)); waiting for a disk counts as idle.
    total = sum(v for k, v in fields.items() if k not in ("guest", "guest_nice"))
    idle = fields.get("idle", 0.0) + fields.get("iowait", 0.0)
    return total - idle, total
