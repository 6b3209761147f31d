"""Counts of the turns that a server has run, for ``/metrics``; they only ever rise."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from etui.errors import BudgetSpent, EtuiError, QueueFull
from etui.runtime.turn_request import TurnFailed
from etui.turn.events import TurnFinished

if TYPE_CHECKING:
    from etui.runtime.turn_pool import TurnPool
    from etui.runtime.turn_request import PooledTurn, PoolEvent, TurnRequest
    from etui.turn.record import TurnRecord


class TurnCounters:
    """Counts turns as they end; safe from any thread.

    Attributes:
        requests: Turns by (endpoint, status).
        tokens: Tokens by (model, kind); a kind is ``prompt`` (computed), ``cached``, ``thinking``
            or ``answer``.
        queued, queue_seconds: Turns that have waited and begun, and their waits together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.queued = 0
        self.queue_seconds = 0.0

    def submit(
        self, pool: TurnPool, request: TurnRequest, on_event: Callable[[PoolEvent], None]
    ) -> PooledTurn:
        """Queue a turn, and count it when it ends, or when it is not even queued."""
        endpoint = request.client.endpoint if request.client is not None else ""
        counted = False

        def count(event: PoolEvent) -> None:
            nonlocal counted
            if isinstance(event, TurnFinished):
                counted = True
                self._add_record(endpoint, event.record)
            elif isinstance(event, TurnFailed) and not counted:
                self._add_status(endpoint, "error")
            on_event(event)

        try:
            return pool.submit(request, count)
        except EtuiError as error:
            full, spent = isinstance(error, QueueFull), isinstance(error, BudgetSpent)
            refusal = "queue_full" if full else "budget_spent" if spent else "refused"
            self._add_status(endpoint, refusal)
            raise

    def _add_status(self, endpoint: str, status: str) -> None:
        with self._lock:
            self.requests[endpoint, status] += 1

    def _add_record(self, endpoint: str, record: TurnRecord) -> None:
        parts = [(hop.model, hop.tokens) for hop in record.hops] or [(record.model, record.tokens)]
        with self._lock:
            self.requests[endpoint, record.status] += 1
            for model, tokens in parts:
                self.tokens[model, "prompt"] += tokens.computed
                self.tokens[model, "cached"] += tokens.cached
                self.tokens[model, "thinking"] += tokens.thinking
                self.tokens[model, "answer"] += max(tokens.output - tokens.thinking, 0)
            if record.client is not None:
                self.queued += 1
                self.queue_seconds += max(record.client.queue_seconds, 0.0)
