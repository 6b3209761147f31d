"""Run the turns of many clients: a bounded queue in front of a few turns at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

from etui.backends.base import ConcurrentHost
from etui.errors import (
    EnergyBudgetSpent,
    EngineFailed,
    EtuiError,
    LogUnavailable,
    QueueFull,
    Stopped,
    format_internal_error,
)
from etui.events import Finished, Loaded, Prefilled, Residence, Unloaded
from etui.runtime.auditor import Auditor
from etui.runtime.between_turns import BetweenTurns, CallLater, EngineProcess, start_timer
from etui.runtime.energy_books import EnergyBookkeeper, Ongoing, open_meters
from etui.runtime.turn_request import PoolEvent, PoolStatus, TurnFailed, TurnRequest
from etui.text import format_utc
from etui.turn.events import Decided, HopEnded, HopStarted, TurnEvent, TurnFinished
from etui.turn.record import ClientRecord
from etui.units import count_text, energy_text, seconds_text

if TYPE_CHECKING:
    from etui.backends.base import AnswerRequest, NumberedAnswerer
    from etui.chat import Query
    from etui.config.config import Config
    from etui.energy.idle import IdleTracker
    from etui.energy.types import Energy
    from etui.events import Event
    from etui.routing.signals.host_state import HostState
    from etui.runtime.between_turns import BetweenTurns, CallLater
    from etui.runtime.decide import Choice
    from etui.runtime.runtime import Runtime
    from etui.runtime.turn_request import PoolEvent, TurnRequest
    from etui.turn.ports import Meter
    from etui.turn.record import TurnRecord


NOT_BEGUN = "the client left before the answer began"
"""Why a turn ended that was cancelled in the queue, or before its first hop."""


class PooledTurn:
    """A turn that waits or runs; see :class:`etui.runtime.turn_request.RunningTurn`.

    Args:
        request: What the client asks for.
        on_event: Called with the events. If it fails, it is not called again, and the turn is
            cancelled.
        on_cancelled: Called at the first cancel, with the turn.

    Attributes:
        began_ns: When it began to run; None while it waits.
        hop_ns: When its running hop began; None in the queue, and once that has answered.
        settled_ns: End of its work, whose energy is final; None before.
        model: Model of the running hop; empty before the first.
        works_ns: Since when the engine computes its running hop; None as long as that is not
            known.
        waits_for: Model from which the turn waits for the first event; None while it answers.
    """

    def __init__(
        self,
        request: TurnRequest,
        on_event: Callable[[PoolEvent], None],
        submitted_ns: int,
        on_cancelled: Callable[[PooledTurn], None],
    ) -> None:
        self.request = request
        self.submitted_ns = submitted_ns
        self.began_ns: int | None = None
        self.hop_ns: int | None = None
        self.settled_ns: int | None = None
        self.model = ""
        self.works_ns: int | None = None
        self.waits_for: str | None = None
        self._turn_id = uuid4().hex[:12]
        self._on_event: Callable[[PoolEvent], None] | None = on_event
        self._on_cancelled = on_cancelled
        self._lock = threading.Lock()
        self._cancelled = False
        self._answerer: NumberedAnswerer | None = None

    @property
    def turn_id(self) -> str:
        """Id of the turn, which the log uses too; known before it begins."""
        return self._turn_id

    def is_cancelled(self) -> bool:
        """Return whether the turn is to end."""
        return self._cancelled

    def cancel(self) -> None:
        """End it within one batch, wherever it is; safe from any thread, and repeatable."""
        with self._lock:
            is_first = not self._cancelled
            self._cancelled = True
            answerer = self._answerer
        if answerer is not None:
            with suppress(EtuiError):
                answerer.cancel()
        if is_first:
            self._on_cancelled(self)

    def report(self, event: PoolEvent) -> None:
        """Pass an event to the client's side, which must not end the turn by a fault of its own."""
        match event:
            case Decided(decision=decision):
                self.model = self.waits_for = decision.arm.model
            case HopStarted(model=model):
                self.model = self.waits_for = model
            case Finished() | HopEnded() | TurnFinished() | TurnFailed():
                self.waits_for = self.hop_ns = self.works_ns = None
            case Unloaded():
                pass  # it makes room for the model
            case Loaded(end_ns=began_ns) | Prefilled(start_ns=began_ns):
                self.waits_for, self.works_ns = None, self.works_ns or began_ns
            case _:
                self.waits_for = None
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001  logged, and the thread goes on
            _log.exception("the listener of turn %s failed; the turn is cancelled", self.turn_id)
            self._on_event = None
            self.cancel()

    def guard(
        self,
        answerer: NumberedAnswerer,
        clock_ns: Callable[[], int],
        on_failed: Callable[[str], None],
    ) -> GuardedAnswerer:
        """Return an answerer that a cancel of this turn reaches, at any time."""
        with self._lock:
            self._answerer = answerer
        return GuardedAnswerer(answerer, self.is_cancelled, clock_ns, on_failed)


class GuardedAnswerer:
    """An answerer that begins no answer once its turn is cancelled.

    Args:
        inner: The answerer of the backend; a cancel also ends answers that it begins later.
        on_failed: Called with the model when the engine fails, before the turn is measured.
    """

    def __init__(
        self,
        inner: NumberedAnswerer,
        cancelled: Callable[[], bool],
        clock_ns: Callable[[], int],
        on_failed: Callable[[str], None],
    ) -> None:
        self._on_failed = on_failed
        self._inner = inner
        self._cancelled = cancelled
        self._clock_ns = clock_ns

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of its answers so far, oldest first."""
        return self._inner.numbers

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request, or end it at once if the turn is cancelled."""
        if self._cancelled():
            yield build_unbegun(self._clock_ns())
            return
        try:
            events = self._inner.answer(request)
            if self._cancelled():  # in between: what has not begun cannot have heard of it
                self._inner.cancel()
            yield from events
        except EngineFailed:
            self._on_failed(request.model.name)
            raise

    def cancel(self) -> None:
        """End the running answer."""
        self._inner.cancel()

    def hurry(self) -> None:
        """End the thinking of the running answer."""
        self._inner.hurry()

    @property
    def last_energy(self) -> Mapping[str, Any] | None:
        """The energy document of the last answer, if another etui gave it."""
        return getattr(self._inner, "last_energy", None)


class NoAnswerer:
    """The answerer of a turn that was cancelled in the queue: it needs no engine."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """End the answer before it begins."""
        return iter((build_unbegun(self._clock_ns()),))

    def cancel(self) -> None:
        """Do nothing: no answer runs."""

    def hurry(self) -> None:
        """Do nothing: no answer runs."""


class UnspentMeter:
    """The meter of a turn that did not begin: its energy is that of an instant.

    Other turns may run meanwhile, so that an interval of some microseconds would be theirs.

    Args:
        meter: The meter of this machine, which says what is measured.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy of an instant: 0 J of the channels that are measured."""
        return self._meter.energy(start_ns, start_ns)

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return no slices."""
        return ()

    def mark(self, t_ns: int) -> None:
        """Do nothing: no power steps."""

    def settle(self, end_ns: int) -> None:
        """Do nothing: there is nothing to wait for."""


def build_unbegun(now_ns: int) -> Finished:
    """Build the end of an answer that never began: no tokens, and an interval of no length."""
    return Finished(
        now_ns, now_ns, now_ns, now_ns, None, "stopped", NOT_BEGUN, "", "", 0, 0, 0, 0, 0
    )


def find_ongoing(running: Sequence[PooledTurn], is_local: Callable[[str], bool]) -> Ongoing | None:
    """Find what the engine does now, which is not booked before it has ended.

    Args:
        is_local: Returns whether a model is one of this machine.
    """
    local = [turn for turn in running if turn.hop_ns is not None and is_local(turn.model)]
    works = [turn for turn in local if turn.works_ns is not None]
    began = [turn.works_ns if works else turn.hop_ns for turn in works or local]
    since_ns = min((each for each in began if each is not None), default=None)
    return None if since_ns is None else Ongoing(works[0].model if works else None, since_ns)


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
            EtuiError: As in :func:`etui.runtime.decide.choose`.
        """
        return self._choose(request, _build_query(request))

    def _choose(self, request: TurnRequest, query: Query) -> Choice:
        from etui.runtime.decide import choose

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


REFRESH_SECONDS = 1.0
"""How long after a turn the facts of the log are read again, once for all turns meanwhile.

It takes some milliseconds, for which the next requests would wait."""


class LogRefresh:
    """Reads the facts of the log again, and fits the curves of models that have new turns.

    Args:
        between: Chooses how long models stay in memory, from the log too.
        errands: Where the work is done.
        call_later: Calls a function after some seconds.
    """

    def __init__(
        self,
        runtime: Runtime[Any],
        between: BetweenTurns,
        errands: Errands,
        call_later: CallLater,
    ) -> None:
        self._runtime = runtime
        self._writer = runtime.writer
        self._between = between
        self._errands = errands
        self._call_later = call_later
        self._lock = threading.Lock()
        self._unrefreshed: dict[str, TurnRecord] = {}
        self._waits = False
        self._failure: LogUnavailable | None = None

    def note(self, record: TurnRecord) -> None:
        """Note a turn whose model may need another curve at the next refresh."""
        with self._lock:
            self._unrefreshed[record.model] = record

    def soon(self) -> None:
        """Refresh after :data:`REFRESH_SECONDS`, unless that is to happen already."""
        with self._lock:
            if self._waits:
                return
            self._waits = True
        self._call_later(REFRESH_SECONDS, lambda: self._errands.add(self._refresh))

    def finish(self) -> None:
        """Write what the log lacks.

        Raises:
            LogUnavailable: Something could not be written, now or before; the message says where it
                was saved.
        """
        self._writer.flush()
        if self._failure is not None:
            raise self._failure

    def _refresh(self) -> None:
        from etui.runtime.model_resolution import refit_curve

        with self._lock:
            records, self._unrefreshed = tuple(self._unrefreshed.values()), {}
            self._waits = False
        try:
            self._writer.flush()
        except LogUnavailable as failure:  # the writer has reported it; closing does again
            self._failure = failure
        for record in records:
            refit_curve(record, self._runtime.config, self._writer.save_curve)
        self._runtime.log_cache.renew()
        self._between.update_keep_warm()


class Errands:
    """Runs jobs in order, in the background; safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._runs = False

    def add(self, job: Callable[[], None]) -> None:
        """Run a job soon; its faults are logged, and end no other job."""
        with self._changed:
            self._jobs.append(job)
            if self._runs:
                return
            self._runs = True
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:  # the system has no thread left
            self._work()

    def wait(self, seconds: float) -> bool:
        """Wait until every job has run; return whether that happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._runs, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._runs = False
                    self._changed.notify_all()
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:  # noqa: BLE001  logged, and the thread goes on
                _log.exception("a job of %s failed", self._name)


class TurnQueue:
    """The waiting turns, from which no key can shut out another one; used under the pool's lock.

    Without keys, or with a single one, it is a queue like any other.

    Args:
        limit: Most turns that wait; 0 refuses all. A key without a turn in a full queue may add
            one, so that there are at most as many more as there are other keys.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(0, limit)
        self._turns: list[PooledTurn] = []
        self._served: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[PooledTurn]:
        return iter(tuple(self._turns))

    def has_room(self, key: str) -> bool:
        """Return whether another turn of a key may wait."""
        if len(self._turns) < self.limit:
            return True
        return self.limit > 0 and all(turn.request.key != key for turn in self._turns)

    def append(self, turn: PooledTurn) -> None:
        """Add a turn behind the others of its key."""
        self._turns.append(turn)

    def remove(self, turn: PooledTurn) -> None:
        """Take a turn out.

        Raises:
            ValueError: It does not wait.
        """
        self._turns.remove(turn)

    def note_begun(self, turn: PooledTurn) -> None:
        """Note that a turn begins, which puts its key behind the others."""
        self._count += 1
        self._served[turn.request.key] = self._count

    def take(self, running: Iterable[PooledTurn]) -> PooledTurn | None:
        """Take the next turn out; None if none waits.

        It is the oldest one of the key with the fewest running turns, and of several such keys that
        of the key whose last turn began first.
        """
        if not self._turns:
            return None
        busy = Counter(turn.request.key for turn in running)
        keys = dict.fromkeys(turn.request.key for turn in self._turns)
        chosen = min(keys, key=lambda key: (busy[key], self._served.get(key, 0)))
        turn = next(turn for turn in self._turns if turn.request.key == chosen)
        self._turns.remove(turn)
        self.note_begun(turn)
        return turn


_log = logging.getLogger("etui.pool")

BOOKS_SECONDS = 1200.0
"""How often the books are closed while no turn ends: the meter remembers an hour."""

SETTLED_NS = 10_000_000_000
"""Readings of the meter are complete after this time."""

LEAVE_SECONDS = 10.0
"""How long closing waits for cancelled turns, before and after it ends the engine's process."""

_NEWEST = 0.2
"""Weight of the newest turn in the mean time of turns."""


class PooledHost(ConcurrentHost, EngineProcess, Protocol):
    """A backend that answers several requests at a time, in a process of its own."""


class TurnPool:
    """Runs turns of many clients, first in, first out; safe to use from several threads.

    A turn decides when it begins, so that it sees the policy, the models and the machine as they
    are then. Every turn with a decision is saved, also one that was cancelled in the queue: with
    0 tokens and the status ``stopped``. A request without a decision (an unknown name, a spent
    budget) is no turn: it is reported and not saved.

    Args:
        runtime: This machine. The pool does not close it.
        parallel: Most turns that run at a time. With 1 each turn has the meter for itself; with
            more, turns share batches, and the joules of a batch are divided among them.
        queue_limit: Most turns that wait; 0 refuses whatever cannot begin at once.
        idle_tracker: Measures the idle power between turns. Its clock is the pool's.
        call_later: Calls a function after some seconds, to measure the power after an unload.
        joules_per_hour: Joules that the turns of a key may take within an hour, by its name.
    """

    def __init__(
        self,
        runtime: Runtime[PooledHost],
        *,
        parallel: int = 1,
        queue_limit: int = 32,
        idle_tracker: IdleTracker,
        call_later: CallLater = start_timer,
        joules_per_hour: Mapping[str, float] | None = None,
    ) -> None:
        self._runtime = runtime
        self._parallel = max(1, parallel)
        self._clock_ns = idle_tracker.clock
        self._backend = runtime.backend
        self._between = BetweenTurns(runtime, idle_tracker, call_later)
        self._errands = Errands("etui-pool-errands")
        self._runner = PoolTurnRunner(
            runtime,
            self._between,
            LogRefresh(runtime, self._between, self._errands, call_later),
            parallel=self._parallel,
            joules_per_hour=joules_per_hour or {},
            call_later=call_later,
            clock_ns=self._clock_ns,
            count=self._count,
        )
        self._books = self._runner.books
        self._call_later = call_later
        self._call_later(BOOKS_SECONDS, self._close_books_later)
        self._changed = threading.Condition()
        self._queue = TurnQueue(queue_limit)
        self._left: dict[str, PooledTurn] = {}
        """Turns that were cancelled in the queue and are not saved yet."""
        self._running: dict[str, PooledTurn] = {}
        self._accepting = True
        self._ended = {"finished": 0, "failed": 0, "cancelled": 0}
        self._mean_seconds: float | None = None
        runtime.log_cache.in_background = True  # renewed after each turn
        runtime.reload_defaults()

    def submit(self, request: TurnRequest, on_event: Callable[[PoolEvent], None]) -> PooledTurn:
        """Run a turn as soon as its place in the queue allows.

        Args:
            request: What the client asks for.
            on_event: Called with each event, on the thread of the turn; ``TurnFinished`` or
                ``TurnFailed`` is last. If it raises an error, the turn is cancelled.

        Raises:
            QueueFull: Too many turns wait already.
            BudgetSpent: The hour's joules of the key are spent; ``retry_seconds`` says until when.
            Stopped: The pool is closing.
        """
        self._runner.admit(request.key)
        turn = PooledTurn(request, on_event, self._clock_ns(), self._leave_queue)
        with self._changed:
            if not self._accepting:
                raise _build_closing()
            if len(self._running) < self._parallel:
                self._begin(turn)
            elif self._queue.has_room(request.key):
                self._queue.append(turn)
            else:
                waits = f"{count_text(len(self._queue), 'request')} wait already"
                raise QueueFull(waits, "try again later", self._compute_retry_seconds())
        return turn

    def decide(self, request: TurnRequest) -> Choice:
        """Decide how a request would be answered now; nothing is run, and nothing saved.

        Raises:
            EtuiError: As in :func:`etui.runtime.decide.choose`.
        """
        return self._runner.decide(request)

    def status(self) -> PoolStatus:
        """Return what the pool is doing now."""
        residents = self._between.residents()
        with self._changed:
            running = tuple(self._running.values())
            waiting = [turn.waits_for for turn in running if turn.waits_for is not None]
            queued, accepting, ended = len(self._queue), self._accepting, dict(self._ended)
        return PoolStatus(
            running=len(running),
            queued=queued,
            parallel=self._parallel,
            queue_limit=self._queue.limit,
            residents=residents,
            loading=next(
                (name for name in waiting if name not in residents and self._runner.is_local(name)),
                None,
            ),
            watts=self._between.read_watts(),
            books=self._books.read(self._clock_ns(), find_ongoing(running, self._runner.is_local)),
            accepting=accepting,
            **ended,
        )

    def find_turn(self, turn_id: str) -> TurnRecord | None:
        """Return a turn of the log; None if it is not (yet) there.

        Raises:
            LogUnavailable: The log cannot be read.
        """
        from etui.log.queries import LogReader

        with LogReader(self._runtime.config) as log:
            return log.find_turn(turn_id)

    def close(self, grace_seconds: float) -> None:
        """End every turn and save it; the runtime stays open. A second call does nothing.

        Turns that wait end at once. Those that run have the grace time; then they are cancelled.

        Raises:
            LogUnavailable: Something could not be written; the message says where it was saved.
        """
        with self._changed:
            first, self._accepting = self._accepting, False
            queued = tuple(self._queue)
        for turn in queued:
            turn.cancel()
        if not first:
            return
        self._runner.end_audits()
        if not self._wait_for_turns(grace_seconds):
            self._cancel_running()
            if not self._wait_for_turns(LEAVE_SECONDS):
                self._backend.close()  # a turn that did not stop ends with its process
                self._wait_for_turns(LEAVE_SECONDS)
        self._between.closed = True
        self._errands.wait(LEAVE_SECONDS)
        self._runner.close()

    def _cancel_running(self) -> None:
        with self._changed:
            running = tuple(self._running.values())
        for turn in running:
            turn.cancel()

    def _wait_for_turns(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._running or self._queue or self._left), seconds
            )

    def _compute_retry_seconds(self) -> float:
        """Compute when a place of the queue is likely to be free: after the end of a turn."""
        return max(1.0, (self._mean_seconds or 1.0) / self._parallel)

    def _begin(self, turn: PooledTurn) -> None:
        """Run a turn on a new thread, which then takes others from the queue; under the lock."""
        self._running[turn.turn_id] = turn
        self._queue.note_begun(turn)
        thread = threading.Thread(target=self._work, args=(turn,), name="etui-turn", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            del self._running[turn.turn_id]
            raise QueueFull(f"{error}", "try again later", self._compute_retry_seconds()) from error

    def _leave_queue(self, turn: PooledTurn) -> None:
        """Take a cancelled turn out of the queue, and save it without waiting for a place."""
        with self._changed:
            if turn not in self._queue:
                return  # it runs, or has ended
            self._queue.remove(turn)
            self._left[turn.turn_id] = turn
        self._errands.add(lambda: self._end_unbegun(turn))

    def _work(self, turn: PooledTurn) -> None:
        """Run a turn, and those that wait behind it; the thread ends with an empty queue."""
        following: PooledTurn | None = turn
        while following is not None:
            try:
                self._work_on(following)
            except Exception:  # noqa: BLE001  logged, and the thread goes on
                _log.exception("turn %s failed", following.turn_id)
            settled_ns = following.settled_ns
            following = self._take_next(following)
            if settled_ns is not None:
                try:
                    self._close_books(settled_ns)
                except Exception:  # noqa: BLE001  as above: the next turn waits for this thread
                    _log.exception("the joules up to now could not be summed up")

    def _take_next(self, ended: PooledTurn) -> PooledTurn | None:
        with self._changed:
            del self._running[ended.turn_id]
            following = self._queue.take(self._running.values())
            if following is not None:
                self._running[following.turn_id] = following
            self._changed.notify_all()
        return following

    def _work_on(self, turn: PooledTurn) -> None:
        began_ns = turn.began_ns = turn.hop_ns = self._clock_ns()
        record, error = None, None
        try:
            self._runner.enter()
            try:
                record, error = self._runner.run(turn, (began_ns - turn.submitted_ns) / 1e9)
            finally:
                self._runner.leave()
        except Exception as bug:  # noqa: BLE001  a bug ends its turn, never the pool
            _log.exception("turn %s failed", turn.turn_id)
            error = EtuiError(format_internal_error(bug))
        finally:
            self._end(turn, record, error, (self._clock_ns() - began_ns) / 1e9)

    def _close_books(self, settled_ns: int) -> None:
        """Sum up the time before the running turns, as far as it is measured."""
        with self._changed:
            began = [turn.began_ns for turn in self._running.values() if turn.began_ns is not None]
        self._books.close_until(min([*began, settled_ns]))

    def _close_books_later(self) -> None:
        """Close the books in long pauses too, before the meter forgets them."""
        if self._accepting:
            self._close_books(self._clock_ns() - SETTLED_NS)
            self._call_later(BOOKS_SECONDS, self._close_books_later)

    def _end_unbegun(self, turn: PooledTurn) -> None:
        """Save a turn that was cancelled in the queue: stopped, with 0 tokens."""
        seconds = (self._clock_ns() - turn.submitted_ns) / 1e9
        record, error = self._runner.run_unbegun(turn, seconds)
        self._end(turn, record, error, None)
        with self._changed:
            del self._left[turn.turn_id]
            self._changed.notify_all()

    def _count(self, end: TurnEnd) -> None:
        """Count a turn whose record is saved, before its client gets it."""
        with self._changed:
            self._ended[end] += 1

    def _end(
        self,
        turn: PooledTurn,
        record: TurnRecord | None,
        error: EtuiError | None,
        seconds: float | None,
    ) -> None:
        """Count a turn, and report the error that ended it as its last event."""
        with self._changed:
            if record is not None and seconds is not None:
                mean = self._mean_seconds
                self._mean_seconds = seconds if mean is None else mean + _NEWEST * (seconds - mean)
            if record is None:  # a turn with a record was counted with it
                self._ended["cancelled" if turn.is_cancelled() else "failed"] += 1
        if error is not None:
            turn.report(TurnFailed(error))
        if record is not None:
            self._runner.refresh.soon()


def _build_closing() -> Stopped:
    return Stopped("the server is shutting down", "start it again")
