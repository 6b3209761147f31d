"""Keep the books of a server's energy: what turns, loads and idle time cost, and whose it is."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from etui.energy.scopes import weakest
from etui.energy.types import Energy, Kind, sum_known
from etui.errors import EnergyBudgetSpent, LogUnavailable
from etui.runtime.turn_request import EnergyBooks
from etui.text import format_utc
from etui.turn.accounting import TimeInterval, subtract
from etui.turn.interfaces import Meter
from etui.turn.shared_meter import BatchLedger, SharedMeter, measure_spans
from etui.units import energy_text, seconds_text

if TYPE_CHECKING:
    from etui.backends.base import Cancel
    from etui.config.config import Config
    from etui.events import SharedBatch
    from etui.runtime.runtime import Runtime

LOADS, IDLE, AUDITS = "\0loads", "\0idle", "\0audits"
"""Owners of joules that are no models; no model has such a name."""

_ANCHOR_NS = 1_200_000_000_000
"""Half widths are added this often: that of a long interval is less than those of its parts."""

HOUR_SECONDS = 3600.0

_SPENT_SQL = """
    SELECT created_at, seconds_total, energy_joules FROM turns
    WHERE client_key = ? AND created_at >= ? AND energy_joules IS NOT NULL
    ORDER BY created_at
"""


@dataclass(frozen=True, slots=True)
class _Work:
    """A time of the machine, and whose it is."""

    owner: str  # A model, or `LOADS`, `IDLE` or `AUDITS`
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Ongoing:
    """Work of the engine that has not been added yet, because it has not ended."""

    model: str | None
    """Model of the turns that run; None if it is not known yet whether it is a load."""
    since_ns: int  # When it began; the time before is not its own


Sums = dict[str, float | None]
"""Owner of joules -> their sum; None from the first unmeasured part on."""


class EnergyBookkeeper:
    """Divides the time since its start into turns, loads and idle time, and sums their joules.

    Batches (or the intervals of turns that run one at a time) and loads are added as they end; the
    rest of the time is idle. The meter is additive, so the three sum to its total. What is closed
    is kept as sums only, so that memory does not grow with the number of turns. Any thread may use
    it.

    The meter remembers about an hour: call :meth:`close_until` after each turn, and every half hour
    while there is none.
    """

    def __init__(self, meter: Meter, start_ns: int) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._closed_ns = start_ns
        self._closed: Sums = {LOADS: 0.0, IDLE: 0.0, AUDITS: 0.0}
        self._pending: list[_Work] = []
        self._anchor_ns = start_ns
        self._half_width: float | None = 0.0
        self._kinds: set[Kind] = set()

    def add(self, owner: str, start_ns: int, end_ns: int) -> None:
        """Add a time in which the engine worked for turns of a model, or for another owner.

        Parts of it that are booked already, such as loads in a turn, are left as they are. A time
        inside of a turn in which it waited for a tool is idle.
        """
        with self._lock:
            start_ns = max(start_ns, self._closed_ns)
            if end_ns <= start_ns:
                return
            work = _Work(owner, start_ns, end_ns)
            if not self._pending or self._pending[-1].end_ns <= start_ns:
                self._append(work)
                return
            taken = [TimeInterval(each.start_ns, each.end_ns) for each in self._pending]
            free = subtract(TimeInterval(start_ns, end_ns), taken)
            works = [replace(work, start_ns=i.start_ns, end_ns=i.end_ns) for i in free]
            merged = sorted([*self._pending, *works], key=lambda each: each.start_ns)
            self._pending = []
            for each in merged:
                if each.end_ns > each.start_ns:
                    self._append(each)

    def close_until(self, t_ns: int) -> None:
        """Sum up everything before a time; work that is added later counts from there on.

        Args:
            t_ns: A time whose energy is final (see ``Meter.settle``), before which no work is
                missing: nothing runs, or the start of what runs.
        """
        with self._lock:
            if t_ns <= self._closed_ns:
                return
            self._closed = self._sum(t_ns, None)
            if t_ns - self._anchor_ns >= _ANCHOR_NS:
                half_width = self._measure_anchored(t_ns).uncertainty
                self._half_width = sum_known([self._half_width, half_width])
                self._anchor_ns = t_ns
            self._closed_ns = t_ns
            self._pending = [
                replace(work, start_ns=max(work.start_ns, t_ns))
                for work in self._pending
                if work.end_ns > t_ns
            ]

    def read(self, now_ns: int, ongoing: Ongoing | None = None) -> EnergyBooks:
        """Return the books up to a time; those of the last moments are preliminary.

        Args:
            ongoing: What the engine does now; None if it rests. The time since it began, or since
                the last work that was added, belongs to it. As long as it is not known what it is,
                the books end there.
        """
        with self._lock:
            if ongoing is not None and ongoing.model is None:
                booked_ns = self._pending[-1].end_ns if self._pending else 0
                now_ns, ongoing = min(now_ns, max(booked_ns, ongoing.since_ns)), None
            now_ns = max(now_ns, self._closed_ns)
            sums = self._sum(now_ns, ongoing)
            anchored = self._measure_anchored(now_ns)
            half_width = sum_known([self._half_width, anchored.uncertainty])
            kinds = [*self._kinds]
        loads, idle, audits = (sums.pop(owner) for owner in (LOADS, IDLE, AUDITS))
        turns = sum_known([0.0, *sums.values()])
        total = sum_known([turns, loads, idle, audits])
        return EnergyBooks(
            total=total,
            turns=turns,
            loads=loads,
            idle=idle,
            uncertainty=None if total is None else half_width,
            turns_by_model={model: joules for model, joules in sums.items() if joules is not None},
            audits=audits,
            kind=str(weakest(kinds)) if kinds and total is not None else None,
        )

    def _append(self, work: _Work) -> None:
        last = self._pending[-1] if self._pending else None
        if last is not None and last.end_ns == work.start_ns and last.owner == work.owner:
            self._pending[-1] = replace(last, end_ns=work.end_ns)
        else:
            self._pending.append(work)

    def _sum(self, until_ns: int, ongoing: Ongoing | None) -> Sums:
        """Return the sums up to a time, with what is pending."""
        parts = list(self._iter_parts(until_ns, ongoing))
        sums = dict(self._closed)
        joules = measure_spans(self._meter, [(part.start_ns, part.end_ns) for part in parts])
        for part, each in zip(parts, joules, strict=True):
            sums[part.owner] = sum_known([sums.get(part.owner, 0.0), each])
        return sums

    def _iter_parts(self, until_ns: int, ongoing: Ongoing | None) -> Iterator[_Work]:
        """Yield the time since the last closing, cut where what it was spent on changes."""
        at_ns = self._closed_ns
        for work in self._pending:
            start_ns, end_ns = min(work.start_ns, until_ns), min(work.end_ns, until_ns)
            if start_ns > at_ns:
                yield _Work(IDLE, at_ns, start_ns)
            if end_ns > start_ns:
                yield replace(work, start_ns=start_ns, end_ns=end_ns)
            at_ns = max(at_ns, end_ns)
        began_ns = until_ns if ongoing is None else min(max(ongoing.since_ns, at_ns), until_ns)
        if began_ns > at_ns:
            yield _Work(IDLE, at_ns, began_ns)
        if ongoing is not None and ongoing.model is not None and until_ns > began_ns:
            yield _Work(ongoing.model, began_ns, until_ns)

    def _measure_anchored(self, t_ns: int) -> Energy:
        """Measure the total since the anchor, for its half width and kind."""
        energy = self._meter.energy(self._anchor_ns, t_ns)
        if energy.kind is not None:
            self._kinds.add(energy.kind)
        return energy


class TurnMeters:
    """The meters of turns, which run one after another or share batches.

    A turn that runs alone has the machine's meter, and its whole time is booked. One that shares
    batches has its part of their joules: between its batches it costs nothing.
    """

    def __init__(
        self,
        runtime: Runtime[Any],
        books: EnergyBookkeeper,
        clock_ns: Callable[[], int],
        *,
        shared: bool,
    ) -> None:
        self._costs = runtime.find_token_cost
        self._meter = runtime.meter
        self._books = books
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._ledger = BatchLedger() if shared else None
        self._open: dict[int, int] = {}
        # With one turn at a time, the time up to the end of the engine's process is all it reports.
        runtime.backend.on_batch = self._add_batch

    @contextmanager
    def open(self, cancel: Cancel) -> Iterator[Meter]:
        """Return the meter of a turn; batches are kept as long as a turn may need them."""
        if self._ledger is None:
            yield self._meter
            return
        with self._lock:
            self._open[id(cancel)] = self._clock_ns()
        try:
            yield SharedMeter(self._meter, self._ledger, lambda: cancel.numbers, self._costs)
        finally:
            now_ns = self._clock_ns()
            with self._lock:
                del self._open[id(cancel)]
                oldest_ns = min(self._open.values(), default=now_ns)
            self._ledger.forget_before(oldest_ns)

    def book(self, model: str, start_ns: int, end_ns: int) -> None:
        """Book the time of an answer or of a turn that has ended, unless its batches are booked.

        A turn pays for the times between its answers and for answers that have failed; loads and
        answers in its time are booked already.
        """
        if self._ledger is None:
            self._books.add(model, start_ns, end_ns)

    def _add_batch(self, batch: SharedBatch) -> None:
        if self._ledger is not None:
            self._ledger.add(batch)
        self._books.add(batch.model, batch.start_ns, batch.end_ns)


class KeyBudgets:
    """The joules of each key in the last hour; safe to use from several threads.

    A turn counts when it has ended, so turns that run at the same time may together take more than
    what is left. Unmeasured turns cannot be counted. Loads belong to no key.

    Args:
        limits: Joules within an hour, by the name of the key; other keys have no limit.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        config: Config,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = dict(limits)
        self._clock = clock
        self._lock = threading.Lock()
        self._spent: dict[str, deque[tuple[float, float]]] = {key: deque() for key in limits}
        if limits:
            with suppress(LogUnavailable):  # the writer of the log reports it
                self._read_log(config)

    def check(self, key: str) -> None:
        """Check that a key has joules left.

        Raises:
            EnergyBudgetSpent: It has not; the error says when some are free again.
        """
        limit = self._limits.get(key)
        if limit is None:
            return
        with self._lock:
            now = self._forget_old(key)
            spent = list(self._spent[key])
        total = sum(joules for _, joules in spent)
        if total < limit:
            return
        seconds = find_wait(spent, limit, now)
        raise EnergyBudgetSpent(
            f"the hourly budget of key {key!r} is spent: its turns of the last hour took "
            f"{energy_text(total)}, and {energy_text(limit)} are allowed",
            f"wait {seconds_text(seconds)}, or raise the key's joules per hour",
            retry_seconds=seconds,
        )

    def add(self, key: str, joules: float | None) -> None:
        """Count a turn that has ended."""
        if key not in self._limits or joules is None:
            return
        with self._lock:
            now = self._forget_old(key)
            self._append(key, now, joules)

    def _append(self, key: str, at: float, joules: float) -> None:
        """Add joules; those of one second are kept as one entry."""
        spent = self._spent[key]
        if spent and at - spent[-1][0] < 1.0:
            spent[-1] = spent[-1][0], spent[-1][1] + joules
        else:
            spent.append((at, joules))

    def _forget_old(self, key: str) -> float:
        now, spent = self._clock(), self._spent[key]
        while spent and spent[0][0] <= now - HOUR_SECONDS:
            spent.popleft()
        return now

    def _read_log(self, config: Config) -> None:
        from etui.log.queries import LogReader

        now = datetime.fromtimestamp(self._clock()).astimezone()
        since = format_utc(now - timedelta(seconds=HOUR_SECONDS))
        with LogReader(config) as log:
            for key in self._limits:
                for created_at, seconds, joules in log.select(_SPENT_SQL, (key, since)):
                    at = datetime.fromisoformat(created_at).timestamp() + (seconds or 0.0)
                    self._append(key, at, joules)


def find_wait(spent: list[tuple[float, float]], limit: float, now: float) -> float:
    """Find how long a spent budget has to wait until the window has moved far enough.

    Args:
        spent: Times in seconds and joules of the window, oldest first.
    """
    left = sum(joules for _, joules in spent)
    for at, joules in spent:
        left -= joules
        if left < limit:
            return max(0.0, at + HOUR_SECONDS - now)
    return HOUR_SECONDS
