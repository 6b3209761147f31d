"""``POST /v1/responses``: answered by the same code as chat completions, and nothing is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from etui.server.build_request import build_chat_turn, parse_chat
from etui.server.context import key_name, request_id
from etui.server.errors import ApiError
from etui.server.json_body import read_json
from etui.server.responses_form import ResponsesForm
from etui.server.responses_request import parse_response_request
from etui.server.turn_response import TurnResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from etui.runtime.pool.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.server.responses_request import ResponseRequest

PATH = "/v1/responses"


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""

    async def respond(request: Request) -> Response:
        asked = parse_response_request(await read_json(request))
        try:
            body = parse_chat(asked.chat)
            turn = build_chat_turn(
                body,
                context,
                endpoint=PATH,
                key=key_name(request),
                request_id=request_id(request),
            )
        except ApiError as error:
            raise rename_param(error, asked) from None
        return _RenamingResponse(context, turn, asked, body.model)

    return [Route(PATH, respond, methods=["POST"])]


def rename_param(error: ApiError, asked: ResponseRequest) -> ApiError:
    """Return an error that names the parameter as the client did."""
    if error.param is None:
        return error
    param = asked.rename(error.param)
    return ApiError(
        error.status,
        error.message.replace(error.param, param),
        kind=error.kind,
        code=error.code,
        param=param,
        headers=error.headers,
    )


class _RenamingResponse(TurnResponse):
    """A response whose errors name the parameters of this endpoint."""

    def __init__(
        self, context: ServerContext, turn: TurnRequest, asked: ResponseRequest, model: str
    ) -> None:
        form = ResponsesForm(turn.query, model, asked.echo)
        super().__init__(context, turn, form, streamed=asked.stream)
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the turn and send its answer; raises as :class:`TurnResponse` does."""
        try:
            await super().__call__(scope, receive, send)
        except ApiError as error:
            raise rename_param(error, self._asked) from None
