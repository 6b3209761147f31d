"""Build the web applications from their routes: of ``etui serve``, and of a meter alone.

The routes besides answers are here: health, models, decisions, logged turns, and refusals.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from etui.errors import EtuiError
from etui.server import meter, metrics, ollama, tokens
from etui.server.answer import build_answer_route, client_of
from etui.server.completions import read_chat, read_completion, read_infill
from etui.server.embeddings import read_embeddings, read_rerank
from etui.server.errors import ApiError, error_response, model_not_found, quote, to_api_error
from etui.server.messages import build_count_route, read_message
from etui.server.responses import read_response
from etui.server.validation import read_json
from etui.text import did_you_mean

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.energy.recorder import Recorder
    from etui.runtime.model_ids import ServedModel
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext

_TURN_ID = re.compile(r"(?:chatcmpl-|cmpl-|resp_|msg_)?([0-9A-Za-z]{1,64})")
"""The id of a turn, or of a response with its prefix."""

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
            *build_routes(context),
            *ollama.build_routes(context),
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


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes besides answers."""
    created = int(time.time())  # when the server was started: OpenAI's form wants a time

    def read_models() -> dict[str, dict[str, Any]]:
        """Read what clients may name (policies, their arms, and models) from the disk."""
        from etui.runtime.model_ids import list_model_ids

        models = list_model_ids(context.runtime, context.pool.status().residents)
        return {model.id: _build_model(model, created) for model in models}

    async def list_models(request: Request) -> JSONResponse:
        models = await run_in_threadpool(read_models)
        listed = list(models.values())
        ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {}
        return JSONResponse({"object": "list", "data": listed, "has_more": False, **ends})

    async def show_model(request: Request) -> JSONResponse:
        models, wanted = await run_in_threadpool(read_models), request.path_params["model_id"]
        if wanted not in models:
            from etui.runtime.model_ids import find_alias

            listed = [name for name, model in models.items() if model["meta"]["kind"] == "alias"]
            alias = find_alias(wanted, listed)
            if alias is not None:
                return JSONResponse(models[alias] | {"id": wanted})
            shown = quote(wanted)
            near = did_you_mean(shown, list(models))
            raise model_not_found(f"there is no model {shown!r}{near}")
        return JSONResponse(models[wanted])

    async def health(request: Request) -> JSONResponse:
        """Answer without a key, and say nothing of the machine."""
        status = context.pool.status()
        if not status.accepting:
            wait = {"Retry-After": "5"}
            return JSONResponse({"status": "shutting_down"}, status_code=503, headers=wait)
        loading = status.loading is not None
        document: dict[str, Any] = {
            "status": "loading" if loading else "ok",
            "loading": loading,
            "unsaved_records": status.unsaved,
        }
        if (step := status.long_step) is not None:
            document["status"] = "degraded"
            document |= {"step": step.name, "seconds": round(step.seconds, 1)}
        return JSONResponse(document)

    async def decide(request: Request) -> JSONResponse:
        """Show which arm would answer a chat completion, and why, without an answer."""
        asked = await request.state.body.call(
            read_chat, await read_json(request), context, client_of(request)
        )
        try:
            document = await run_in_threadpool(_explain, asked.turn, context)
        except EtuiError as error:
            raise to_api_error(error) from error
        if not context.settings.sees_all(client_of(request).key):
            document["fit"] = None  # how it fares is read from the questions of all keys
        return JSONResponse(document)

    async def show_turn(request: Request) -> JSONResponse:
        """Show a logged turn of the key that asked for it, never one of another front end."""
        found = _TURN_ID.fullmatch(request.path_params["turn_id"])
        record = None
        if found is not None:
            record = await run_in_threadpool(context.pool.find_turn, found[1])
        key, admins = client_of(request).key, context.settings.admins
        if record is None or record.client is None or key not in (record.client.key, *admins):
            text = "there is no turn with this id that this key asked for, or it has not ended yet"
            raise ApiError(404, text, "turn_not_found", "id")
        return JSONResponse(record.to_json())

    return [
        Route("/v1/models", list_models),
        Route("/v1/models/{model_id:path}", show_model),
        Route("/v1/route", decide, methods=["POST"]),
        Route("/v1/turns/{turn_id}", show_turn),
        Route("/health", health),
        Route("/", _answer_root),
    ]


def _build_model(model: ServedModel, created: int) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": created,
        "owned_by": model.backend or "etui",
        # The keys of Anthropic's form, whose clients ask at the same path.
        "type": "model",
        "display_name": model.id,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat(),
        "meta": {
            "kind": model.kind,
            "description": model.description,
            "context": model.context_tokens,
            "resident": model.resident,
            "joules_per_token": model.joules_per_token,
            "joules_per_token_source": model.joules_source or None,
            "backend": model.backend,
        },
    }


def _explain(turn: TurnRequest, context: ServerContext) -> dict[str, Any]:
    from etui.runtime.explain import explain_choice

    choice = context.pool.decide(turn)
    document = dict(explain_choice(turn.query, choice, context.runtime, turn.overrides.policy))
    file = document["policy_file"]
    return document | {"policy_file": None if file is None else PurePath(str(file)).name}


async def _answer_root(request: Request) -> Response:
    """Answer clients that look whether a server is there; it says nothing of the machine."""
    return PlainTextResponse("etui is running; see /v1/models\n")
