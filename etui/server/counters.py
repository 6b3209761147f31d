"""Counts of the turns that a server has run, for ``/metrics``; they only ever rise."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.errors import BudgetSpent, EtuiError, QueueFull
from etui.runtime.turn_request import TurnFailed
from etui.turn.events import TurnFinished

if TYPE_CHECKING:
    from etui.runtime.decide import Choice
    from etui.runtime.turn_request import PoolEvent, PoolStatus, RunningTurn, TurnRequest
    from etui.server.context import Pool
    from etui.turn.record import TurnRecord

FAILED = "error"
"""Status of a turn that ended without a record."""


@dataclass(frozen=True, slots=True)
class TurnCounts:
    """Counts since the server was started."""

    requests: Mapping[tuple[str, str], int]  # Turns by (endpoint, status)
    tokens: Mapping[tuple[str, str], int]
    """Tokens by (model, kind); a kind is ``prompt`` (computed), ``cached``, ``thinking`` or
    ``answer``."""
    queued: int  # Turns that have waited and begun
    queue_seconds: float


def _name_refusal(error: EtuiError) -> str:
    """Return the status of a request that was not even queued."""
    if isinstance(error, QueueFull):
        return "queue_full"
    return "budget_spent" if isinstance(error, BudgetSpent) else "refused"


class TurnCounters:
    """Counts turns as they end; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._queued = 0
        self._queue_seconds = 0.0

    def add_status(self, endpoint: str, status: str) -> None:
        """Count a turn that ended without a record."""
        with self._lock:
            self._requests[endpoint, status] += 1

    def add_record(self, endpoint: str, record: TurnRecord) -> None:
        """Count a turn that ended."""
        parts = [(hop.model, hop.tokens) for hop in record.hops] or [(record.model, record.tokens)]
        with self._lock:
            self._requests[endpoint, record.status] += 1
            for model, tokens in parts:
                self._tokens[model, "prompt"] += tokens.computed
                self._tokens[model, "cached"] += tokens.cached
                self._tokens[model, "thinking"] += tokens.thinking
                self._tokens[model, "answer"] += max(tokens.output - tokens.thinking, 0)
            if record.client is not None:
                self._queued += 1
                self._queue_seconds += max(record.client.queue_seconds, 0.0)

    def read(self) -> TurnCounts:
        """Return the counts so far."""
        with self._lock:
            return TurnCounts(
                dict(self._requests), dict(self._tokens), self._queued, self._queue_seconds
            )


class CountedPool:
    """A pool whose turns are counted."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.counters = TurnCounters()

    def submit(self, request: TurnRequest, on_event: Callable[[PoolEvent], None]) -> RunningTurn:
        """Queue a turn, and count it when it ends; see :meth:`Pool.submit`."""
        counted = False

        def count(event: PoolEvent) -> None:
            nonlocal counted
            if isinstance(event, TurnFinished):
                counted = True
                self.counters.add_record(request.endpoint, event.record)
            elif isinstance(event, TurnFailed) and not counted:
                self.counters.add_status(request.endpoint, FAILED)
            on_event(event)

        try:
            return self._pool.submit(request, count)
        except EtuiError as error:
            self.counters.add_status(request.endpoint, _name_refusal(error))
            raise

    def decide(self, request: TurnRequest) -> Choice:
        """Decide which arm would answer."""
        return self._pool.decide(request)

    def status(self) -> PoolStatus:
        """Return what the pool is doing now."""
        return self._pool.status()

    def find_turn(self, turn_id: str) -> TurnRecord | None:
        """Return a turn from the log."""
        return self._pool.find_turn(turn_id)

    def close(self, grace_seconds: float) -> None:
        """Close the pool."""
        self._pool.close(grace_seconds)
