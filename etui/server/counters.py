"""Counts of the turns that a server has run, for ``/metrics``; they only ever rise."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from etui.errors import BudgetSpent, EtuiError, QueueFull
from etui.runtime.turn_request import TurnFailed
from etui.turn.events import TurnFinished

if TYPE_CHECKING:
    from etui.runtime.turn_pool import TurnPool
    from etui.runtime.turn_request import PooledTurn, PoolEvent, TurnRequest
    from etui.turn.record import TurnRecord


@dataclass(slots=True)
class Counts:
    """What has ended of one key, or of all."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Turns by (endpoint, status)."""
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tokens by (model, kind); a kind is ``prompt`` (computed), ``cached``, ``thinking`` or
    ``answer``."""
    joules: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))
    """Measured joules of turns, by model."""
    queued: int = 0  # Turns that have waited and begun
    queue_seconds: float = 0.0  # Their waits together

    def add(self, endpoint: str, record: TurnRecord) -> None:
        """Add a turn that has ended."""
        self.requests[endpoint, record.status] += 1
        parts = [(hop.model, hop.tokens, hop.joules) for hop in record.hops]
        for model, tokens, joules in parts or [(record.model, record.tokens, record.energy.joules)]:
            self.tokens[model, "prompt"] += tokens.computed
            self.tokens[model, "cached"] += tokens.cached
            self.tokens[model, "thinking"] += tokens.thinking
            self.tokens[model, "answer"] += max(tokens.output - tokens.thinking, 0)
            if joules is not None:
                self.joules[model] += joules
        if record.client is not None:
            self.queued += 1
            self.queue_seconds += max(record.client.queue_seconds, 0.0)


class TurnCounters:
    """Counts turns as they end, of all keys and of each; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all = Counts()
        self._of: defaultdict[str, Counts] = defaultdict(Counts)

    def read(self, key: str | None) -> Counts:
        """Return a copy of the counts of a key; None for all keys together."""
        with self._lock:
            return deepcopy(self._all if key is None else self._of[key])

    def submit(
        self, pool: TurnPool, request: TurnRequest, on_event: Callable[[PoolEvent], None]
    ) -> PooledTurn:
        """Queue a turn, and count it when it ends, or when it is not even queued."""
        endpoint = request.client.endpoint if request.client is not None else ""
        key = request.key
        counted = False

        def count(event: PoolEvent) -> None:
            nonlocal counted
            if isinstance(event, TurnFinished):
                counted = True
                self._add_record(key, endpoint, event.record)
            elif isinstance(event, TurnFailed) and not counted:
                self._add_status(key, endpoint, "error")
            on_event(event)

        try:
            return pool.submit(request, count)
        except EtuiError as error:
            full, spent = isinstance(error, QueueFull), isinstance(error, BudgetSpent)
            refusal = "queue_full" if full else "budget_spent" if spent else "refused"
            self._add_status(key, endpoint, refusal)
            raise

    def _add_status(self, key: str, endpoint: str, status: str) -> None:
        with self._lock:
            for counts in (self._all, self._of[key]):
                counts.requests[endpoint, status] += 1

    def _add_record(self, key: str, endpoint: str, record: TurnRecord) -> None:
        with self._lock:
            for counts in (self._all, self._of[key]):
                counts.add(endpoint, record)
