"""Measure the turns of a pool: each alone with the machine's meter, or their parts of batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from etui.backends.base import NumberedAnswerer
    from etui.events import Finished, SharedBatch
    from etui.runtime.open import Runtime
    from etui.runtime.pool.energy_books import EnergyBookkeeper
    from etui.turn.ports import Meter
    from etui.turn.record import Attribution, TurnRecord


@dataclass(frozen=True, slots=True)
class TurnMeter:
    """The meter of one turn."""

    meter: Meter  # Measures the turn's own joules
    attribution: Callable[[], Attribution | None] | None
    """Returns how they were separated from those of others; None if there are none."""


class TurnMeters(Protocol):
    """Gives each turn a meter, and books the time in which the engine works."""

    def open(self, answerer: NumberedAnswerer) -> AbstractContextManager[TurnMeter]:
        """Return the meter of a turn, which is in use until the context ends."""

    def book_answer(self, model: str, finished: Finished) -> None:
        """Book the time of an answer of this machine that has ended."""

    def book_turn(self, record: TurnRecord) -> None:
        """Book what is left of a turn of this machine alone, once it has ended."""

    def book_crash(self, model: str) -> None:
        """Book the time of answers that ended with the engine's process."""


def open_meters(
    runtime: Runtime[Any],
    parallel: int,
    books: EnergyBookkeeper,
    clock_ns: Callable[[], int],
) -> TurnMeters:
    """Return the meters for a number of turns at a time.

    Args:
        parallel: Most turns at a time; with more than one they share batches.
        books: Where the time in which the engine works is booked.
    """
    if parallel > 1:
        return SharedMeters(runtime, books, clock_ns)
    return ExclusiveMeters(runtime, books, clock_ns)


class ExclusiveMeters:
    """The machine's meter, for turns that run one after another."""

    def __init__(
        self, runtime: Runtime[Any], books: EnergyBookkeeper, clock_ns: Callable[[], int]
    ) -> None:
        self._meter = runtime.meter
        self._books = books
        self._clock_ns = clock_ns
        self._since_ns = clock_ns()

    @contextmanager
    def open(self, answerer: NumberedAnswerer) -> Iterator[TurnMeter]:
        """Return the machine's meter."""
        self._since_ns = self._clock_ns()
        yield TurnMeter(self._meter, None)

    def book_answer(self, model: str, finished: Finished) -> None:
        """Book the time of an answer that has ended."""
        self._books.add_turn(model, finished.start_ns, finished.end_ns)

    def book_turn(self, record: TurnRecord) -> None:
        """Book the times between its answers, and those of answers that have failed.

        The turn has paid for them; loads and answers in its time are booked already.
        """
        self._books.add_turn(record.model, record.energy.start_ns, record.energy.end_ns)

    def book_crash(self, model: str) -> None:
        """Book the time since the turn began; loads and answers in it are booked already."""
        self._books.add_turn(model, self._since_ns, self._clock_ns())


class SharedMeters:
    """Meters of turns that share batches: each has its part of their joules.

    Args:
        runtime: This machine; its backend reports the batches.
    """

    def __init__(
        self, runtime: Runtime[Any], books: EnergyBookkeeper, clock_ns: Callable[[], int]
    ) -> None:
        from etui.turn.batch_ledger import BatchLedger
        from etui.turn.shared_meter import SharedMeter

        self._build_meter = SharedMeter
        self._meter = runtime.meter
        self._runtime = runtime
        self._books = books
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._ledger = BatchLedger()
        self._open: dict[int, tuple[NumberedAnswerer, int]] = {}
        runtime.backend.on_batch = self._add_batch

    @contextmanager
    def open(self, answerer: NumberedAnswerer) -> Iterator[TurnMeter]:
        """Return a meter of the turn's part; batches are kept as long as a turn may need them."""
        meter = self._build_meter(
            self._meter, self._ledger, lambda: answerer.numbers, self._runtime.find_token_cost
        )
        with self._lock:
            self._open[id(answerer)] = answerer, self._clock_ns()
        try:
            yield TurnMeter(meter, meter.attribution)
        finally:
            now_ns = self._clock_ns()
            with self._lock:
                del self._open[id(answerer)]
                oldest_ns = min((began for _, began in self._open.values()), default=now_ns)
            self._ledger.forget_before(oldest_ns)

    def book_answer(self, model: str, finished: Finished) -> None:
        """Do nothing: the batches are booked as they end."""

    def book_turn(self, record: TurnRecord) -> None:
        """Do nothing: between its batches a turn costs nothing."""

    def book_crash(self, model: str) -> None:
        """Book the time since the last batch to the answers that a crash has ended."""
        now_ns = self._clock_ns()
        with self._lock:
            # One each: a turn that has asked twice is no two requests.
            numbers = [
                answerer.numbers[-1] for answerer, _ in self._open.values() if answerer.numbers
            ]
            began_ns = min((began for _, began in self._open.values()), default=now_ns)
        newest_ns = self._ledger.newest_ns
        start_ns = began_ns if newest_ns is None else max(newest_ns, began_ns)
        if start_ns < now_ns:
            self._ledger.close_span(model, start_ns, now_ns, numbers)
            self._books.add_turn(model, start_ns, now_ns)

    def _add_batch(self, batch: SharedBatch) -> None:
        self._ledger.add(batch)
        self._books.add_turn(batch.model, batch.start_ns, batch.end_ns)
