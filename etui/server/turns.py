"""``GET /v1/turns/{id}``: a turn of the log, as ``etui ask --json`` prints it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from etui.server.context import key_name
from etui.server.errors import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.server.context import ServerContext
    from etui.turn.record import TurnRecord

_PREFIXES = ("chatcmpl-", "cmpl-", "resp_")
_TURN_ID = re.compile(r"[0-9A-Za-z]{1,64}")


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""

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
