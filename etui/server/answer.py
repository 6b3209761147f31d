"""Answer a request with a turn, streamed or as a whole, in the form of its endpoint.

An endpoint is a dialect of one core: it reads its body into a turn, and writes the parts of the
answer (:mod:`etui.server.deltas`) in a form of its own (:class:`AnswerForm`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from etui.errors import EtuiError
from etui.runtime.turn_request import TurnFailed
from etui.server.deltas import DeltaReader
from etui.server.documents import encode, headers_of, ignored_headers
from etui.server.errors import ApiError, shutting_down, to_api_error
from etui.server.protocol import abort_connection
from etui.server.validation import read_json
from etui.turn.events import TurnFinished
from etui.turn.record import ClientRecord

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from etui.runtime.turn_request import PooledTurn, PoolEvent, TurnRequest
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta
    from etui.turn.record import TurnRecord

_log = logging.getLogger("etui.server")

_MOST_EVENTS = 64
"""Most events that are sent together, so that one fast turn does not hold up the others."""

_FIRST_BYTE_SECONDS = 1.0
"""The headers of a stream wait this long at most for what could still end it with an error."""

_STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_WHOLE_HEADERS = {"content-type": "application/json", "cache-control": "no-store"}


class AnswerForm(ABC):
    """How an endpoint writes one answer.

    Attributes:
        created: When the request came, seconds since 1970.
        turn_id: Id of the turn, which is a part of the response's; set before the first event.
    """

    stream_type = "text/event-stream; charset=utf-8"
    """Content type of a stream."""

    def __init__(self, request: TurnRequest) -> None:
        self.reader = DeltaReader(request.query)
        self.created = int(time.time())
        self.turn_id = ""

    def write(self, delta: Delta) -> bytes:
        """Return the frames of a part of the answer; none where nothing is streamed."""
        return b""

    def end(self, record: TurnRecord) -> bytes:
        """Return the last frames of a stream, with the joules; none where nothing is streamed."""
        return b""

    def fail(self, error: ApiError) -> bytes:
        """Return the last frames of a stream that has failed."""
        return frame(error.document())

    @abstractmethod
    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the response that is not streamed."""

    async def encode_whole(self, record: TurnRecord) -> bytes:
        """Return the bytes of the response that is not streamed."""
        return encode(self.whole(record))

    def join(self, records: Sequence[TurnRecord]) -> TurnRecord:
        """Return the record of the whole response, of whose turns these are the records."""
        return records[0]

    def keep_alive(self) -> bytes:
        """Return what is sent into a silent stream: a comment with the progress; may be empty."""
        text = f": keep-alive {self.reader.progress}".rstrip()
        return f"{text}\n\n".encode()

    def convert(self, error: EtuiError) -> ApiError:
        """Return the error of a turn in the words of the API, and of this dialect."""
        return to_api_error(error)


def frame(document: Mapping[str, Any], kind: str = "") -> bytes:
    """Return a document as one server-sent event, with the name of its kind if it has one."""
    name = f"event: {kind}\n".encode() if kind else b""
    return name + b"data: " + encode(document) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: a turn, and the form of its answer."""

    turn: TurnRequest
    form: AnswerForm
    streamed: bool
    ignored: Sequence[str] = ()
    """Fields that were accepted without an effect: named in a header and in the log of the turn."""
    more: Sequence[tuple[TurnRequest, AnswerForm]] = ()
    """Further turns of the same response, for a list of prompts; the first form joins them."""


Read = Callable[[dict[str, Any], "ServerContext", ClientRecord], Asked]
"""Reads the body of an endpoint; raises ``ApiError`` where it asks for what is not supported."""


def build_answer_route(path: str, read: Read, context: ServerContext) -> Route:
    """Build the route of an endpoint that answers."""

    async def answer(request: Request) -> Response:
        return await respond(request, await read_json(request), read, context)

    return Route(path, answer, methods=["POST"])


async def respond(
    request: Request, document: dict[str, Any], read: Read, context: ServerContext
) -> Response:
    """Return the response to a request whose body was parsed to a document."""
    asked = await request.state.body.call(read, document, context, client_of(request))
    return TurnResponse(context, asked)


def client_of(request: Request) -> ClientRecord:
    """Return who sent a request; the name of the key is empty without keys."""
    state: Mapping[str, str] = request.scope.get("state", {})
    path: str = request.scope["path"]
    return ClientRecord(path, state.get("key_name", ""), state.get("request_id", ""))


class TurnResponse(Response):
    """A response with the answer of a turn.

    A stream begins with the first text, or after a second without any, and is never silent for more
    than ``keep_alive_seconds``. A request that fails before that (its prompt is too long) is
    answered with the status of its error, as is every one that is not streamed.
    """

    def __init__(self, context: ServerContext, asked: Asked) -> None:
        super().__init__()
        self._context = context
        self._turns = [asked.turn, *(turn for turn, _ in asked.more)]
        self._form = asked.form
        self._forms = [asked.form, *(form for _, form in asked.more)]
        self._streamed = asked.streamed
        self._ignored = ignored_headers(asked.ignored)
        for names in self._ignored.values():
            settings = {**asked.turn.settings, "ignored": names}
            self._turns = [replace(turn, settings=settings) for turn in self._turns]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the turn and send its answer; end the turn if the client leaves.

        ApiError if the turn failed before the first byte, ClientDisconnect if the client has left
        or is not waited for any more.
        """
        try:
            stream = _TurnStream(self._context, self._turns, speaks=self._streamed)
            watch = asyncio.create_task(stream.wait_for_leaving(receive))
            try:
                await self._send_answer(stream, send)
            finally:
                watch.cancel()
                stream.close()
        except EtuiError as error:
            raise self._form.convert(error) from error
        except _ReaderStalled:
            abort_connection(scope)

    async def _send_answer(self, stream: _TurnStream, send: Send) -> None:
        form, started = self._form, False
        for each in self._forms:
            each.turn_id = stream.turns[0].turn_id
        records: dict[int, TurnRecord] = {}
        async for batch in stream.batches():
            parts: list[bytes] = []
            record: TurnRecord | None = None
            failure: ApiError | None = None
            for index, event in batch:
                each = self._forms[index]
                parts += map(each.write, each.reader.add(event))
                failure = failure or self._find_failure(event)
                if isinstance(event, TurnFinished) and event.record.status != "error":
                    records[index] = event.record
                    _warn_of_dropped(event.record)
            if len(records) == len(self._forms):
                record = form.join([records[index] for index in sorted(records)])
            if failure is not None and not started:
                raise failure
            headers = _STREAM_HEADERS | {"content-type": form.stream_type}
            if failure is not None:
                parts.append(form.fail(failure))
            elif self._streamed:
                parts += [] if record is None else [form.end(record)]
                if not any(parts):
                    if not stream.is_silent:
                        continue
                    parts = [form.keep_alive()]
            elif record is None:
                continue
            else:
                parts = [await form.encode_whole(record)]
                headers = _WHOLE_HEADERS | {"content-length": str(len(parts[0]))}
            if not started:
                shown = None if self._streamed else record
                known = headers_of(form.reader.decision, shown, form.reader.prefilled)
                headers = headers | known | self._ignored
                raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                started = True
            more = record is None and failure is None
            body = b"".join(parts)
            await send({"type": "http.response.body", "body": body, "more_body": more})
            if failure is not None:
                return
            stream.note_sent()

    def _find_failure(self, event: PoolEvent) -> ApiError | None:
        """Return the error with which an event ends its turn; None if it does not."""
        if isinstance(event, TurnFailed):
            return self._form.convert(event.error)
        if isinstance(event, TurnFinished) and event.record.status == "stopped":
            return shutting_down()
        return None


def _warn_of_dropped(record: TurnRecord) -> None:
    """Tell the owner what was left out: a stream has begun before its headers could say it."""
    if dropped := record.settings.get("dropped_messages"):
        text = "turn %s: the oldest messages (%d) did not fit the context of %s and were left out"
        _log.warning(text, record.turn_id, dropped, record.model)


class _ReaderStalled(Exception):
    """More events wait than a client may leave unread."""


class _TurnStream:
    """Runs the turns of a response and gives their events to one client.

    Several turns begin as the pool has room for them, so that they do not fill its queue. With
    ``speaks`` the client is sent something while nothing happens. EtuiError if the turn is not
    accepted.
    """

    def __init__(
        self, context: ServerContext, requests: Sequence[TurnRequest], *, speaks: bool
    ) -> None:
        self._context = context
        self._requests = requests
        self._settings = context.settings
        self._loop = asyncio.get_running_loop()
        self._speaks = speaks
        self._due = self._loop.time() + min(_FIRST_BYTE_SECONDS, self._settings.keep_alive_seconds)
        self._lock = Lock()
        self._events: deque[tuple[int, PoolEvent]] = deque()
        self._waking = False
        self._wake = asyncio.Event()
        self._left = self._stalled = self._ended = False
        self.turns: list[PooledTurn] = []
        self._running = 0
        self._submit_next()
        if len(requests) > 1:
            for _ in range(min(len(requests), context.pool.status().parallel) - 1):
                self._submit_next()

    def _submit_next(self) -> None:
        index = len(self.turns)
        take = partial(self._take, index)
        try:
            turn = self._context.counters.submit(self._context.pool, self._requests[index], take)
        except EtuiError as error:
            if not self.turns:
                raise
            take(TurnFailed(error))
            return
        self.turns.append(turn)
        self._running += 1

    async def batches(self) -> AsyncIterator[Sequence[tuple[int, PoolEvent]]]:
        """Yield the events since the last time, each with the number of its turn.

        An empty batch means that something has to be sent. ClientDisconnect if the client has left.
        """
        while not self._ended:
            events = self._drain()
            if not events:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._due if self._speaks else None):
                        await self._wake.wait()
                self._wake.clear()
                events = self._drain()
            if self._left:
                raise ClientDisconnect
            if self._stalled:
                raise _ReaderStalled
            if events or self.is_silent:
                yield events

    @property
    def is_silent(self) -> bool:
        return self._speaks and self._loop.time() >= self._due

    def note_sent(self) -> None:
        self._due = self._loop.time() + self._settings.keep_alive_seconds

    async def wait_for_leaving(self, receive: Receive) -> None:
        """Wait until the client leaves; a response that is not streamed would not notice."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self.close()
        self._wake.set()

    def close(self) -> None:
        """End the turns within one batch, if they still run; they are saved like any other."""
        if not self._ended:
            for turn in self.turns:
                turn.cancel()

    def _take(self, index: int, event: PoolEvent) -> None:
        """Take an event, on the thread of the turn, which never waits for the client."""
        with self._lock:
            if self._stalled:
                return
            if len(self._events) >= self._settings.event_limit:
                self._stalled = True
                self._events.clear()
            else:
                self._events.append((index, event))
            wake, self._waking = not self._waking, True
        with suppress(RuntimeError):  # the loop has ended with the server; the turn is saved
            if self._stalled:
                self._loop.call_soon_threadsafe(self.close)
            if wake:
                self._loop.call_soon_threadsafe(self._wake.set)

    def _drain(self) -> Sequence[tuple[int, PoolEvent]]:
        with self._lock:
            count = min(len(self._events), _MOST_EVENTS)
            events = tuple(self._events.popleft() for _ in range(count))
            self._waking = False
        for _, event in events:
            if not _is_last(event):
                continue
            self._running -= 1
            if isinstance(event, TurnFailed):
                self._ended = True
            elif len(self.turns) < len(self._requests) and not self._left:
                self._submit_next()
            elif not self._running:
                self._ended = True
        return events


def _is_last(event: PoolEvent) -> bool:
    """Return whether no event follows; the record of a failed turn is followed by its error."""
    if isinstance(event, TurnFinished):
        return event.record.status != "error"
    return isinstance(event, TurnFailed)
