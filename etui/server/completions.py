"""``POST /v1/chat/completions`` and ``POST /v1/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from etui.server.build_request import (
    build_chat_turn,
    build_completion_turn,
    parse_chat,
    parse_completion,
)
from etui.server.chat_form import ChatForm
from etui.server.completion_form import CompletionForm
from etui.server.context import key_name, request_id
from etui.server.json_body import read_json
from etui.server.turn_response import TurnResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from etui.server.context import ServerContext

CHAT_PATH = "/v1/chat/completions"
PATH = "/v1/completions"


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""

    async def complete_chat(request: Request) -> Response:
        body = parse_chat(await read_json(request))
        turn = build_chat_turn(
            body,
            context,
            endpoint=CHAT_PATH,
            key=key_name(request),
            request_id=request_id(request),
        )
        usage = body.stream_options is not None and body.stream_options.include_usage
        form = ChatForm(turn.query, include_usage=usage)
        return TurnResponse(context, turn, form, streamed=body.stream)

    async def complete(request: Request) -> Response:
        body = parse_completion(await read_json(request))
        turn = build_completion_turn(
            body,
            context,
            endpoint=PATH,
            key=key_name(request),
            request_id=request_id(request),
        )
        usage = body.stream_options is not None and body.stream_options.include_usage
        form = CompletionForm(turn.query, include_usage=usage)
        return TurnResponse(context, turn, form, streamed=body.stream)

    return [
        Route(CHAT_PATH, complete_chat, methods=["POST"]),
        Route(PATH, complete, methods=["POST"]),
    ]
