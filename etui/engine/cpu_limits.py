"""What this process may run on: its CPUs, their cores, its CPU quota, and their idle time."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

LOOK_NS = 100_000_000
"""Least time between two looks at the idle time, which the kernel counts in ticks of 10 ms."""

_STALE_NS = 1_000_000_000
"""A longer time between two looks says nothing about the present."""

_SYSFS, _PROC = Path("/sys"), Path("/proc")


def cpu_affinity() -> frozenset[int]:
    """Return the numbers of the logical CPUs this process may run on; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def count_cores(sysfs_dir: Path, cpus: Collection[int]) -> int:
    """Count the physical cores behind logical CPUs.

    Without a topology in sysfs (another system, a sandbox), it is the number of physical cores of
    the machine, at most one for each CPU.
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


class SpareCpu:
    """The idle time of the CPUs that this process may run on.

    Args:
        cpus: Their numbers; None asks the system.
        proc_dir: Where procfs is mounted.
        read_idle_seconds: Returns the idle CPU seconds so far; None reads ``stat`` of procfs.
    """

    def __init__(
        self,
        cpus: Collection[int] | None = None,
        proc_dir: Path = _PROC,
        read_idle_seconds: Callable[[], float] | None = None,
    ) -> None:
        self._cpus = cpu_affinity() if cpus is None else frozenset(cpus)
        self._stat = proc_dir / "stat"
        self._read = read_idle_seconds or self._read_idle_seconds
        self._last: tuple[int, float] | None = None

    def look(self, now_ns: int, longest_ns: int | None = _STALE_NS) -> float | None:
        """Return the mean number of idle CPUs since the last look.

        Returns:
            0 to the number of CPUs; None if the last look is too short or too long ago. Where the
            system does not count idle time, every CPU counts as idle: only trying shows it.
        """
        if self._last is not None and now_ns - self._last[0] < LOOK_NS:
            return None
        try:
            idle = self._read()
        except (OSError, ValueError, RuntimeError):
            self._last = (now_ns, 0.0)
            return float(len(self._cpus))
        last, self._last = self._last, (now_ns, idle)
        if last is None or (longest_ns is not None and now_ns - last[0] > longest_ns):
            return None
        return min(max(0.0, (idle - last[1]) * 1e9 / (now_ns - last[0])), float(len(self._cpus)))

    def _read_idle_seconds(self) -> float:
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
        return ticks / os.sysconf("SC_CLK_TCK")
