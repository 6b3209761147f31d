"""``GET /metrics``: the meter and the turns of the server as Prometheus metrics.

The counts of the turns that a server has run only ever rise.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from etui.errors import BudgetSpent, EtuiError, QueueFull
from etui.runtime.turn_request import EnergyBooks, TurnFailed
from etui.server.answer import client_of
from etui.server.errors import DO_NOT_RETRY, ApiError
from etui.turn.events import TurnFinished

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

    from etui.energy.recorder import Recorder
    from etui.runtime.turn_pool import TurnPool
    from etui.runtime.turn_request import PooledTurn, PoolEvent, PoolStatus, TurnRequest
    from etui.server.context import ServerContext
    from etui.turn.record import TurnRecord

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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

    def add(self, endpoint: str, record: TurnRecord | str) -> None:
        """Add a turn that has ended, or the status of one that has no record."""
        if isinstance(record, str):
            self.requests[endpoint, record] += 1
            return
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
                self._add(key, endpoint, event.record)
            elif isinstance(event, TurnFailed) and not counted:
                self._add(key, endpoint, "error")
            on_event(event)

        try:
            return pool.submit(request, count)
        except EtuiError as error:
            full, spent = isinstance(error, QueueFull), isinstance(error, BudgetSpent)
            refusal = "queue_full" if full else "budget_spent" if spent else "refused"
            self._add(key, endpoint, refusal)
            raise

    def _add(self, key: str, endpoint: str, record: TurnRecord | str) -> None:
        with self._lock:
            for counts in (self._all, self._of[key]):
                counts.add(endpoint, record)


class _ServerCollector:
    """Gives Prometheus the state of a server at each scrape.

    Of one key it has the turns alone: what the others and the server have spent is not its concern.
    A number that is not measured has no sample, never a 0. Joules that are computed again after
    each reading can vary a little, and a counter must not fall: the highest value is kept.
    """

    def __init__(self, context: ServerContext, key: str | None) -> None:
        self._context = context
        self._key = key
        self._lock = threading.Lock()
        self._highest: dict[tuple[str, ...], float] = {}

    def collect(self) -> Iterator[Any]:
        """Yield the current metrics."""
        status, counts = self._context.pool.status(), self._context.counters.read(self._key)
        yield from _build_turn_metrics(counts)
        yield from _build_state_metrics(status)
        if self._key is None:
            yield from _build_load_metrics(status)
            yield from self._build_energy_metrics(status.books)
        else:
            of_key = EnergyBooks(None, None, None, None, turns_by_model=counts.joules, audits=None)
            yield from self._build_energy_metrics(of_key)

    def _keep_highest(self, name: tuple[str, ...], value: float) -> float:
        with self._lock:
            self._highest[name] = max(self._highest.get(name, 0.0), value)
            return self._highest[name]

    def _build_energy_metrics(self, books: EnergyBooks) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        text = "Joules of the machine since the server was started."
        total = CounterMetricFamily("etui_serve_joules", text, labels=["kind"])
        if books.total is not None:
            total.add_metric([books.kind or ""], self._keep_highest(("total",), books.total))
        yield total
        text = "The same joules by whose they are: turns by model, loads, audits, and idle time."
        owned = CounterMetricFamily("etui_owned_joules", text, labels=["owner", "model"])
        for owner, model, joules in (
            *(("turns", model, joules) for model, joules in books.turns_by_model.items()),
            ("loads", "", books.loads),
            ("idle", "", books.idle),
            ("audits", "", books.audits or None),  # most servers have none
        ):
            if joules is not None:
                owned.add_metric([owner, model], self._keep_highest((owner, model), joules))
        yield owned


def _build_turn_metrics(counts: Counts) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

    text = "Requests for an answer that have ended."
    requests = CounterMetricFamily("etui_requests", text, labels=["endpoint", "status"])
    for labels, count in sorted(counts.requests.items()):
        requests.add_metric(list(labels), count)
    yield requests
    tokens = CounterMetricFamily("etui_tokens", "Tokens of ended turns.", labels=["model", "kind"])
    for labels, count in sorted(counts.tokens.items()):
        tokens.add_metric(list(labels), count)
    yield tokens
    yield SummaryMetricFamily(
        "etui_queue_seconds",
        "Seconds that requests waited before their work began.",
        count_value=counts.queued,
        sum_value=counts.queue_seconds,
    )


def _build_state_metrics(status: PoolStatus) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    gauges = (
        ("etui_parallel", "Most requests that are answered at a time.", status.parallel),
        ("etui_queue_limit", "Most requests that may wait.", status.queue_limit),
        ("etui_loading", "1 while a model is being loaded.", int(status.loading is not None)),
        ("etui_accepting", "0 while the server shuts down.", int(status.accepting)),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(name, text, value=value)
    resident = GaugeMetricFamily("etui_model_resident", "Models in memory.", labels=["model"])
    for model in status.residents:
        resident.add_metric([model], 1)
    yield resident


def _build_load_metrics(status: PoolStatus) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    text = "Requests that are being answered."
    yield GaugeMetricFamily("etui_requests_running", text, value=status.running)
    yield GaugeMetricFamily("etui_requests_queued", "Requests that wait.", value=status.queued)
    turns = CounterMetricFamily("etui_turns", "Turns that have ended.", labels=["end"])
    for end in ("finished", "failed", "cancelled"):
        turns.add_metric([end], getattr(status, end))
    yield turns


def build_routes(
    open_recorder: Callable[[], Recorder], context: ServerContext | None = None
) -> list[Route]:
    """Build the route ``/metrics``; a key that is no admin's sees the turns of its own.

    ``open_recorder`` returns the meter, started, the same one each time.
    """

    @cache
    def open_registry(key: str | None) -> CollectorRegistry:
        from etui.energy.documents import build_registry

        registry = build_registry(open_recorder())
        if context is not None:
            registry.register(_ServerCollector(context, key))  # type: ignore[arg-type,unused-ignore]
        return registry

    def format_metrics(key: str | None) -> bytes:
        try:
            registry = open_registry(key)
        except EtuiError as error:
            text = f"{error.what}; run: {error.fix}"
            raise ApiError(501, text, "not_supported", headers=DO_NOT_RETRY) from error
        from prometheus_client import generate_latest

        return generate_latest(registry)

    async def show(request: Request) -> Response:
        key = client_of(request).key
        sees_all = context is None or context.settings.sees_all(key)
        text = await run_in_threadpool(format_metrics, None if sees_all else key)
        return Response(text, headers={"Cache-Control": "no-store"}, media_type=_CONTENT_TYPE)

    return [Route("/metrics", show)]
