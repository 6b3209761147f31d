"""The routes besides answers: health, models, decisions, logged turns, and refusals."""

from __future__ import annotations

import re
import time
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etui.errors import EtuiError
from etui.server.build_request import build_chat_turn, parse_chat
from etui.server.context import key_name, request_id
from etui.server.errors import (
    DO_NOT_RETRY,
    ApiError,
    error_response,
    model_not_found,
    quote,
    to_api_error,
)
from etui.server.validation import read_json
from etui.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from etui.runtime.model_ids import ServedModel
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.turn.record import TurnRecord


_NO_MESSAGES = (
    "the Anthropic protocol is not supported; use POST /v1/chat/completions or /v1/responses"
)


def build_unavailable_routes(context: ServerContext) -> list[Route]:
    """Build routes of other servers that clients try: their errors say what to use instead."""
    return [
        Route("/v1/messages", _answer_messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", _answer_messages, methods=["POST"]),
        Route("/v1/embeddings", _answer_embeddings, methods=["POST"]),
    ]


async def _answer_messages(request: Request) -> Response:
    """Answer in the form of Anthropic's errors, with the keys of OpenAI's in it."""
    error = {
        "type": "not_found_error",
        "message": _NO_MESSAGES,
        "param": None,
        "code": "not_found",
    }
    return JSONResponse({"type": "error", "error": error}, status_code=404)


async def _answer_embeddings(request: Request) -> Response:
    return error_response(
        ApiError(
            501,
            "embeddings are not supported: etui runs no embedding models",
            kind="not_supported_error",
            code="not_supported",
            headers=DO_NOT_RETRY,
        )
    )


_PREFIXES = ("chatcmpl-", "cmpl-", "resp_")

_TURN_ID = re.compile(r"[0-9A-Za-z]{1,64}")


def build_turn_routes(context: ServerContext) -> list[Route]:
    """Build ``GET /v1/turns/{id}``: a logged turn of the key that asked for it."""

    async def show(request: Request) -> JSONResponse:
        turn_id = parse_turn_id(request.path_params["turn_id"])
        record = None
        if turn_id is not None:
            record = await run_in_threadpool(context.pool.find_turn, turn_id)
        if record is None or not may_see(record, key_name(request)):
            raise ApiError(
                404,
                "there is no turn with this id that this key asked for, or it has not ended yet",
                code="turn_not_found",
                param="id",
            )
        return JSONResponse(turn_document(record))

    return [Route("/v1/turns/{turn_id}", show)]


def parse_turn_id(text: str) -> str | None:
    """Return the id of a turn from that of a response (``chatcmpl-…``); None if it is none."""
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text if _TURN_ID.fullmatch(text) else None


def may_see(record: TurnRecord, key: str) -> bool:
    """Return whether a key may see a turn: only if it asked for it itself.

    Turns of other front ends (the app, ``etui ask``) are never shown, with or without keys.
    """
    return record.client is not None and record.client.key == key


def turn_document(record: TurnRecord) -> dict[str, Any]:
    """Build the document of ``etui ask --json``."""
    return record.to_json()


PATH = "/v1/route"


def build_decision_routes(context: ServerContext) -> list[Route]:
    """Build ``POST /v1/route``: which arm would answer, and why, without an answer."""

    async def decide(request: Request) -> JSONResponse:
        turn = build_chat_turn(
            parse_chat(await read_json(request)),
            context,
            endpoint=PATH,
            key=key_name(request),
            request_id=request_id(request),
        )
        try:
            return JSONResponse(await run_in_threadpool(explain_turn, turn, context))
        except EtuiError as error:
            raise to_api_error(error) from error

    return [Route(PATH, decide, methods=["POST"])]


def explain_turn(turn: TurnRequest, context: ServerContext) -> dict[str, Any]:
    """Decide as for an answer, and build the document of ``etui policy explain --json``.

    Only the name of the policy's file is shown, not its folder.

    Raises:
        EtuiError: As in :func:`etui.runtime.decide.choose`.
    """
    from etui.runtime.explain import explain_choice

    choice = context.pool.decide(turn)
    document = dict(explain_choice(turn.query, choice, context.runtime, turn.overrides.policy))
    file = document["policy_file"]
    return document | {"policy_file": None if file is None else PurePath(str(file)).name}


def build_listing_routes(context: ServerContext) -> list[Route]:
    """Build ``GET /v1/models`` and ``/v1/models/{id}``: policies, their arms, and models."""

    def read_models() -> Sequence[ServedModel]:
        from etui.runtime.model_ids import list_model_ids

        return list_model_ids(context.runtime, context.pool.status().residents)

    return build_model_routes(read_models)


def build_model_routes(read_models: Callable[[], Sequence[ServedModel]]) -> list[Route]:
    """Build the routes over a list of models.

    Args:
        read_models: Reads what clients may name; it may wait for the disk.
    """
    created = int(time.time())

    async def list_models(request: Request) -> JSONResponse:
        models = await run_in_threadpool(read_models)
        return JSONResponse(
            {"object": "list", "data": [model_document(model, created) for model in models]}
        )

    async def show_model(request: Request) -> JSONResponse:
        wanted = request.path_params["model_id"]
        models = await run_in_threadpool(read_models)
        for model in models:
            if model.id == wanted:
                return JSONResponse(model_document(model, created))
        shown = quote(wanted)
        raise model_not_found(
            f"there is no model {shown!r}{did_you_mean(shown, [model.id for model in models])}"
        )

    return [
        Route("/v1/models", list_models),
        Route("/v1/models/{model_id:path}", show_model),
    ]


def model_document(model: ServedModel, created: int) -> dict[str, Any]:
    """Build the document of a model.

    Args:
        model: The policy, arm or model.
        created: When the server was started, seconds since 1970: OpenAI's form wants a time.
    """
    return {
        "id": model.id,
        "object": "model",
        "created": created,
        "owned_by": model.backend or "etui",
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


def build_health_routes(context: ServerContext) -> list[Route]:
    """Build ``GET /health``, which needs no key and says nothing of the machine."""

    async def health(request: Request) -> JSONResponse:
        status = context.pool.status()
        if not status.accepting:
            return JSONResponse(
                {"status": "shutting_down"}, status_code=503, headers={"Retry-After": "5"}
            )
        loading = status.loading is not None
        return JSONResponse({"status": "loading" if loading else "ok", "loading": loading})

    return [Route("/health", health)]
