"""Nodes of one host, which read the same power meter: each is charged its part of the joules.

A ledger of the host notes which nodes work. The joules of every moment are divided among the nodes
that work then, in proportion to their CPUs, as ``etui serve`` divides those of a shared batch: the
parts sum to what the meter reads, and nothing is charged twice.
"""

from __future__ import annotations

import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from etui.energy.remote.clock import read_boot_id
from etui.energy.types import Energy, Phase
from etui.errors import EtuiError
from etui.events import BatchShare, SharedBatch
from etui.turn.interfaces import Meter
from etui.turn.shared_meter import BatchLedger, SharedMeter

_LEDGER_SECONDS = 10.0
Change = tuple[int, Mapping[int, int]]
"""A time on the host's monotonic clock, and number -> CPUs of the nodes that work from then on."""


def read_host_id() -> str:
    """Return what the processes of one host have in common, those in containers too."""
    boot_id = read_boot_id()
    if boot_id == read_boot_id():
        return boot_id
    return f"{platform.node()} {uuid.getnode():x}"  # a system without such an id


class HostLedger:
    """Notes which nodes of a host work; an actor on that host.

    It dates the changes itself, so that all those before a time are known once that time has come.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._changes: list[Change] = [(clock(), {})]

    def begin(self, number: int, cpus: int) -> None:
        """Note that a node works from now on; it does so only once this has returned."""
        self._change({**self._changes[-1][1], number: cpus})

    def end(self, number: int) -> None:
        """Note that a node works no longer, or has died."""
        self._change({key: cpus for key, cpus in self._changes[-1][1].items() if key != number})

    def read(self, first: int) -> tuple[int, Sequence[Change]]:
        """Return the time now, and all changes until now but the first ones."""
        return self._clock(), self._changes[first:]

    def _change(self, working: Mapping[int, int]) -> None:
        if working != self._changes[-1][1]:
            self._changes.append((self._clock(), working))


@dataclass(frozen=True, slots=True)
class RayLedger:
    """A :class:`HostLedger` in another process, whose methods raise EtuiError if it is lost."""

    actor: Any

    def begin(self, number: int, cpus: int) -> None:
        """See :class:`HostLedger`."""
        self._get(self.actor.begin.remote(number, cpus))

    def end(self, number: int) -> None:
        """See :class:`HostLedger`."""
        self._get(self.actor.end.remote(number))

    def read(self, first: int) -> tuple[int, Sequence[Change]]:
        """See :class:`HostLedger`."""
        found: tuple[int, Sequence[Change]] = self._get(self.actor.read.remote(first))
        return found

    def _get(self, reference: Any) -> Any:
        import ray

        try:
            return ray.get(reference, timeout=_LEDGER_SECONDS)
        except ray.exceptions.RayError as error:
            what = f"it is unknown which nodes of this host work, and so their joules: {error}"
            raise EtuiError(what, "start the node again, and resume the run") from error


@dataclass(frozen=True, slots=True)
class HostShare:
    """A node's part of its host."""

    ledger: HostLedger | RayLedger
    number: int  # Number of the node in the ledger
    cpus: int  # Most threads of its llama.cpp, and its weight in the division

    @contextmanager
    def work(self) -> Iterator[None]:
        """Charge the time of the body to this node."""
        self.ledger.begin(self.number, self.cpus)
        try:
            yield
        finally:
            self.ledger.end(self.number)


class HostMeter:
    """The meter of a node that shares its host; any thread may use it."""

    def __init__(self, meter: Meter, share: HostShare) -> None:
        self._meter = meter
        self._ledger = share.ledger
        self._lock = threading.Lock()
        self._batches = BatchLedger()
        self._part = SharedMeter(meter, self._batches, lambda: (share.number,), lambda model: None)
        self._seen = 0
        self._last: Change = (0, {})

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Note that the power steps; it follows no single node, so that nothing is fitted to it."""
        self._meter.mark(t_ns, "shared")

    def settle(self, end_ns: int) -> object:
        """Wait until the energy up to ``end_ns`` is final."""
        return self._meter.settle(end_ns)

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return this node's part of an interval, which is over; 0 J while it did not work."""
        with self._lock:
            self._update(end_ns)
            return self._part.energy(start_ns, end_ns)

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return (middle in ns, mean watts of this node's part) of equal slices."""
        with self._lock:
            self._update(end_ns)
            return self._part.power_curve(start_ns, end_ns, points)

    def _update(self, end_ns: int) -> None:
        """Learn who has worked up to a time."""
        start_ns, working = self._last
        if end_ns <= start_ns:
            return
        now_ns, changes = self._ledger.read(self._seen)
        self._seen += len(changes)
        for t_ns, after in (*changes, (now_ns, None)):
            shares = tuple(BatchShare(number, cpus, 0) for number, cpus in working.items())
            self._batches.add(SharedBatch("", start_ns, t_ns, shares))
            start_ns, working = t_ns, (working if after is None else after)
        self._last = start_ns, working
