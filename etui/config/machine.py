"""The name of this machine, by which measurements of different machines are kept apart."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def machine_name() -> str:
    """Describe the machine as far as joules depend on it: ``AMD EPYC, 2 CPUs, Linux x86_64``.

    GPUs are identified by their power channels, whose ids contain their serial number.
    """
    system = f"{platform.system()} {platform.machine()}"
    return f"{processor_name()}, {os.cpu_count()} CPUs, {system}"


@cache
def processor_name() -> str:
    """Read the model name of the processor; ``unknown processor`` if the system gives none."""
    try:
        with _CPUINFO.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return " ".join(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux
    if sys.platform == "darwin":  # where Python only knows `arm`
        import subprocess

        with suppress(OSError, subprocess.SubprocessError):
            command = ("sysctl", "-n", "machdep.cpu.brand_string")
            if name := subprocess.check_output(command, text=True, timeout=5).strip():
                return name
    return platform.processor() or "unknown processor"
