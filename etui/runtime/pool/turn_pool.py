"""Run the turns of many clients: a bounded queue in front of a few turns at a time."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from etui.backends.base import ConcurrentHost
from etui.errors import (
    EtuiError,
    QueueFull,
    Stopped,
    format_internal_error,
)
from etui.runtime.between_turns import BetweenTurns, EngineProcess
from etui.runtime.cooling import CallLater, start_timer
from etui.runtime.pool.errands import Errands
from etui.runtime.pool.log_refresh import LogRefresh
from etui.runtime.pool.pooled_turn import PooledTurn, find_ongoing
from etui.runtime.pool.turn_request import PoolEvent, PoolStatus, TurnFailed, TurnRequest
from etui.runtime.pool.turn_runner import PoolTurnRunner, TurnEnd
from etui.units import count_text

if TYPE_CHECKING:
    from etui.energy.idle_tracker import IdleTracker
    from etui.runtime.decide import Choice
    from etui.runtime.open import Runtime
    from etui.runtime.pool.pooled_turn import PooledTurn
    from etui.turn.record import TurnRecord


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
            EtuiError: As in :func:`etui.runtime.choose.choose`.
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
