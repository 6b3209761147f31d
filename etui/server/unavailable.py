"""Routes of other servers that clients try: they get an error that says what to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etui.server.errors import DO_NOT_RETRY, ApiError, error_response

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.server.context import ServerContext

_NO_MESSAGES = (
    "the Anthropic protocol is not supported; use POST /v1/chat/completions or /v1/responses"
)


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""
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
