"""Run a turn of the pool whose time has come: decide, answer, measure, and book its joules."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from etui.errors import EnergyBudgetSpent, EtuiError, LogUnavailable, format_internal_error
from etui.events import Finished, Loaded, Residence, Unloaded
from etui.runtime.auditor import Auditor
from etui.runtime.pool.energy_books import EnergyBookkeeper
from etui.runtime.pool.pooled_turn import NoAnswerer, UnspentMeter
from etui.runtime.pool.turn_meters import open_meters
from etui.text.timestamps import format_utc
from etui.turn.events import HopStarted, TurnEvent, TurnFinished
from etui.turn.record import ClientRecord
from etui.units import energy_text, seconds_text

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.config.config import Config
    from etui.routing.signals.host_state import HostState
    from etui.runtime.between_turns import BetweenTurns
    from etui.runtime.cooling import CallLater
    from etui.runtime.decide import Choice
    from etui.runtime.open import Runtime
    from etui.runtime.pool.log_refresh import LogRefresh
    from etui.runtime.pool.pooled_turn import PooledTurn
    from etui.runtime.pool.turn_request import TurnRequest
    from etui.turn.record import TurnRecord


HOUR_SECONDS = 3600.0


_SPENT_SQL = """
    SELECT created_at, seconds_total, energy_joules FROM turns
    WHERE client_key = ? AND created_at >= ? AND energy_joules IS NOT NULL
    ORDER BY created_at
"""


class KeyBudgets:
    """The joules of each key in the last hour; safe to use from several threads.

    A turn counts when it has ended, so turns that run at the same time may together take more than
    what is left. Unmeasured turns cannot be counted. Loads belong to no key.

    Args:
        limits: Joules within an hour, by the name of the key; other keys have no limit.
        config: Names the log, from which the turns before the start are read.
        clock: Seconds since 1970.
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
        now: The time now, seconds.
    """
    left = sum(joules for _, joules in spent)
    for at, joules in spent:
        left -= joules
        if left < limit:
            return max(0.0, at + HOUR_SECONDS - now)
    return HOUR_SECONDS


_log = logging.getLogger("etui.pool")

TurnEnd = Literal["finished", "failed", "cancelled"]

_END_OF_STATUS: Mapping[str, TurnEnd] = {"stopped": "cancelled", "error": "failed"}
"""How a turn counts, by the status of its record; others are finished."""


class PoolTurnRunner:
    """Runs turns on the threads of a pool, several at a time; it has no queue.

    Args:
        between: Follows the models in memory, and measures the time between turns.
        refresh: Brings what depends on the log up to date.
        parallel: Most turns that run at a time.
        joules_per_hour: Joules that the turns of a key may take within an hour, by its name.
        call_later: Calls a function after some seconds.
        count: Called with the end of a turn whose record is saved, before its client gets it.

    Attributes:
        books: Joules since the start, and whose they are.
    """

    def __init__(
        self,
        runtime: Runtime[Any],
        between: BetweenTurns,
        refresh: LogRefresh,
        *,
        parallel: int,
        joules_per_hour: Mapping[str, float],
        call_later: CallLater,
        clock_ns: Callable[[], int],
        count: Callable[[TurnEnd], None],
    ) -> None:
        self._runtime = runtime
        self._backend = runtime.backend
        self._between = between
        self._clock_ns = clock_ns
        self._count = count
        self.refresh = refresh
        self.books = EnergyBookkeeper(runtime.meter, clock_ns())
        self._meters = open_meters(runtime, parallel, self.books, clock_ns)
        between.on_residence = self._book
        self._budgets = KeyBudgets(joules_per_hour, runtime.config)
        self._auditor = Auditor(
            runtime,
            between,
            call_later,
            self._backend.open_answerer,
            on_audited=self.books.add_audit,
            clock_ns=clock_ns,
        )
        self._active = 0
        self._entering = threading.Lock()

    def admit(self, key: str) -> None:
        """Let a turn of a key come, before which an audit makes way.

        Raises:
            BudgetSpent: The hour's joules of the key are spent.
        """
        self._budgets.check(key)
        self._auditor.interrupt()

    def is_local(self, model: str) -> bool:
        """Return whether a model runs on this machine; one without an entry does."""
        return not self._runtime.is_remote(model)

    def decide(self, request: TurnRequest) -> Choice:
        """Decide how a request would be answered now; nothing is run, and nothing saved.

        Raises:
            EtuiError: As in :func:`etui.runtime.choose.choose`.
        """
        return self._choose(request, _build_query(request))

    def _choose(self, request: TurnRequest, query: Query) -> Choice:
        from etui.runtime.choose import choose

        overrides = replace(request.overrides, lenient=True)
        self._runtime.reload_catalogue()
        if overrides.model is None and overrides.policy is None:
            self._runtime.reload_defaults()
        if self._runtime.log_cache.is_stale():  # another program has written to the log
            self.refresh.soon()
        return choose(query, overrides, self._runtime, self._read_host, effort=request.effort)

    def _read_host(self) -> HostState:
        residents = self._between.residents()
        host = self._between.read_host()
        if host.resident is None and residents:  # turns run, and none of them has ended yet
            return replace(host, resident=residents[-1])
        return host

    def enter(self) -> None:
        """Note that a turn begins; the first one ends the idle time."""
        with self._entering:
            if self._active == 0:
                self._auditor.interrupt()
                self._between.busy.acquire()
                self._between.end_idle()
                self._between.begin_turns()
            self._active += 1

    def leave(self) -> None:
        """Note that a turn has ended; the last one begins the idle time."""
        with self._entering:
            self._active -= 1
            if self._active == 0:
                try:
                    self._between.end_turns()
                finally:
                    self._between.busy.release()
                    self._auditor.rest()

    def run(
        self, turn: PooledTurn, queue_seconds: float
    ) -> tuple[TurnRecord | None, EtuiError | None]:
        """Run a turn; return its record, None if it has none, and the error that ended it."""
        query = _build_query(turn.request)
        record: TurnRecord | None = None
        try:
            self._budgets.check(turn.request.key)
            choice = self._choose(turn.request, query)
            answerer = turn.guard(self._backend.open_answerer(), self._clock_ns, self._book_crash)
            with self._meters.open(answerer) as meter:
                events = self._runtime.run_turn(
                    query,
                    choice,
                    cancelled=turn.is_cancelled,
                    answerer=answerer,
                    meter=meter.meter,
                    turn_id=turn.turn_id,
                    client=_build_client(turn.request, queue_seconds),
                    attribution=meter.attribution,
                )
                with closing(events):
                    for event in events:
                        self._follow(turn, event)
                        if isinstance(event, TurnFinished):
                            record = event.record
                            self._note(turn, record)
                            self._auditor.offer(query, record)
                        turn.report(event)
        except Exception as fault:  # noqa: BLE001  a bug ends its turn, never the pool
            return record, _name_fault(turn, fault)
        return record, None

    def _follow(self, turn: PooledTurn, event: TurnEvent) -> None:
        """Follow the loads of a turn, and book its work."""
        self._between.watch(event)
        if isinstance(event, HopStarted):
            turn.hop_ns = self._clock_ns()
        elif isinstance(event, Loaded | Unloaded):
            self._book(event)
        elif isinstance(event, Finished) and self.is_local(turn.model):
            self._meters.book_answer(turn.model, event)

    def _book(self, event: Residence) -> None:
        self.books.add_load(event.start_ns, event.end_ns)

    def _book_crash(self, model: str) -> None:
        if self.is_local(model) and self._backend.pid is None:
            self._meters.book_crash(model)

    def run_unbegun(
        self, turn: PooledTurn, queue_seconds: float
    ) -> tuple[TurnRecord | None, EtuiError | None]:
        """Save a turn that was cancelled in the queue; return as :meth:`run` does."""
        record: TurnRecord | None = None
        try:
            query = _build_query(turn.request)
            choice = self._choose(turn.request, query)
            for event in self._runtime.run_turn(
                query,
                choice,
                cancelled=turn.is_cancelled,
                answerer=NoAnswerer(self._clock_ns),
                meter=UnspentMeter(self._runtime.meter),
                turn_id=turn.turn_id,
                client=_build_client(turn.request, queue_seconds),
            ):
                if isinstance(event, TurnFinished):
                    record = event.record
                    self._count("cancelled")
                turn.report(event)
        except Exception as fault:  # noqa: BLE001  a bug ends its turn, never the pool
            return record, _name_fault(turn, fault)
        return record, None

    def _note(self, turn: PooledTurn, record: TurnRecord) -> None:
        """Note what a turn has spent, before its client gets it."""
        turn.settled_ns = record.energy.end_ns
        if all(self.is_local(name) for name in (record.model, *(h.model for h in record.hops))):
            self._meters.book_turn(record)
        self._between.note_record(record)
        self._budgets.add(turn.request.key, record.energy.joules)
        self.refresh.note(record)
        self._count(_END_OF_STATUS.get(record.status, "finished"))

    def end_audits(self) -> None:
        """End a running audit, and begin none again."""
        self._auditor.close()

    def close(self) -> None:
        """End the idle time and write what the log lacks, after the last turn.

        Raises:
            LogUnavailable: Something could not be written; the message says where it was saved.
        """
        self._between.end_idle()
        self.refresh.finish()


def _name_fault(turn: PooledTurn, fault: Exception) -> EtuiError:
    """Return the error that ends a turn; a bug is logged with its traceback."""
    if isinstance(fault, EtuiError):
        return fault
    _log.error("turn %s failed", turn.turn_id, exc_info=fault)
    return EtuiError(format_internal_error(fault))


def _build_query(request: TurnRequest) -> Query:
    """Build the query of a request, with its owner and its metadata."""
    query = request.query
    return replace(
        query,
        owner=query.owner or request.key,
        metadata=query.metadata or tuple(sorted(request.metadata.items())),
    )


def _build_client(request: TurnRequest, queue_seconds: float) -> ClientRecord:
    return ClientRecord(request.endpoint, request.key, request.request_id, queue_seconds)
