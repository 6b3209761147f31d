"""``POST /v1/route``: which arm would answer, and why, without an answer."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from etui.errors import EtuiError
from etui.server.build_request import build_chat_turn, parse_chat
from etui.server.context import key_name, request_id
from etui.server.errors import to_api_error
from etui.server.json_body import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext

PATH = "/v1/route"


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""

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
