"""The process that left a file behind: known again by more than an id, which another may get."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_START_TICKS = 19
"""Index of the start time among the fields of ``/proc/PID/stat`` after the name: field 22."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, its machine, and the boot in which it runs."""

    pid: int
    process_start: str
    boot_id: str
    pid_namespace: str
    machine: str

    def is_alive(self, proc: Path = PROC) -> bool:
        """Return whether the process still runs.

        One of another PID namespace (container) cannot be seen; only a lock says that it runs.
        """
        is_date = self.process_start.endswith(" s")  # else a boot is needed to know the process
        return (
            (is_date or self.boot_id == read_boot_id(proc))
            and self.pid_namespace == read_pid_namespace(proc)
            and bool(self.process_start)
            and read_process_start(self.pid, proc) == self.process_start
        )

    def is_here(self, proc: Path = PROC) -> bool:
        """Return whether it ran on this machine: ``ETUI_HOME`` may be shared by several."""
        return self.boot_id == read_boot_id(proc) or self.machine == read_machine()


def find_owner() -> Owner:
    """Describe this process."""
    return Owner(
        pid=os.getpid(),
        process_start=read_process_start(os.getpid()),
        boot_id=read_boot_id(),
        pid_namespace=read_pid_namespace(),
        machine=read_machine(),
    )


def read_boot_id(proc: Path = PROC) -> str:
    """Return an id that differs after every boot."""
    with suppress(OSError):
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    import psutil

    return f"boot at {round(psutil.boot_time() / 60)} min"


def read_process_start(pid: int, proc: Path = PROC) -> str:
    """Return the start time of a process, which distinguishes it from a later one of the same id.

    Empty if the process does not run, or is dead and not yet reaped.
    """
    if (proc / "self/stat").exists():
        try:
            stat = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        # The name is in brackets and may hold spaces and brackets itself.
        fields = stat.rpartition(")")[2].split()
        if len(fields) <= _START_TICKS or fields[0] in ("Z", "X"):
            return ""
        return f"{fields[_START_TICKS]} ticks"
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f} s"
    except psutil.Error:
        return ""


def read_pid_namespace(proc: Path = PROC) -> str:
    """Return the id of this process's PID namespace; empty where there are none."""
    try:
        return os.readlink(proc / "self/ns/pid")
    except OSError:
        return ""


def read_machine(etc: Path = Path("/etc")) -> str:
    """Return an id of this installation: its machine id, or else its name in the network."""
    with suppress(OSError):
        if found := (etc / "machine-id").read_text(encoding="ascii").strip():
            return found
    return platform.node()
