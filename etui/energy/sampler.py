"""The thread that reads every source, and survives sources that raise or hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from etui.energy.types import PowerSource, Reading

Ingest = Callable[[PowerSource, Mapping[str, Reading]], None]

BURST_NS = 1_000_000_000
BURST_INTERVAL_NS = 5_000_000
"""The first reads are frequent, so that the counters' periods are known from the start."""
HURRY_INTERVAL_NS = 8_000_000
_HUNG_NS = 1_000_000_000
_DITHER = 0.4
_GOLDEN = 0.6180339887498949
_COST_SHARE = 0.05
"""A slow source is read so rarely that it takes at most this share of one core."""


def dither_interval(interval_ns: int, beat: int) -> int:
    """Compute the pause after the read number ``beat``: the interval, spread by 40 % either way.

    Dithered reads meet a regular counter at many phases, which locates its edges precisely.
    """
    return int(interval_ns * (1 + _DITHER * (2 * ((beat * _GOLDEN) % 1.0) - 1)))


class PowerSampler:
    """Reads sources on one daemon thread.

    A read that does not return within a second is abandoned: its thread is left behind, a new
    thread continues with the other sources, and the source rejoins when its read returns.

    Args:
        sources: Sources to read.
        interval_ns: Time between two reads, nanoseconds.
        clock: Monotonic clock in nanoseconds.
        ingest: Called with each source's readings.
    """

    def __init__(
        self,
        sources: Sequence[PowerSource],
        interval_ns: int,
        clock: Callable[[], int],
        ingest: Ingest,
    ) -> None:
        self._sources = tuple(sources)
        self._interval_ns = interval_ns
        self._clock = clock
        self._ingest = ingest
        self._wake = threading.Condition()
        self._running = False
        self._generation = 0
        self._thread: threading.Thread | None = None
        self._reading: tuple[int, int] | None = None
        self._hung: set[int] = set()
        self._hurry_until_ns = 0
        self._cost_ns = [0.0] * len(self._sources)
        self._slow_ns = [_compute_least_pause(source) for source in self._sources]

    @property
    def running(self) -> bool:
        """Whether the thread is supposed to run."""
        return self._running

    def start(self) -> None:
        """Start the thread; do nothing when it is running already."""
        with self._wake:
            if self._running or not self._sources:
                return
            self._running = True
            self._spawn()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop the thread, or leave it behind if it hangs in a driver (it is a daemon)."""
        with self._wake:
            self._running = False
            self._generation += 1
            thread, self._thread = self._thread, None
            self._wake.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def hurry(self, until_ns: int) -> None:
        """Read often until a time, because a caller waits for the next edge of a counter."""
        with self._wake:
            self._hurry_until_ns = max(self._hurry_until_ns, until_ns)
            self._wake.notify_all()

    def check(self) -> None:
        """Replace the thread if it has been stuck in one read for a second."""
        with self._wake:
            reading = self._reading
            if not self._running or reading is None:
                return
            index, since_ns = reading
            if self._clock() - since_ns < _HUNG_NS:
                return
            self._hung.add(index)
            self._reading = None
            self._spawn()

    def read_once(self) -> None:
        """Read every source now, on the calling thread."""
        for index, source in enumerate(self._sources):
            if index not in self._hung:
                self._ingest(source, self._read(index))

    def _spawn(self) -> None:
        self._generation += 1
        self._thread = threading.Thread(
            target=self._run, args=(self._generation,), name="etui-power", daemon=True
        )
        self._thread.start()

    def _read(self, index: int) -> Mapping[str, Reading]:
        source = self._sources[index]
        start_ns = self._clock()
        try:
            readings = source.read()
        except Exception:  # noqa: BLE001  a driver may raise anything; it is only a failed read
            now_ns = self._clock()
            readings = {channel.id: Reading(now_ns, None) for channel in source.channels}
        self._cost_ns[index] += 0.2 * (self._clock() - start_ns - self._cost_ns[index])
        return readings

    def _run(self, generation: int) -> None:
        due_ns = [self._clock()] * len(self._sources)
        burst_until_ns = self._clock() + BURST_NS
        beat = 0
        while generation == self._generation:
            now_ns = self._clock()
            for index, source in enumerate(self._sources):
                if index in self._hung or due_ns[index] > now_ns:
                    continue
                self._reading = (index, self._clock())
                readings = self._read(index)
                if generation != self._generation:
                    self._hung.discard(index)  # the read returned, but the thread was replaced
                    return
                self._reading = None
                self._ingest(source, readings)
                beat += 1
                due_ns[index] = self._compute_due(index, beat, now_ns, burst_until_ns)
            self._sleep(generation, due_ns)

    def _compute_due(self, index: int, beat: int, now_ns: int, burst_until_ns: int) -> int:
        least = max(int(self._cost_ns[index] / _COST_SHARE), self._slow_ns[index])
        if now_ns < burst_until_ns:
            return now_ns + max(BURST_INTERVAL_NS, least)
        if now_ns < self._hurry_until_ns:
            return now_ns + max(HURRY_INTERVAL_NS, least)
        return now_ns + max(dither_interval(self._interval_ns, beat), least)

    def _sleep(self, generation: int, due_ns: list[int]) -> None:
        with self._wake:
            if generation != self._generation:
                return
            now_ns = self._clock()
            active = [due for index, due in enumerate(due_ns) if index not in self._hung]
            pause_ns = max(min(active, default=now_ns + self._interval_ns) - now_ns, 0)
            if now_ns < self._hurry_until_ns:
                pause_ns = min(pause_ns, HURRY_INTERVAL_NS)
                for index, due in enumerate(due_ns):
                    due_ns[index] = min(due, now_ns + HURRY_INTERVAL_NS)
            if pause_ns:
                self._wake.wait(pause_ns / 1e9)

    def close(self) -> None:
        """Stop, and close every source."""
        self.stop()
        for index, source in enumerate(self._sources):
            if index in self._hung:
                continue
            with suppress(Exception):  # a failed shutdown no longer matters
                source.close()


def _compute_least_pause(source: PowerSource) -> int:
    """Return a fifth of the shortest refresh that the channels declare, nanoseconds.

    More frequent reads show nothing new; 0 where a channel declares no refresh.
    """
    periods = [channel.period_s for channel in source.channels]
    known = [period for period in periods if period is not None]
    return int(min(known) / 5 * 1e9) if known and len(known) == len(periods) else 0
