"""How fast this machine reads its memory, which bounds the speed of a decode on its CPUs.

``python -m etui.models.memory_speed THREADS`` measures it within a second and prints one JSON
line. It runs in a process of its own: numpy and its buffers do not stay in that of the app, and
threads that add up numbers do not hold up a key. The result is kept in ``ETUI_HOME``, one for each
machine: the fastest of those that were measured while nothing else ran.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.atomic import write_text
from etui.codec import from_document, to_document
from etui.config.machine import machine_name
from etui.errors import HOME_FIX, EtuiError, ExitCode, writing
from etui.text import utc_now

if TYPE_CHECKING:
    from etui.config.config import Config

_BUFFER_BYTES = 128 << 20
"""All buffers together: several times the cache of most processors."""
_FREE_BYTES = 4 * _BUFFER_BYTES
"""Memory that has to be free, so that a measurement never makes a machine swap."""
_SECONDS = 0.3
_LEAST_PASSES = 5
_BUSY_LOAD = 0.5
"""Processes that wanted a CPU in the last minute, per CPU, from which other programs count."""
_BUSY_CPUS, _BUSY_SHARE = 0.5, 0.05
"""CPUs that other programs kept busy meanwhile, from which they count: the larger of a number and
a share of all."""
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class MemorySpeed:
    """A measured reading speed."""

    machine: str  # The machine, by :func:`etui.config.machine.machine_name`
    threads: int  # Number of threads that read
    bytes_per_second: float  # Speed of the quickest quarter of several passes
    busy: bool = False  # Whether other programs ran: the memory is faster than that
    measured_at: str = ""  # ISO 8601, UTC
    load: float | None = None  # Processes that wanted a CPU in the minute before, per CPU
    other_cpus: float | None = None  # CPUs that other programs kept busy meanwhile

    def replaces(self, kept: MemorySpeed | None) -> bool:
        """Whether it is to be kept instead of another measurement of the same machine.

        Nothing makes a memory faster than it is. Of two on a busy machine the newer is kept.
        """
        if kept is None or (self.busy and kept.busy):
            return True
        if self.busy != kept.busy:
            return kept.busy
        return self.bytes_per_second > kept.bytes_per_second


def measure_memory_speed(threads: int) -> MemorySpeed:
    """Measure how fast so many threads read memory together; EtuiError with too little of it."""
    for name in _ONE_THREAD:  # before numpy starts its own threads
        os.environ[name] = "1"
    try:
        import numpy as np
    except ImportError as error:
        raise EtuiError(f"cannot measure the memory: {error}", "reinstall etui") from error
    import psutil

    free = psutil.virtual_memory().available
    if free < _FREE_BYTES:
        raise EtuiError(
            f"cannot measure the memory: {free // 1_000_000:,} MB are free, "
            f"{_FREE_BYTES // 1_000_000:,} MB are needed",
            "close other programs",
        )
    cpus = os.cpu_count() or 1
    load = psutil.getloadavg()[0] / cpus
    size = _BUFFER_BYTES // threads // mmap.PAGESIZE * mmap.PAGESIZE

    def fill(_number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        block = mmap.mmap(-1, size)
        with suppress(AttributeError, OSError):  # not Linux, or a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)  # a tenth of the page faults
        numbers = np.frombuffer(block, dtype=np.float32)
        numbers.fill(1.0)
        return numbers

    with ThreadPoolExecutor(threads) as pool:
        buffers = list(pool.map(fill, range(threads)))
        passes: list[float] = []
        used, begin = _read_other_seconds(), time.perf_counter()
        end = begin + _SECONDS
        while len(passes) < _LEAST_PASSES or time.perf_counter() < end:
            start = time.perf_counter()
            list(pool.map(lambda numbers: float(np.dot(numbers, numbers)), buffers))
            passes.append(time.perf_counter() - start)
    quick = statistics.quantiles(passes, n=4)[0]  # the slow ones waited for other programs
    others = max(0.0, _read_other_seconds() - used) / (time.perf_counter() - begin)
    return MemorySpeed(
        machine_name(),
        threads,
        size * threads / quick,
        load > _BUSY_LOAD or others > max(_BUSY_CPUS, _BUSY_SHARE * cpus),
        utc_now(),
        round(load, 3),
        round(others, 3),
    )


def _read_other_seconds() -> float:
    """Return the seconds that CPUs worked for other processes, since a fixed point in time."""
    import psutil

    every = psutil.cpu_times()
    idle = every.idle + getattr(every, "iowait", 0.0)
    guests = getattr(every, "guest", 0.0) + getattr(every, "guest_nice", 0.0)  # in user as well
    return float(sum(every) - guests - idle - time.process_time())


def memory_speed_file(config: Config) -> Path:
    """Return the path of the file that keeps the measurement."""
    return config.home / "memory_speed.json"


def load_memory_speed(config: Config) -> MemorySpeed | None:
    """Load the measurement of this machine; None without one, or from a damaged file."""
    return _load_all(config).get(machine_name())


def _load_all(config: Config) -> dict[str, MemorySpeed]:
    try:
        document = json.loads(memory_speed_file(config).read_text(encoding="utf-8"))
        speeds = from_document(list[MemorySpeed], document, extra="ignore")
    except (OSError, ValueError):
        return {}
    return {speed.machine: speed for speed in speeds if speed.bytes_per_second > 0}


def save_memory_speed(config: Config, speed: MemorySpeed) -> None:
    """Keep a measurement, in place of that of the same machine."""
    path = memory_speed_file(config)
    speeds = _load_all(config) | {speed.machine: speed}
    with writing(path, HOME_FIX):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps([to_document(each) for each in speeds.values()]) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Measure with the number of threads in the first argument, and print a JSON line."""
    try:
        speed = measure_memory_speed(max(1, int(arguments[0])))
    except EtuiError as error:
        sys.stderr.write(f"etui: {error.what}\n{error.fix}\n")
        return ExitCode.FAILED
    sys.stdout.write(json.dumps(to_document(speed)) + "\n")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
