"""Build the web application from its routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response

from etui.server import completions, meter, metrics, responses, routes
from etui.server.context import Pool, ServerContext
from etui.server.counters import CountedPool
from etui.server.errors import ApiError, error_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

    from etui.runtime.runtime import Runtime
    from etui.server.context import ServerSettings


def build_app(pool: Pool, runtime: Runtime[Any], settings: ServerSettings) -> Starlette:
    """Build the application.

    Args:
        pool: Runs the turns.
        settings: Whom the server answers, and its limits.
    """
    return build_app_of(ServerContext(pool, runtime, settings))


def build_app_of(context: ServerContext) -> Starlette:
    """Build the application of a context."""
    counted = replace(context, pool=CountedPool(context.pool))
    return build_app_with(
        [
            *completions.build_routes(counted),
            *responses.build_routes(counted),
            *routes.build_listing_routes(counted),
            *routes.build_decision_routes(counted),
            *routes.build_turn_routes(counted),
            *routes.build_health_routes(counted),
            *metrics.build_routes(counted),
            *meter.build_routes(counted),
            *routes.build_unavailable_routes(counted),
        ]
    )


def build_app_with(served: Sequence[Route]) -> Starlette:
    """Build an application of some routes, whose errors have the form of the API."""
    app = Starlette(
        routes=served,
        exception_handlers={
            ApiError: _answer_error,
            HTTPException: _answer_http_error,
            Exception: _answer_error,
        },
    )
    app.router.redirect_slashes = False  # a redirect would be followed with the key
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    return error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"there is no route {request.method} {request.url.path}"
        return error_response(ApiError(404, message, code="not_found"))
    if error.status_code == 405:
        message = f"{request.url.path} does not accept {request.method}"
        headers = error.headers
        return error_response(ApiError(405, message, code="method_not_allowed", headers=headers))
    return error_response(ApiError(error.status_code, error.detail))
