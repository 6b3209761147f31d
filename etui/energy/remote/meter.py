"""The meter of another machine, asked in the time of this one.

A turn on a remote backend is an interval of this machine's clock. ``RemoteMeter`` shifts it by the
difference of the clocks, asks the other machine what it took, and adds what the error of the
difference can be worth: the watts at each edge times the error there. Where the other machine does
not know, joules are None, and a flag says why.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from etui.energy.remote.client import MeterClient, MeterFailed
from etui.energy.remote.clock import ClockReading, find_offset
from etui.energy.types import Energy, Kind, Phase, slice_interval
from etui.errors import UsageError

_LOOK_SECONDS = 2.0
"""Seconds between two looks at the other machine while it answers."""
PENDING = "pending"
"""Flag of an interval that is not over. Its joules are those up to the last look, as ``coverage``
says; None before the first."""
LOAD = "load"
"""Flag of an interval in which the other machine loaded a model."""


class RemoteMeter:
    """Fulfils :class:`etui.turn.interfaces.Meter` for one answer of a remote backend.

    The first mark starts a thread that looks at the other machine (its clock, and how many requests
    run there) at each mark and every two seconds; ``settle`` ends it.

    Args:
        name: Name of the backend, for channels and unmeasured scopes.
        count_running: Counts the requests that run at the backend, this one included; None if it
            does not know. Without it the meter is asked.
        own_server: Whether the meter is that of the server that answers: one that runs by itself
            takes the server for another process.
    """

    def __init__(
        self,
        client: MeterClient,
        name: str,
        *,
        count_running: Callable[[], int | None] | None = None,
        own_server: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        watch: bool = True,
    ) -> None:
        self._client = client
        self._name = name
        self._count_running = count_running
        self._own_server = own_server
        self._clock_ns = clock_ns
        self._watch = watch
        self._lock = threading.RLock()
        self._readings: list[ClockReading] = []
        self._others = self._loading = False
        self._kind: Kind | None = None
        self._running_from_ns: int | None = None
        self._so_far: Energy | None = None
        self._known: dict[tuple[int, int], Energy] = {}
        self._failure: MeterFailed | None = None
        self._over_ns = -1
        self._thread: threading.Thread | None = None
        self._marks: SimpleQueue[bool] = SimpleQueue()

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Note that the answer has got to a time, and look at the other machine; never waits."""
        with self._lock:
            self._over_ns = max(self._over_ns, t_ns)
        if self._watch and self._thread is None:
            self._marks = SimpleQueue()
            self._thread = threading.Thread(
                target=_keep_looking, args=(weakref.ref(self), self._marks), daemon=True
            )
            self._thread.start()
        elif self._watch:
            self._marks.put(True)

    def look(self) -> None:
        """Measure the offset of the other clock, and look who uses the other machine.

        A look that fails is made up for by the others.
        """
        status = None
        with suppress(MeterFailed):
            reading = self._client.read_clock()
            with self._lock:
                self._readings.append(reading)
            status = self._client.read_status()
            self._look_at_energy(reading.t_ns)
        count = self._count_running
        running = count() if count is not None else status.running if status is not None else None
        with self._lock:
            self._others = self._others or (running or 0) > 1
            self._loading = self._loading or (status is not None and status.loading)

    def _look_at_energy(self, now_ns: int) -> None:
        """Ask for the energy so far, if somebody limits it."""
        with self._lock:
            start_ns = self._running_from_ns
            if start_ns is None or start_ns >= now_ns:
                return
            ends = self._shift(start_ns, now_ns)
        energy = self._read(start_ns, now_ns, *ends)
        with self._lock:
            self._so_far = energy

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy that the other machine took in an interval of this machine's clock.

        Joules are None, with the flag of :mod:`etui.energy.remote.client`, if it does not know.
        An interval that is not over has the flag ``pending``, and the joules of its first part.
        UsageError if it ends before it starts.
        """
        if end_ns < start_ns:
            raise UsageError("an interval cannot end before it starts", "swap start_ns and end_ns")
        with self._lock:
            if 0 <= self._over_ns < end_ns:
                found = self._build_pending(start_ns, end_ns)
            elif start_ns == end_ns:
                found = self._build_empty(start_ns)
            else:
                if (start_ns, end_ns) not in self._known:
                    self._known[start_ns, end_ns] = self._ask(start_ns, end_ns)
                found = self._known[start_ns, end_ns]
            flags = [*found.flags, *([LOAD] if self._loading else [])]
            flags += ["shared"] if self._others else []
            # With others on the machine, whose joules these are is not known.
            own = None if self._others else found.own_joules
            return replace(found, flags=tuple(dict.fromkeys(flags)), own_joules=own)

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return (middle in ns, mean watts) of equal slices; None where the meter gives none."""
        spans = slice_interval(start_ns, end_ns, points)
        watts: tuple[float | None, ...] | None = None
        # A meter of an older version has no watts: the graph is empty, the joules are not.
        with self._lock, suppress(MeterFailed):
            if spans and self._failure is None:
                start, end = self._shift(start_ns, end_ns)
                span = start_ns + start.offset_ns, end_ns + end.offset_ns
                watts = self._client.read_power(*span, start.boot_id, points)
        middles = [(start_ns + end_ns) // 2 for start_ns, end_ns in spans]
        return list(zip(middles, watts or (None,) * len(spans), strict=True))

    def settle(self, end_ns: int) -> bool:
        """Note that nothing follows ``end_ns``, and ask again for what could not be had.

        Returns whether the other machine could be asked.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._marks.put(False)
            thread.join()  # its requests have time-outs
        with self._lock:
            self._over_ns = max(self._over_ns, end_ns)
            if self._failure is not None:
                self._failure = None
                self._known = {k: e for k, e in self._known.items() if e.joules is not None}
            try:
                self._read_after(end_ns)
            except MeterFailed:
                return False
            return True

    def settings(self) -> dict[str, Any]:
        """Return what a reader needs to check the joules, as settings of the turn.

        The offset is that of the end of the answer; its error is the bound there.
        """
        with self._lock:
            readings = self._readings
            offset = None if self._over_ns < 0 else find_offset(readings, self._over_ns)
            return {
                "meter": self._client.url,
                "meter_boot_id": readings[-1].boot_id if readings else None,
                "meter_offset_ns": None if offset is None else offset.offset_ns,
                "meter_offset_error_ns": None if offset is None else offset.error_ns,
            }

    def _ask(self, start_ns: int, end_ns: int) -> Energy:
        """Ask for an interval that is over; a failure holds until ``settle`` tries again."""
        try:
            if self._failure is not None:
                raise self._failure
            energy = self._read(start_ns, end_ns, *self._shift(start_ns, end_ns))
        except MeterFailed as error:
            self._failure = error
            return self._build_unknown(start_ns, end_ns, error.flag)
        self._kind = energy.kind or self._kind
        return energy

    def _read(self, start_ns: int, end_ns: int, start: ClockReading, end: ClockReading) -> Energy:
        """Read an energy, and return it in this machine's time."""
        from_ns = start_ns + start.offset_ns
        to_ns = max(from_ns, end_ns + end.offset_ns)
        if from_ns < 0:
            raise MeterFailed("meter-history", f"{self._client.url} was started after the interval")
        energy, boot = self._client.read_energy(from_ns, to_ns, start.boot_id)
        if boot != start.boot_id:
            raise MeterFailed("meter-rebooted", f"the machine of {self._client.url} was restarted")
        return self._localize(energy, start_ns, end_ns, start.error_ns + end.error_ns)

    def _shift(self, start_ns: int, end_ns: int) -> tuple[ClockReading, ClockReading]:
        """Return the offsets at both ends of an interval."""
        self._read_after(end_ns)
        readings = self._readings
        if len({reading.boot_id for reading in readings}) > 1:
            raise MeterFailed(
                "meter-rebooted", f"the machine of {self._client.url} was restarted meanwhile"
            )
        start, end = find_offset(readings, start_ns), find_offset(readings, end_ns)
        if start is None or end is None:
            raise MeterFailed(
                "meter-clock", f"the clock of {self._client.url} was stopped or set meanwhile"
            )
        return start, end

    def _read_after(self, end_ns: int) -> None:
        """Measure the offset after the end of an interval, unless that was done."""
        readings = self._readings
        if any(reading.t_ns >= end_ns for reading in readings):
            return
        try:
            readings.append(self._client.read_clock())
        except MeterFailed:
            if not readings:
                raise

    def _localize(self, energy: Energy, start_ns: int, end_ns: int, error_ns: int) -> Energy:
        """Return an energy of the other machine in this machine's time, with the wider error."""
        flags = energy.flags
        if not self._own_server:
            flags = tuple(flag for flag in flags if flag != "shared")
        local = replace(
            energy,
            start_ns=start_ns,
            end_ns=end_ns,
            channels=tuple(replace(c, id=f"{self._name}/{c.id}") for c in energy.channels),
            unmeasured=tuple(f"{self._name}/{scope}" for scope in energy.unmeasured),
            flags=flags,
            own_joules=energy.own_joules if self._own_server else None,
        )
        if energy.joules is None or energy.uncertainty is None:
            return replace(local, unmeasured=local.unmeasured or (self._name,))
        mean = energy.joules / energy.seconds if energy.seconds else 0.0
        watts = max(energy.peak_watts or 0.0, energy.mean_watts or 0.0, mean)
        return replace(local, uncertainty=energy.uncertainty + watts * error_ns / 1e9)

    def _build_unknown(self, start_ns: int, end_ns: int, flag: str) -> Energy:
        flags = ("unmeasured", flag)
        return Energy(start_ns, end_ns, unmeasured=(self._name,), flags=flags)

    def _build_pending(self, start_ns: int, end_ns: int) -> Energy:
        """Return what is known of an interval that is not over, and have it looked at."""
        self._running_from_ns = start_ns
        so_far = self._so_far
        if so_far is None or so_far.start_ns != start_ns or so_far.joules is None:
            return self._build_unknown(start_ns, end_ns, PENDING)
        part = so_far.seconds / ((end_ns - start_ns) / 1e9)
        return replace(
            so_far,
            end_ns=end_ns,
            coverage=min(part, 1.0) * so_far.coverage,
            flags=(*so_far.flags, PENDING),
        )

    def _build_empty(self, t_ns: int) -> Energy:
        """Return the 0 J of an interval without length, if the meter has measured any other."""
        if self._kind is None:
            return self._build_unknown(t_ns, t_ns, "no-length")
        return Energy(t_ns, t_ns, 0.0, 0.0, self._kind, 1.0)


def _keep_looking(ref: weakref.ref[RemoteMeter], marks: SimpleQueue[bool]) -> None:
    """Look at each mark and every two seconds, until the meter has settled or is not used."""
    while (meter := ref()) is not None:
        meter.look()
        del meter
        with suppress(Empty):
            if not marks.get(timeout=_LOOK_SECONDS):
                return


class UnmeasuredMeter:
    """The meter of a machine that has none: all joules are unknown, and a flag may say why."""

    def __init__(self, name: str, flag: str = "") -> None:
        self._name = name
        self._flags = tuple(filter(None, ("unmeasured", flag)))

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return an energy without joules."""
        return Energy(start_ns, end_ns, unmeasured=(self._name,), flags=self._flags)

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return slices without watts."""
        return [((a + b) // 2, None) for a, b in slice_interval(start_ns, end_ns, points)]

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Do nothing."""

    def settle(self, end_ns: int) -> bool:
        """Return at once."""
        return False
