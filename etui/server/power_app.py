"""The meter alone over HTTP, as ``etui power serve`` runs it: no model, no pool, no log."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

from etui.server.app import build_app_with
from etui.server.meter import MeterSource, build_meter_routes
from etui.server.metrics import build_metrics_routes
from etui.server.run import GuardedServer, run_until_stopped

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from etui.energy.recorder import Recorder
    from etui.server.context import ServerSettings


def build_power_app(recorder: Recorder) -> Starlette:
    """Build the application of a meter."""
    source = MeterSource(recorder)
    return build_app_with(
        [
            *build_meter_routes(lambda: source),
            *build_metrics_routes(lambda: recorder),
            Route("/health", _answer_health),
        ]
    )


def serve_meter(
    recorder: Recorder,
    settings: ServerSettings,
    sockets: Sequence[socket.socket],
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Serve a meter until a signal stops it.

    Args:
        settings: Whom the server answers; its port is the one that is bound.
        sockets: What it listens on; closed at the end.
    """
    server = GuardedServer(build_power_app(recorder), settings, on_started)
    run_until_stopped(server, sockets, settings)


async def _answer_health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})
