"""``GET /metrics``: the meter and the turns of the server as Prometheus metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from etui.errors import EtuiError
from etui.server.counters import CountedPool
from etui.server.errors import DO_NOT_RETRY, ApiError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

    from etui.energy.recorder import Recorder
    from etui.runtime.turn_request import EnergyBooks, PoolStatus
    from etui.server.context import Pool, ServerContext
    from etui.server.counters import TurnCounts

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Rising:
    """Keeps counters from falling: what is computed again after each reading can vary a little."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._highest: dict[tuple[str, ...], float] = {}

    def keep(self, name: tuple[str, ...], value: float) -> float:
        """Return the highest value so far of a counter."""
        with self._lock:
            highest = max(self._highest.get(name, 0.0), value)
            self._highest[name] = highest
            return highest


class ServerCollector:
    """Gives Prometheus the state of a pool at each scrape.

    A number that is not measured has no sample, never a 0.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rising = Rising()

    def collect(self) -> Iterator[Any]:
        """Yield the current metrics."""
        status = self._pool.status()
        if isinstance(self._pool, CountedPool):
            yield from _build_turn_metrics(self._pool.counters.read())
        yield from _build_state_metrics(status)
        yield from self._build_energy_metrics(status.books)

    def _build_energy_metrics(self, books: EnergyBooks) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        total = CounterMetricFamily(
            "etui_serve_joules",
            "Joules of the machine since the server was started.",
            labels=["kind"],
        )
        if books.total is not None:
            kind = books.kind or ""
            total.add_metric([kind], self._rising.keep(("total",), books.total))
        yield total
        owned = CounterMetricFamily(
            "etui_owned_joules",
            "The same joules by whose they are: turns by model, loads, audits, and idle time.",
            labels=["owner", "model"],
        )
        owners = [("turns", model, joules) for model, joules in books.turns_by_model.items()]
        for owner, model, joules in (
            *owners,
            ("loads", "", books.loads),
            ("idle", "", books.idle),
            ("audits", "", books.audits or None),  # most servers have none
        ):
            if joules is not None:
                owned.add_metric([owner, model], self._rising.keep((owner, model), joules))
        yield owned


def _build_turn_metrics(counts: TurnCounts) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

    requests = CounterMetricFamily(
        "etui_requests", "Requests for an answer that have ended.", labels=["endpoint", "status"]
    )
    for (endpoint, status), count in sorted(counts.requests.items()):
        requests.add_metric([endpoint, status], count)
    yield requests
    tokens = CounterMetricFamily("etui_tokens", "Tokens of ended turns.", labels=["model", "kind"])
    for (model, kind), count in sorted(counts.tokens.items()):
        tokens.add_metric([model, kind], count)
    yield tokens
    yield SummaryMetricFamily(
        "etui_queue_seconds",
        "Seconds that requests waited before their work began.",
        count_value=counts.queued,
        sum_value=counts.queue_seconds,
    )


def _build_state_metrics(status: PoolStatus) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    gauges = (
        ("etui_requests_running", "Requests that are being answered.", status.running),
        ("etui_requests_queued", "Requests that wait.", status.queued),
        ("etui_parallel", "Most requests that are answered at a time.", status.parallel),
        ("etui_queue_limit", "Most requests that may wait.", status.queue_limit),
        ("etui_loading", "1 while a model is being loaded.", int(status.loading is not None)),
        ("etui_accepting", "0 while the server shuts down.", int(status.accepting)),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(name, text, value=value)
    turns = CounterMetricFamily("etui_turns", "Turns that have ended.", labels=["end"])
    turns.add_metric(["finished"], status.finished)
    turns.add_metric(["failed"], status.failed)
    turns.add_metric(["cancelled"], status.cancelled)
    yield turns
    resident = GaugeMetricFamily("etui_model_resident", "Models in memory.", labels=["model"])
    for model in status.residents:
        resident.add_metric([model], 1)
    yield resident


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module for ``etui serve``."""
    return build_metrics_routes(lambda: context.runtime.meter, context.pool)


def build_metrics_routes(
    open_recorder: Callable[[], Recorder], pool: Pool | None = None
) -> list[Route]:
    """Build the route ``/metrics``.

    Args:
        open_recorder: Returns the meter, started, the same one each time.
        pool: The pool whose turns are shown too; None without one.
    """

    @cache
    def open_registry() -> CollectorRegistry:
        from etui.energy.documents import build_registry

        registry = build_registry(open_recorder())
        if pool is not None:
            registry.register(ServerCollector(pool))  # type: ignore[arg-type,unused-ignore]
        return registry

    def format_metrics() -> bytes:
        try:
            registry = open_registry()
        except EtuiError as error:
            raise ApiError(
                501,
                f"{error.what}; run: {error.fix}",
                kind="not_supported_error",
                code="not_supported",
                headers=DO_NOT_RETRY,
            ) from error
        from prometheus_client import generate_latest

        return generate_latest(registry)

    async def show(request: Request) -> Response:
        text = await run_in_threadpool(format_metrics)
        return Response(text, headers={"Cache-Control": "no-store"}, media_type=_CONTENT_TYPE)

    return [Route("/metrics", show)]
