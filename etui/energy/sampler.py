"""The threads that read the sources, and survive sources that raise, hang or are slow."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from etui.energy.types import DividedSource, PowerSource, Reading

Ingest = Callable[[PowerSource, Mapping[str, Reading]], None]
BURST_NS = 1_000_000_000
BURST_INTERVAL_NS = 5_000_000
"""The first reads are frequent, so that the counters' periods are known from the start."""
HURRY_INTERVAL_NS = 8_000_000
_DITHER = 0.4
_GOLDEN = 0.6180339887498949
_COST_SHARE = 0.05
"""All reads together take at most this share of the CPU time of one core, if possible."""
_HURRY_SHARE = 4
"""Frequent reads, which last a second at most, may take that many times as much."""
_LONGEST_COST_PAUSE_NS = 250_000_000
"""A longer pause would leave gaps in the record, however much CPU time a driver takes."""
_COSTS = 5
_SUSPENDED_NS = 500_000_000


def dither_interval(interval_ns: int, beat: int) -> int:
    """Compute the pause after the read number ``beat``: the interval, spread by 40 % either way.

    Dithered reads meet a regular counter at many phases, which locates its edges precisely.
    """
    return int(interval_ns * (1 + _DITHER * (2 * ((beat * _GOLDEN) % 1.0) - 1)))


class PowerSampler:
    """Reads each source on a daemon thread of its own; a source that is divided, each part.

    A read that stalls delays no other source, and its own source continues as soon as the read
    returns. The pause between two reads depends on the CPU time of reads, never on how long a
    driver made them wait. Only one thread at a time hands readings to ``ingest``; ``interrupt`` is
    called before the first reading of a source after the machine was ``suspended`` (nanoseconds so
    far, of which only differences count).
    """

    def __init__(
        self,
        sources: Sequence[PowerSource],
        interval_ns: int,
        clock: Callable[[], int],
        ingest: Ingest,
        *,
        suspended: Callable[[], int] = lambda: 0,
        interrupt: Callable[[PowerSource], None] = lambda source: None,
        cpu_clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._interval_ns = interval_ns
        self._clock = clock
        self._ingest = ingest
        self._suspended = suspended
        self._interrupt = interrupt
        self._cpu_clock = cpu_clock
        self._wake = threading.Condition()
        self._ingesting = threading.Lock()
        self.running = False  # Whether the threads are supposed to run
        self._generation = 0
        self._threads: list[threading.Thread] = []
        self._hurry_until_ns = 0
        self._sources = [
            (source, [_Unit(part, suspended()) for part in _find_parts(source)])
            for source in sources
        ]
        self._units = [unit for _, units in self._sources for unit in units]

    def start(self) -> None:
        """Start the threads; do nothing when they are running already."""
        with self._wake:
            if self.running or not self._units:
                return
            self.running = True
            self._generation += 1
            self._threads = [
                threading.Thread(
                    target=self._run, args=(unit, self._generation), name="etui-power", daemon=True
                )
                for unit in self._units
            ]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop the threads, and leave behind those that hang in a driver (they are daemons)."""
        with self._wake:
            self.running = False
            self._generation += 1
            threads, self._threads = self._threads, []
            self._wake.notify_all()
        limit_s = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(limit_s - time.monotonic(), 0.0))

    def hurry(self, until_ns: int) -> None:
        """Read often until a time, because a caller waits for the next edge of a counter."""
        with self._wake:
            self._hurry_until_ns = max(self._hurry_until_ns, until_ns)
            self._wake.notify_all()

    def read_once(self) -> None:
        """Read every source now, on the calling thread; skip those that a thread is reading."""
        for unit in self._units:
            if unit.lock.acquire(blocking=False):
                try:
                    self._read(unit)
                finally:
                    unit.lock.release()

    def close(self) -> None:
        """Stop, and close every source that does not hang in a read."""
        self.stop()
        for source, units in self._sources:
            if any(unit.lock.locked() for unit in units):
                continue
            with suppress(Exception):  # a failed shutdown no longer matters
                source.close()

    def _run(self, unit: _Unit, generation: int) -> None:
        burst_until_ns = self._clock() + BURST_NS
        beat = 0
        while True:
            with unit.lock:  # a thread that was left behind may still be reading
                if generation != self._generation:
                    return
                start_ns, start_cpu_ns = self._clock(), self._cpu_clock()
                self._read(unit)
                end_ns = self._clock()
                unit.costs_ns.append(self._cpu_clock() - start_cpu_ns)
            beat += 1
            often = unit.measures and start_ns < burst_until_ns
            interval_ns = BURST_INTERVAL_NS if often else dither_interval(self._interval_ns, beat)
            # A driver that is always slow is not called without a break.
            rested_ns = end_ns + min(end_ns - start_ns, self._interval_ns) // 2
            cost_ns = sum(each.typical_cost_ns for each in self._units)
            cost_pause_ns = min(int(cost_ns / _COST_SHARE), _LONGEST_COST_PAUSE_NS)
            with self._wake:
                while generation == self._generation:
                    now_ns = self._clock()
                    hurried = unit.measures and now_ns < self._hurry_until_ns
                    pause_ns = min(interval_ns, HURRY_INTERVAL_NS) if hurried else interval_ns
                    share = _HURRY_SHARE if often or hurried else 1
                    due_ns = start_ns + max(pause_ns, cost_pause_ns // share, unit.least_ns)
                    left_ns = max(due_ns, rested_ns) - now_ns
                    if left_ns <= 0:
                        break
                    self._wake.wait(left_ns / 1e9)

    def _read(self, unit: _Unit) -> None:
        source = unit.source
        before_ns = self._suspended()
        readings: Mapping[str, Reading] | None = None
        with suppress(Exception):  # a driver may raise anything; it is only a failed read
            readings = source.read()
        with self._ingesting:
            if readings is None or self._suspended() - before_ns > _SUSPENDED_NS:
                # It failed, or may have been taken before or after a suspend.
                readings = {c.id: Reading(self._clock(), None) for c in source.channels}
            elif before_ns - unit.suspended_ns > _SUSPENDED_NS:
                unit.suspended_ns = before_ns
                self._interrupt(source)
            self._ingest(source, readings)


class _Unit:
    """What one thread reads: a source, or a part of one."""

    def __init__(self, source: PowerSource, suspended_ns: int) -> None:
        self.source = source
        self.lock = threading.Lock()  # Held during a read
        # A source without channels only watches, and is never in a hurry.
        self.measures = bool(source.channels)
        periods = [channel.period_s for channel in source.channels]
        known = [period for period in periods if period is not None]
        # Reads more frequent than a fifth of the shortest declared refresh show nothing new.
        self.least_ns = int(min(known) / 5 * 1e9) if known and len(known) == len(periods) else 0
        self.costs_ns: deque[int] = deque(maxlen=_COSTS)  # CPU time of the newest reads
        self.suspended_ns = suspended_ns  # Time that the machine was suspended before the last read

    @property
    def typical_cost_ns(self) -> int:
        """The median of the newest costs, so that a single expensive read does not count."""
        costs_ns = sorted(self.costs_ns)
        return costs_ns[(len(costs_ns) - 1) // 2] if costs_ns else 0


def _find_parts(source: PowerSource) -> Sequence[PowerSource]:
    return source.parts if isinstance(source, DividedSource) else [source]
