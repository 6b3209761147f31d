"""``POST /v1/responses``: answered by the same code as chat completions, and nothing is stored."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from etui.server.build_request import build_chat_turn, parse_chat
from etui.server.context import key_name, request_id
from etui.server.deltas import DeltaReader
from etui.server.documents import encode
from etui.server.errors import ApiError
from etui.server.event_stream import energy_comment
from etui.server.responses_events import ResponseEvents
from etui.server.responses_output import build_items, ended_document, started_document
from etui.server.responses_request import parse_response_request
from etui.server.turn_response import TurnResponse
from etui.server.validation import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from etui.chat import Query
    from etui.runtime.turn_request import PoolEvent, TurnRequest
    from etui.server.context import ServerContext
    from etui.server.errors import ApiError
    from etui.server.responses_events import StreamEvent
    from etui.server.responses_request import ResponseRequest
    from etui.turn.record import TurnRecord


class ResponsesForm:
    """The response to one request.

    Args:
        model: The model as the client named it, until it is known which one answers.
    """

    def __init__(self, query: Query, model: str, echo: Mapping[str, Any]) -> None:
        self._reader = DeltaReader(query)
        self._model = model
        self._echo = echo
        self._created_at = int(time.time())
        self._turn_id = ""
        self._events: ResponseEvents | None = None

    def begin(self, turn_id: str) -> None:
        """Note the id of the turn, which is a part of the response's."""
        self._turn_id = turn_id

    def add(self, event: PoolEvent) -> bytes:
        """Take an event; return the frames that it causes, the first events before the first."""
        deltas = tuple(self._reader.add(event))
        if not deltas:
            return b""
        opening = b""
        if self._events is None:
            opening = self._open()
        assert self._events is not None
        return opening + b"".join(_frames(self._events.take(delta)) for delta in deltas)

    def end(self, record: TurnRecord) -> bytes:
        """Return the last events. The joules come before them: at the last one, clients leave."""
        opening = self._open() if self._events is None else b""
        assert self._events is not None
        *items, last = self._events.end(record)
        return opening + _frames(items) + energy_comment(record) + _frames([last])

    def fail(self, error: ApiError) -> bytes:
        """Return the last events of a stream that has failed."""
        opening = self._open() if self._events is None else b""
        assert self._events is not None
        return opening + _frames(self._events.fail(error.message))

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        started = started_document(self._turn_id, self._created_at, record.model, self._echo)
        document = ended_document(started, record, [])
        status = "completed" if document["status"] == "completed" else "incomplete"
        items = build_items(record, self._reader.logprobs, self._reader.whole_text(record))
        return document | {"output": [item.document(status) for item in items]}

    def _open(self) -> bytes:
        model = self._reader.model or self._model
        self._events = ResponseEvents(self._turn_id, self._created_at, model, self._echo)
        return _frames(self._events.begin())


def _frames(events: Iterable[StreamEvent]) -> bytes:
    """Return events as server-sent events, each with its type as its name."""
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"
        for event in events
    )


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
