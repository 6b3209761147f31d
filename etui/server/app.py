"""Build the web applications from their routes: of ``etui serve``, and of a meter alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etui.server import meter, metrics, ollama, ollama_models, routes, tokens
from etui.server.answer import build_answer_route
from etui.server.chat import read_chat
from etui.server.completions import read_completion, read_infill
from etui.server.embeddings import read_embeddings, read_rerank
from etui.server.errors import ApiError, error_response
from etui.server.messages import build_count_route, read_message
from etui.server.responses import read_response

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.energy.recorder import Recorder
    from etui.server.context import ServerContext

_MANAGES_MODELS = {f"/api/{name}" for name in ("pull", "push", "create", "copy", "delete")}
"""What Ollama has for its models, and etui leaves to the command line of the machine."""

DIALECTS = {
    "/v1/chat/completions": read_chat,
    "/v1/completions": read_completion,
    "/infill": read_infill,
    "/v1/responses": read_response,
    "/v1/messages": read_message,
    "/v1/embeddings": read_embeddings,
    "/v1/rerank": read_rerank,
    "/v2/rerank": read_rerank,
    "/rerank": read_rerank,
}
"""Path of an endpoint that answers -> what reads its requests."""


def build_app(context: ServerContext) -> Starlette:
    """Build the application of ``etui serve``."""
    return build_app_with(
        [
            *(build_answer_route(path, read, context) for path, read in DIALECTS.items()),
            build_count_route(context),
            *routes.build_routes(context),
            *ollama.build_routes(context),
            *ollama_models.build_routes(context),
            *tokens.build_routes(context),
            *metrics.build_routes(lambda: context.runtime.meter, context),
            *meter.build_routes(meter.source_of(context)),
        ]
    )


def build_power_app(recorder: Recorder) -> Starlette:
    """Build the application of ``etui power serve``: no model, no pool, no log."""
    source = meter.MeterSource(recorder)

    async def answer_health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return build_app_with(
        [
            *meter.build_routes(lambda: source),
            *metrics.build_routes(lambda: recorder),
            Route("/health", answer_health),
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
    body = request.scope.get("state", {}).get("body")
    if isinstance(error, ApiError) and body is not None:
        await body.leave(error)
    return error_response(error, request.scope)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, code = request.url.path, None
    message = error.detail
    if error.status_code == 404:
        message, code = f"there is no route {request.method} {path}", "not_found"
        if path in _MANAGES_MODELS:
            message = "this server does not load, delete or download models; "
            message += "use `etui models pull`"
    elif error.status_code == 405:
        message, code = f"{path} does not accept {request.method}", "method_not_allowed"
    answered = ApiError(error.status_code, message, code, headers=error.headers)
    return error_response(answered, request.scope)
