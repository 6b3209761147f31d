"""Run turns: one at a time for the app, several together for the clients of a server."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from etui.errors import EtuiError, LogUnavailable, QueueFull, Stopped, format_internal_error
from etui.events import Finished, Loaded, Residence, Unloaded
from etui.runtime._between_turns import BetweenTurns, CallLater, start_timer
from etui.runtime.auditor import Auditor
from etui.runtime.energy_books import (
    AUDITS,
    IDLE,
    LOADS,
    EnergyBookkeeper,
    KeyBudgets,
    Ongoing,
    TurnMeters,
)
from etui.runtime.turn_request import (
    PooledTurn,
    PoolEvent,
    PoolStatus,
    TurnFailed,
    TurnQueue,
    TurnRequest,
)
from etui.turn.events import HopStarted, RoundStarted, TurnFinished
from etui.units import count_text

if TYPE_CHECKING:
    from etui.backends.process import ProcessBackend
    from etui.chat import Query
    from etui.energy.idle import IdleTracker
    from etui.runtime.decide import Choice
    from etui.runtime.runtime import Runtime
    from etui.turn.events import TurnEvent
    from etui.turn.interfaces import Meter
    from etui.turn.record import TurnRecord

_log = logging.getLogger("etui.pool")

REFRESH_SECONDS = 1.0
"""How long after a turn the facts of the log are read again, once for all turns meanwhile.

It takes some milliseconds, for which the next requests would wait."""

BOOKS_SECONDS = 1200.0
"""How often the books are closed while no turn ends: the meter remembers an hour."""

SETTLED_NS = 10_000_000_000
"""Readings of the meter are complete after this time."""

STOP_SECONDS = 2.0
"""How long closing waits for cancelled turns before it ends the engine's process."""

LEAVE_SECONDS = 10.0
"""How long closing waits for turns whose engine has ended, and for jobs in the background."""

_NEWEST = 0.2
"""Weight of the newest turn in the mean time of turns."""

TurnEnd = Literal["finished", "failed", "cancelled"]

_END_OF_STATUS: Mapping[str, TurnEnd] = {"stopped": "cancelled", "error": "failed"}
"""How a turn counts, by the status of its record; others are finished."""


class TurnPool:
    """Runs turns, first in, first out, one or several at a time; safe to use from several threads.

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
        joules_per_hour: Joules that the turns of a key may take within an hour, by its name.
    """

    in_background = True
    """Whether the facts of the log are read again some time after a turn, and books are kept."""

    def __init__(
        self,
        runtime: Runtime[ProcessBackend],
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
        self._call_later = call_later
        self._between = BetweenTurns(runtime, idle_tracker, call_later)
        self._jobs = BackgroundJobs("etui-pool-errands")
        self._refresh = _LogRefresh(runtime, self._between, self._jobs, call_later)
        self._books = EnergyBookkeeper(runtime.meter, self._clock_ns())
        self._meters = TurnMeters(runtime, self._books, self._clock_ns, shared=self._parallel > 1)
        self._between.on_residence = self._book
        self._budgets = KeyBudgets(joules_per_hour or {}, runtime.config)
        self._auditor = Auditor(
            runtime, self._between, call_later, partial(self._books.add, AUDITS), self._clock_ns
        )
        self._active = 0
        self._entering = threading.Lock()
        self._changed = threading.Condition()
        self._queue = TurnQueue(queue_limit)
        self._left: dict[str, PooledTurn] = {}
        """Turns that were cancelled in the queue and are not saved yet."""
        self._running: dict[str, PooledTurn] = {}
        self._accepting = True
        self._ended = {"finished": 0, "failed": 0, "cancelled": 0}
        self._mean_seconds: float | None = None
        if self.in_background:
            runtime.log_cache.in_background = True  # renewed after each turn
            call_later(BOOKS_SECONDS, self._close_books_later)
        runtime.reload_defaults()

    def submit(self, request: TurnRequest, on_event: Callable[[PoolEvent], None]) -> PooledTurn:
        """Run a turn as soon as its place in the queue allows.

        ``on_event`` is called on the thread of the turn; ``TurnFinished`` or ``TurnFailed`` is
        last. If it raises an error, the turn is cancelled.

        Raises:
            QueueFull: Too many turns wait already.
            BudgetSpent: The hour's joules of the key are spent; ``retry_seconds`` says until when.
            Stopped: The pool is closing.
        """
        self._budgets.check(request.key)
        self._auditor.interrupt()
        turn = PooledTurn(request, on_event, self._clock_ns(), self._leave_queue)
        with self._changed:
            self._raise_if_closing()
            if len(self._running) < self._parallel:
                self._begin(turn)
            elif self._queue.has_room(request.key):
                self._queue.append(turn)
            else:
                waits = f"{count_text(len(self._queue), 'request')} wait already"
                raise QueueFull(waits, "try again later", self._compute_retry_seconds())
        return turn

    def run_here(self, request: TurnRequest) -> Iterator[TurnEvent]:
        """Run a turn on this thread, once there is a place for it; yield its events.

        Raises:
            EtuiError: The turn failed; if it had a decision, it is saved.
        """
        turn = PooledTurn(request, None, self._clock_ns(), lambda _turn: None)
        with self._changed:
            self._changed.wait_for(lambda: len(self._running) < self._parallel)
            self._raise_if_closing()
            self._running[turn.turn_id] = turn
        try:
            yield from self._run(turn)
        finally:
            with self._changed:
                del self._running[turn.turn_id]
                self._changed.notify_all()

    def status(self) -> PoolStatus:
        """Return what the pool is doing now."""
        residents = self._between.residents()
        with self._changed:
            running = tuple(self._running.values())
            waiting = [turn.waits_for for turn in running if turn.waits_for is not None]
            queued, accepting, ended = len(self._queue), self._accepting, dict(self._ended)
        loading = [name for name in waiting if name not in residents and self._is_local(name)]
        return PoolStatus(
            running=len(running),
            queued=queued,
            parallel=self._parallel,
            queue_limit=self._queue.limit,
            residents=residents,
            loading=next(iter(loading), None),
            watts=self._between.read_watts(),
            books=self._books.read(self._clock_ns(), find_ongoing(running, self._is_local)),
            accepting=accepting,
            unsaved=self._runtime.writer.unsaved,
            long_step=self._runtime.backend.long_step,
            **ended,
        )

    def find_turn(self, turn_id: str) -> TurnRecord | None:
        """Return a turn of the log; None if it is not (yet) there."""
        from etui.log.queries import LogReader

        with LogReader(self._runtime.config) as log:
            return log.find_turn(turn_id)

    def cancel(self) -> None:
        """End every running turn within one batch."""
        with self._changed:
            running = tuple(self._running.values())
        for turn in running:
            turn.cancel()

    def close(self, grace_seconds: float = 0.0) -> None:
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
            self.cancel()
            if not self._wait_for_turns(STOP_SECONDS):
                self._runtime.backend.close()  # a turn that did not stop ends with its process
                self._wait_for_turns(LEAVE_SECONDS)
        self._between.closed = True
        self._jobs.wait(LEAVE_SECONDS)
        self._between.end_idle()
        self._runtime.writer.flush()

    def _wait_for_turns(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._running or self._queue or self._left), seconds
            )

    def _raise_if_closing(self) -> None:
        if not self._accepting:
            raise Stopped("the server is shutting down", "start it again")

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
        self._jobs.add(lambda: self._end_unbegun(turn))

    def _work(self, turn: PooledTurn) -> None:
        """Run a turn, and those that wait behind it; the thread ends with an empty queue."""
        following: PooledTurn | None = turn
        while following is not None:
            began_ns = self._clock_ns()
            error = self._report(following, self._run(following))
            self._end(following, error, (self._clock_ns() - began_ns) / 1e9)
            settled_ns = following.settled_ns
            with self._changed:
                del self._running[following.turn_id]
                following = self._queue.take(self._running.values())
                if following is not None:
                    self._running[following.turn_id] = following
                self._changed.notify_all()
            if settled_ns is not None:
                try:
                    self._close_books(settled_ns)
                except Exception:  # noqa: BLE001  as above: the next turn waits for this thread
                    _log.exception("the joules up to now could not be summed up")

    def _report(self, turn: PooledTurn, events: Iterator[TurnEvent]) -> EtuiError | None:
        """Report the events of a turn; return the error that ended it."""
        try:
            for event in events:
                turn.report(event)
        except EtuiError as error:
            return error
        except Exception as bug:  # noqa: BLE001  a bug ends its turn, never the pool
            _log.error("turn %s failed", turn.turn_id, exc_info=bug)
            return EtuiError(format_internal_error(bug))
        return None

    def _run(self, turn: PooledTurn) -> Iterator[TurnEvent]:
        """Decide, answer, measure and book a turn whose time has come."""
        turn.began_ns = turn.hop_ns = self._clock_ns()
        self._enter()
        try:
            self._budgets.check(turn.request.key)
            choice = self.decide(turn.request)
            with (
                self._meters.open(turn.token) as meter,
                closing(self._answer(turn, choice, meter)) as events,
            ):
                for event in events:
                    self._follow(turn, event)
                    yield event
            if not self.in_background:
                self._refresh.run()
        finally:
            self._leave()

    def _answer(
        self, turn: PooledTurn, choice: Choice, meter: Meter
    ) -> Generator[TurnEvent, None, None]:
        """Answer the query as decided, on behalf of the client that asked."""
        origin, client = turn.origin, turn.request.client
        if client is not None:
            waited = ((turn.began_ns or self._clock_ns()) - turn.submitted_ns) / 1e9
            origin = replace(origin, client=replace(client, queue_seconds=waited))
        query, tools = turn.request.query, turn.request.tools
        if tools is None:
            return self._runtime.turn(query, choice, turn.token, origin, meter).run()

        def decide(query_of_round: Query) -> Choice:
            if query_of_round is query:
                return choice
            turn.hop_ns = self._clock_ns()
            return self.decide(replace(turn.request, query=query_of_round))

        return self._runtime.tool_turn(query, tools, decide, turn.token, origin, meter).run()

    def _end_unbegun(self, turn: PooledTurn) -> None:
        """Save a turn that was cancelled in the queue: stopped, with 0 tokens."""

        def run() -> Iterator[TurnEvent]:
            choice = self.decide(turn.request)
            for event in self._answer(turn, choice, self._runtime.meter):
                if isinstance(event, TurnFinished):
                    turn.record = event.record
                    self._count("cancelled")
                yield event

        self._end(turn, self._report(turn, run()), None)
        with self._changed:
            del self._left[turn.turn_id]
            self._changed.notify_all()

    def decide(self, request: TurnRequest) -> Choice:
        """Decide how a request would be answered now; errors as of `choose`, nothing is saved."""
        from etui.runtime.decide import choose

        overrides, runtime = request.overrides, self._runtime
        runtime.reload_catalogue()
        if overrides.model is None and overrides.policy is None:
            runtime.reload_defaults()
        if self.in_background and runtime.log_cache.is_stale():
            self._refresh.soon()  # another program has written to the log
        return choose(
            request.query,
            overrides,
            runtime,
            self._between.read_host,
            confirm=request.confirm,
            effort=request.effort,
        )

    def _enter(self) -> None:
        """Note that a turn begins; the first one ends the idle time."""
        with self._entering:
            if self._active == 0:
                self._auditor.interrupt()
                self._between.busy.acquire()
                self._between.end_idle()
                self._between.begin_turns()
            self._active += 1

    def _leave(self) -> None:
        """Note that a turn has ended; the last one begins the idle time."""
        with self._entering:
            self._active -= 1
            if self._active == 0:
                try:
                    self._between.end_turns()
                finally:
                    self._between.busy.release()
                    self._auditor.rest()

    def _is_local(self, model: str) -> bool:
        """Return whether a model runs on this machine; one without an entry does."""
        return not self._runtime.is_remote(model)

    def _follow(self, turn: PooledTurn, event: TurnEvent) -> None:
        """Follow the loads of a turn, and book its work."""
        self._between.watch(event)
        if isinstance(event, HopStarted):
            turn.hop_ns = self._clock_ns()
        elif isinstance(event, Loaded | Unloaded):
            self._book(event)
        elif isinstance(event, RoundStarted):
            self._books.add(IDLE, event.start_ns, event.end_ns)
        elif isinstance(event, Finished) and self._is_local(turn.model):
            self._meters.book(turn.model, event.start_ns, event.end_ns)
        elif isinstance(event, TurnFinished):
            self._note(turn, event.record)
        turn.follow(event)

    def _book(self, event: Residence) -> None:
        self._books.add(LOADS, event.start_ns, event.end_ns)

    def _note(self, turn: PooledTurn, record: TurnRecord) -> None:
        """Note what a turn has spent, before its client gets it."""
        turn.record, turn.settled_ns = record, record.energy.end_ns
        if all(self._is_local(name) for name in (record.model, *(h.model for h in record.hops))):
            self._meters.book(record.model, record.energy.start_ns, record.energy.end_ns)
        self._between.note_record(record)
        self._budgets.add(turn.request.key, record.energy.joules)
        self._refresh.note(record)
        self._count(_END_OF_STATUS.get(record.status, "finished"))
        self._auditor.offer(turn.request.query, record)

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

    def _count(self, end: TurnEnd) -> None:
        """Count a turn whose record is saved, before its client gets it."""
        with self._changed:
            self._ended[end] += 1

    def _end(self, turn: PooledTurn, error: EtuiError | None, seconds: float | None) -> None:
        """Count a turn, and report the error that ended it as its last event."""
        with self._changed:
            if turn.record is not None and seconds is not None:
                mean = self._mean_seconds
                self._mean_seconds = seconds if mean is None else mean + _NEWEST * (seconds - mean)
            if turn.record is None:  # a turn with a record was counted with it
                self._ended["cancelled" if turn.token.cancelled() else "failed"] += 1
        if error is not None:
            turn.follow(TurnFailed(error))
            turn.report(TurnFailed(error))
        if turn.record is not None:
            self._refresh.soon()


class _LogRefresh:
    """Brings what depends on the log up to date: facts of decisions, curves, keep-warm times."""

    def __init__(
        self,
        runtime: Runtime[ProcessBackend],
        between: BetweenTurns,
        jobs: BackgroundJobs,
        call_later: CallLater,
    ) -> None:
        self._runtime = runtime
        self._writer = runtime.writer
        self._between = between
        self._jobs = jobs
        self._call_later = call_later
        self._lock = threading.Lock()
        self._unrefreshed: dict[str, TurnRecord] = {}
        self._waits = False

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
        self._call_later(REFRESH_SECONDS, lambda: self._jobs.add(self._run_later))

    def run(self) -> None:
        """Refresh now; LogUnavailable says where what could not be written was saved."""
        from etui.runtime.model_resolution import refit_curve

        with self._lock:
            records, self._unrefreshed = tuple(self._unrefreshed.values()), {}
            self._waits = False
        try:
            self._writer.flush()
        finally:
            for record in records:
                refit_curve(record, self._runtime.config, self._writer.save_curve)
            self._between.update_keep_warm()

    def _run_later(self) -> None:
        with suppress(LogUnavailable):  # the writer has reported it; closing it does again
            self.run()
        self._runtime.log_cache.renew()


class BackgroundJobs:
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


def find_ongoing(running: Sequence[PooledTurn], is_local: Callable[[str], bool]) -> Ongoing | None:
    """Find what the engine does now, which is not booked before it has ended."""
    local = [turn for turn in running if turn.hop_ns is not None and is_local(turn.model)]
    works = [turn for turn in local if turn.works_ns is not None]
    began = [turn.works_ns if works else turn.hop_ns for turn in works or local]
    since_ns = min((each for each in began if each is not None), default=None)
    return None if since_ns is None else Ongoing(works[0].model if works else None, since_ns)
