"""Run the turns of many clients: a bounded queue in front of a few turns at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from etui.backends.base import ConcurrentHost
from etui.errors import (
    EtuiError,
    LogUnavailable,
    QueueFull,
    Stopped,
    format_internal_error,
)
from etui.events import Finished, Loaded, Residence, Unloaded
from etui.runtime.auditor import Auditor
from etui.runtime.between_turns import BetweenTurns, EngineProcess
from etui.runtime.cooling import CallLater, start_timer
from etui.runtime.pool.energy_books import EnergyBookkeeper
from etui.runtime.pool.errands import Errands
from etui.runtime.pool.key_budgets import KeyBudgets
from etui.runtime.pool.pooled_turn import NoAnswerer, PooledTurn, UnspentMeter, find_ongoing
from etui.runtime.pool.turn_meters import open_meters
from etui.runtime.pool.turn_queue import TurnQueue
from etui.runtime.pool.turn_request import PoolEvent, PoolStatus, TurnFailed, TurnRequest
from etui.turn.events import HopStarted, TurnEvent, TurnFinished
from etui.turn.record import ClientRecord
from etui.units import count_text

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.energy.idle_tracker import IdleTracker
    from etui.routing.signals.host_state import HostState
    from etui.runtime.decide import Choice
    from etui.runtime.open import Runtime
    from etui.turn.record import TurnRecord

_log = logging.getLogger("etui.pool")

REFRESH_SECONDS = 1.0
"""How long after a turn the facts of the log are read again, once for all turns meanwhile.

It takes some milliseconds, for which the next requests would wait."""

BOOKS_SECONDS = 1200.0
"""How often the books are closed while no turn ends: the meter remembers an hour."""

SETTLED_NS = 10_000_000_000
"""Readings of the meter are complete after this time."""

LEAVE_SECONDS = 10.0
"""How long closing waits for cancelled turns, before and after it ends the engine's process."""

_END_OF_STATUS = {"stopped": "cancelled", "error": "failed"}
"""How a turn counts, by the status of its record; others are finished."""

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
        self._writer = runtime.writer
        self._between = BetweenTurns(runtime, idle_tracker, call_later)
        self._books = EnergyBookkeeper(runtime.meter, self._clock_ns())
        self._meters = open_meters(runtime, self._parallel, self._books, self._clock_ns)
        self._between.on_residence = self._book
        self._call_later = call_later
        self._call_later(BOOKS_SECONDS, self._close_books_later)
        self._budgets = KeyBudgets(joules_per_hour or {}, runtime.config)
        self._auditor = Auditor(
            runtime,
            self._between,
            call_later,
            self._backend.open_answerer,
            on_audited=self._books.add_audit,
            clock_ns=self._clock_ns,
        )
        self._errands = Errands("etui-pool-errands")
        self._changed = threading.Condition()
        self._queue = TurnQueue(queue_limit)
        self._left: dict[str, PooledTurn] = {}
        """Turns that were cancelled in the queue and are not saved yet."""
        self._running: dict[str, PooledTurn] = {}
        self._active = 0
        self._entering = threading.Lock()
        self._accepting = True
        self._ended = {"finished": 0, "failed": 0, "cancelled": 0}
        self._mean_seconds: float | None = None
        self._unrefreshed: dict[str, TurnRecord] = {}
        self._refreshing = False
        runtime.log_cache.in_background = True  # renewed after each turn
        runtime.reload_defaults()
        self._log_failure: LogUnavailable | None = None

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
        self._budgets.check(request.key)
        self._auditor.interrupt()
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
            EtuiError: As in :func:`etui.runtime.choose.choose`.
        """
        return self._choose(request, _build_query(request))

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
                (name for name in waiting if name not in residents and self._is_local(name)), None
            ),
            watts=self._between.read_watts(),
            books=self._books.read(self._clock_ns(), find_ongoing(running, self._is_local)),
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
        self._auditor.close()
        if not self._wait_for_turns(grace_seconds):
            self._cancel_running()
            if not self._wait_for_turns(LEAVE_SECONDS):
                self._backend.close()  # a turn that did not stop ends with its process
                self._wait_for_turns(LEAVE_SECONDS)
        self._between.closed = True
        self._errands.wait(LEAVE_SECONDS)
        self._between.end_idle()
        self._writer.flush()
        if self._log_failure is not None:
            raise self._log_failure

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
        """Run a turn on a new thread, which then takes others from the queue; under the lock.

        Raises:
            QueueFull: The system has no thread left.
        """
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
            self._enter()
            try:
                record, error = self._run(turn, (began_ns - turn.submitted_ns) / 1e9)
            finally:
                self._exit()
        except Exception as bug:  # noqa: BLE001  a bug ends its turn, never the pool
            _log.exception("turn %s failed", turn.turn_id)
            error = EtuiError(format_internal_error(bug))
        finally:
            self._end(turn, record, error, (self._clock_ns() - began_ns) / 1e9)

    def _run(
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
        except EtuiError as error:
            return record, error
        except Exception as bug:  # noqa: BLE001  a bug ends its turn, never the pool
            _log.exception("turn %s failed", turn.turn_id)
            return record, EtuiError(format_internal_error(bug))
        return record, None

    def _follow(self, turn: PooledTurn, event: TurnEvent) -> None:
        """Follow the loads of a turn, and book its work."""
        self._between.watch(event)
        if isinstance(event, HopStarted):
            turn.hop_ns = self._clock_ns()
        elif isinstance(event, Loaded | Unloaded):
            self._book(event)
        elif isinstance(event, Finished) and self._is_local(turn.model):
            self._meters.book_answer(turn.model, event)

    def _book(self, event: Residence) -> None:
        self._books.add_load(event.start_ns, event.end_ns)

    def _book_crash(self, model: str) -> None:
        if self._is_local(model) and self._backend.pid is None:
            self._meters.book_crash(model)

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

    def _note(self, turn: PooledTurn, record: TurnRecord) -> None:
        """Note what a turn has spent, before its client gets it."""
        turn.settled_ns = record.energy.end_ns
        if all(self._is_local(name) for name in (record.model, *(h.model for h in record.hops))):
            self._meters.book_turn(record)
        self._between.note_record(record)
        self._budgets.add(turn.request.key, record.energy.joules)
        with self._changed:
            self._unrefreshed[record.model] = record
            self._ended[_END_OF_STATUS.get(record.status, "finished")] += 1

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
            self._refresh_soon()

    def _end_unbegun(self, turn: PooledTurn) -> None:
        """Save a turn that was cancelled in the queue: stopped, with 0 tokens."""
        record: TurnRecord | None = None
        error: EtuiError | None = None
        seconds = (self._clock_ns() - turn.submitted_ns) / 1e9
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
                client=_build_client(turn.request, seconds),
            ):
                if isinstance(event, TurnFinished):
                    record = event.record
                    with self._changed:
                        self._ended["cancelled"] += 1
                turn.report(event)
        except EtuiError as fault:
            error = fault
        except Exception as bug:  # noqa: BLE001  a bug ends its turn, never the pool
            _log.exception("turn %s failed", turn.turn_id)
            error = EtuiError(format_internal_error(bug))
        self._end(turn, record, error, None)
        with self._changed:
            del self._left[turn.turn_id]
            self._changed.notify_all()

    def _enter(self) -> None:
        """Note that a turn begins; the first one ends the idle time."""
        with self._entering:
            if self._active == 0:
                self._auditor.interrupt()
                self._between.busy.acquire()
                self._between.end_idle()
                self._between.begin_turns()
            self._active += 1

    def _exit(self) -> None:
        """Note that a turn has ended; the last one begins the idle time."""
        with self._entering:
            self._active -= 1
            if self._active == 0:
                try:
                    self._between.end_turns()
                finally:
                    self._between.busy.release()
                    self._auditor.rest()

    def _choose(self, request: TurnRequest, query: Query) -> Choice:
        from etui.runtime.choose import choose

        overrides = replace(request.overrides, lenient=True)
        self._runtime.reload_catalogue()
        if overrides.model is None and overrides.policy is None:
            self._runtime.reload_defaults()
        if self._runtime.log_cache.is_stale():  # another program has written to the log
            self._refresh_soon()
        return choose(query, overrides, self._runtime, self._read_host, effort=request.effort)

    def _is_loading(self, model: str, residents: Collection[str]) -> bool:
        """Return whether a model that a turn waits for is being loaded here."""
        return model not in residents and self._is_local(model)

    def _is_local(self, model: str) -> bool:
        spec = self._runtime.catalogue.models.get(model)
        return spec is None or spec.backend is None

    def _read_host(self) -> HostState:
        residents = self._between.residents()
        host = self._between.read_host()
        if host.resident is None and residents:  # turns run, and none of them has ended yet
            return replace(host, resident=residents[-1])
        return host

    def _refresh_soon(self) -> None:
        with self._changed:
            if self._refreshing:
                return
            self._refreshing = True
        self._call_later(REFRESH_SECONDS, lambda: self._errands.add(self._refresh))

    def _refresh(self) -> None:
        """Bring what depends on the log up to date, after one or more turns."""
        from etui.runtime.serving import refit_curve

        with self._changed:
            records, self._unrefreshed = tuple(self._unrefreshed.values()), {}
            self._refreshing = False
        try:
            self._writer.flush()
        except LogUnavailable as failure:  # the writer has reported it; closing does again
            self._log_failure = failure
        for record in records:
            refit_curve(record, self._runtime.config, self._writer.save_curve)
        self._runtime.log_cache.renew()
        self._between.update_keep_warm()


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


def _build_closing() -> Stopped:
    return Stopped("the server is shutting down", "start it again")
