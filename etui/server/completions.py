"""``POST /v1/chat/completions`` and ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.routing import Route

from etui.server.build_request import (
    build_chat_turn,
    build_completion_turn,
    parse_chat,
    parse_completion,
)
from etui.server.chat_form import ChatForm
from etui.server.chat_request import ChatBody, CompletionBody
from etui.server.completion_form import CompletionForm
from etui.server.context import key_name, request_id
from etui.server.json_body import read_json
from etui.server.turn_response import AnswerForm, TurnResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from etui.runtime.pool.turn_request import TurnRequest
    from etui.server.context import ServerContext

B = TypeVar("B", ChatBody, CompletionBody)

CHAT_PATH = "/v1/chat/completions"
PATH = "/v1/completions"


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""
    return [
        _build_route(context, CHAT_PATH, parse_chat, build_chat_turn, ChatForm),
        _build_route(context, PATH, parse_completion, build_completion_turn, CompletionForm),
    ]


def _build_route(
    context: ServerContext,
    path: str,
    parse: Callable[[Mapping[str, Any]], B],
    build_turn: Callable[..., TurnRequest],
    form: Callable[..., AnswerForm],
) -> Route:
    async def complete(request: Request) -> Response:
        body = parse(await read_json(request))
        turn = build_turn(
            body, context, endpoint=path, key=key_name(request), request_id=request_id(request)
        )
        usage = body.stream_options is not None and body.stream_options.include_usage
        return TurnResponse(
            context, turn, form(turn.query, include_usage=usage), streamed=body.stream
        )

    return Route(path, complete, methods=["POST"])
