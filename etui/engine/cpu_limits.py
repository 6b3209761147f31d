"""What this process may run on: its CPUs, their cores, its quota, and what other programs take."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

LOOK_NS = 65_000_000
"""Least time between two looks at the idle time, which the kernel counts in ticks of 10 ms.

A program that begins between two looks shows within three of them: 0.2 s.
"""

_READINGS, _READING_SECONDS = 4, 0.003
"""Readings of the running tasks before an answer, and the time between them: the programs that
bring a question run for a moment, and one that takes a core runs in all of them."""

_SYSFS, _PROC = Path("/sys"), Path("/proc")


def cpu_affinity() -> frozenset[int]:
    """Return the numbers of the logical CPUs this process may run on; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def count_cores(sysfs_dir: Path, cpus: Collection[int]) -> int:
    """Count the physical cores behind logical CPUs.

    Without a topology in sysfs it is the number of cores of the machine, at most one for each CPU.
    """
    cores = set()
    for cpu in cpus:
        topology = sysfs_dir / f"devices/system/cpu/cpu{cpu}/topology"
        try:
            cores.add((topology / "thread_siblings_list").read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            import psutil

            return max(1, min(psutil.cpu_count(logical=False) or 1, len(cpus)))
    return len(cores)


def read_cpu_quota(sysfs_dir: Path = _SYSFS, proc_dir: Path = _PROC) -> float | None:
    """Read the CPU quota of this process in CPUs (cgroup v2, ``cpu.max``); None without one.

    The quotas of all groups above its own hold as well, so the lowest counts. In a container the
    path of the group may be that of the host: then only the root of the mount is found.
    """
    root = sysfs_dir / "fs/cgroup"
    own = _read_group(proc_dir)
    folders = [root, *(root.joinpath(*own[: i + 1]) for i in range(len(own)))]
    quotas = [quota for folder in folders if (quota := _read_quota(folder / "cpu.max")) is not None]
    return min(quotas, default=None)


def _read_group(proc_dir: Path) -> tuple[str, ...]:
    """Read the path of this process's group in the unified hierarchy, ``0::/a/b`` (cgroups(7))."""
    try:
        lines = (proc_dir / "self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    path = next((line[3:] for line in lines.splitlines() if line.startswith("0::")), "")
    return tuple(part for part in path.split("/") if part not in ("", ".", ".."))


def _read_quota(file: Path) -> float | None:
    """Parse ``cpu.max``: the CPU time and the period in microseconds, or ``max`` and a period."""
    try:
        limit, period = file.read_text(encoding="ascii").split()
        quota = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no such controller, or no limit
    return quota if quota > 0 else None


def read_process_ns(pid: int) -> int | None:
    """Read the CPU time of another process in all its threads; None if it has ended."""
    if sys.platform == "linux" and hasattr(time, "clock_gettime_ns"):
        try:  # the CPU clock of a process, as clock_getcpuclockid(3) numbers it
            return time.clock_gettime_ns((~pid << 3) | 2)
        except OSError:
            return None
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return int((times.user + times.system) * 1e9)


@dataclass(frozen=True, slots=True)
class _Counters:
    """What the counters say at one time."""

    t_ns: int
    idle_seconds: float | None  # Of all CPUs; None where the system does not count it
    own_ns: int
    relatives_ns: dict[int, int]  # By process id


class FreeCpus:
    """The CPUs that this process may run on, less those that other programs take.

    What is not taken is idle, or used by this process and other processes of etui: what the parent
    of an engine process computes belongs to the answer, and taking threads away from the model
    would not give it a CPU.

    Args:
        relatives: Returns the ids of the other processes of etui.
        read_idle_seconds: Returns the idle CPU seconds so far; None reads ``stat`` of procfs.
    """

    def __init__(
        self,
        cpus: Collection[int] | None = None,
        proc_dir: Path = _PROC,
        *,
        relatives: Callable[[], Iterable[int]] = tuple,
        read_idle_seconds: Callable[[], float] | None = None,
        read_own_ns: Callable[[], int] = time.process_time_ns,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cpus = cpu_affinity() if cpus is None else frozenset(cpus)
        self._stat = proc_dir / "stat"
        self._relatives = relatives
        self._read_idle = read_idle_seconds or self._read_idle_seconds
        self._read_own_ns = read_own_ns
        self._pause = pause
        self._last: _Counters | None = None

    def begin(self, now_ns: int) -> None:
        """Measure from now on."""
        self._last = self._read(now_ns)

    def look(self, now_ns: int, wanted_ns: float = 0.0) -> float | None:
        """Return the mean number of CPUs that other programs left since the last look.

        None if that is too short ago. Where the system does not count idle time, what the threads
        of this process needed (``wanted_ns``) and did not get was taken.
        """
        last = self._last
        if last is not None and now_ns - last.t_ns < LOOK_NS:
            return None
        now = self._last = self._read(now_ns)
        if last is None:
            return None
        own_ns = now.own_ns - last.own_ns
        # One that was started meanwhile has all of its time from this span.
        relatives_ns = sum(
            max(0, used - last.relatives_ns.get(pid, 0)) for pid, used in now.relatives_ns.items()
        )
        most = float(len(self._cpus))
        if now.idle_seconds is None or last.idle_seconds is None:
            free_ns = most * (now_ns - last.t_ns) - max(0.0, wanted_ns - own_ns - relatives_ns)
        else:
            free_ns = (now.idle_seconds - last.idle_seconds) * 1e9 + own_ns + relatives_ns
        return min(max(0.0, free_ns / (now_ns - last.t_ns)), most)

    def look_after_rest(self, now_ns: int) -> float | None:
        """Return the CPUs that are free after a time in which this process computed nothing.

        Programs that ran meanwhile may have ended: more are free if fewer tasks run right now.
        """
        found, most = self.look(now_ns), float(len(self._cpus))
        if found is None or found >= most - 0.1:
            return found
        for reading in range(_READINGS):  # of which the lowest counts: a short task does not matter
            if reading:
                self._pause(_READING_SECONDS)
            if (running := self._count_running()) is None:
                break
            found = max(found, most - running)
            if not running:
                break
        return found

    def _count_running(self) -> int | None:
        """Count the other tasks that run or wait for a CPU; None if the system does not say it."""
        try:
            text = self._stat.read_bytes()
            return max(0, int(text.split(b"procs_running ")[1].split(None, 1)[0]) - 1)
        except (OSError, ValueError, IndexError):
            return None

    def _read(self, now_ns: int) -> _Counters:
        try:
            idle = self._read_idle()
        except (OSError, ValueError, RuntimeError):
            idle = None
        relatives = {pid: ns for pid in self._relatives() if (ns := read_process_ns(pid))}
        return _Counters(now_ns, idle, self._read_own_ns(), relatives)

    def _read_idle_seconds(self) -> float | None:
        """Sum idle time and waiting for disks of these CPUs (proc_stat(5))."""
        ticks = 0
        try:
            with self._stat.open("rb") as lines:
                for line in lines:
                    name, *values = line.split()
                    if not name.startswith(b"cpu"):
                        break  # the rest is long
                    if name[3:] and int(name[3:]) in self._cpus:  # the first line sums all CPUs
                        ticks += sum(map(int, values[3:5]))
        except FileNotFoundError:
            import psutil

            return float(psutil.cpu_times().idle)
        return ticks / os.sysconf("SC_CLK_TCK") if ticks else None  # sandboxes show zeros
