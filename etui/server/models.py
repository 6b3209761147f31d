"""``GET /v1/models`` and ``/v1/models/{id}``: policies, their arms, and models."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from etui.server.errors import model_not_found, quote
from etui.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from etui.runtime.model_ids import ServedModel
    from etui.server.context import ServerContext


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""

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
