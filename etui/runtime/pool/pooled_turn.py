"""One turn of a pool: its place in the queue, its cancellation, and the listener of its events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from etui.errors import EngineFailed, EtuiError
from etui.events import Finished, Loaded, Prefilled, Unloaded
from etui.runtime.pool.energy_books import Ongoing
from etui.runtime.pool.turn_request import TurnFailed
from etui.turn.events import Decided, HopEnded, HopStarted, TurnFinished

if TYPE_CHECKING:
    from etui.backends.base import AnswerRequest, NumberedAnswerer
    from etui.energy.types import Energy
    from etui.events import Event
    from etui.runtime.pool.turn_request import PoolEvent, TurnRequest
    from etui.turn.ports import Meter

_log = logging.getLogger("etui.pool")

NOT_BEGUN = "the client left before the answer began"
"""Why a turn ended that was cancelled in the queue, or before its first hop."""


class PooledTurn:
    """A turn that waits or runs; see :class:`etui.runtime.pool.turn_request.RunningTurn`.

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
