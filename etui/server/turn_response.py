"""Answer a request with a turn, streamed or as a whole, in the form of its endpoint."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from etui.errors import EtuiError
from etui.runtime.turn_request import TurnFailed
from etui.server.documents import encode, headers_of
from etui.server.errors import ApiError, shutting_down, to_api_error
from etui.server.protocol import abort_connection
from etui.turn.events import Decided, TurnFinished

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from etui.routing.decision import Decision
    from etui.runtime.turn_request import PoolEvent, RunningTurn, TurnRequest
    from etui.server.context import ServerContext, Timer
    from etui.turn.record import TurnRecord


_MOST_EVENTS = 64
"""Most events that are sent together, so that one fast turn does not hold up the others."""


class ReaderStalled(Exception):
    """The client does not read what it is sent."""


class TurnStream:
    """Runs a turn and gives its events to one client.

    As a context manager it queues the turn, and ends it at the exit if it is still running. A task
    waits for the client to leave meanwhile, since a response that is sent as a whole would not
    notice.

    Args:
        receive: Receives the messages of the client, its whole body already read.

    Raises:
        QueueFull: Too many requests wait already.
    """

    def __init__(self, context: ServerContext, request: TurnRequest, receive: Receive) -> None:
        self._context = context
        self._request = request
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._events: deque[PoolEvent] = deque()
        self._waking = False
        self._wake = asyncio.Event()
        self._silent = False
        self._left = False
        self._stalled = False
        self._ended = False
        self._timer: Timer | None = None
        self._turn: RunningTurn | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def turn_id(self) -> str:
        """Id of the turn."""
        assert self._turn is not None, "the turn is queued at the entry of the context"
        return self._turn.turn_id

    async def __aenter__(self) -> TurnStream:
        self._turn = self._context.pool.submit(self._request, self._take)
        self._watch = self._loop.create_task(self._wait_for_leaving())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._stop_timer()
        if not self._ended:
            self.cancel()

    def cancel(self) -> None:
        """End the turn within one batch; it is saved like any other."""
        if self._turn is not None:
            self._turn.cancel()

    async def batches(self) -> AsyncIterator[Sequence[PoolEvent]]:
        """Yield the events that have come since the last time, until the turn has ended.

        An empty batch means that there were none for ``keep_alive_seconds``.

        Raises:
            ClientDisconnect: The client has left.
            ReaderStalled: More events wait than a client may leave unread.
        """
        while not self._ended:
            events = self._drain()
            if not events and not self._silent:
                self._start_timer()
                await self._wake.wait()
                self._wake.clear()
                self._stop_timer()
                events = self._drain()
            self._raise_if_over()
            if events or self._silent:
                self._silent = False
                yield events

    async def events(self) -> AsyncIterator[PoolEvent]:
        """Yield the events of the turn one by one, without silences; raises as ``batches``."""
        async for batch in self.batches():
            for event in batch:
                yield event

    def _raise_if_over(self) -> None:
        if self._left:
            raise ClientDisconnect
        if self._stalled:
            raise ReaderStalled

    def _take(self, event: PoolEvent) -> None:
        """Take an event, on the thread of the turn, which never waits for the client."""
        with self._lock:
            if self._stalled:
                return
            if len(self._events) >= self._context.settings.event_limit:
                self._stalled = True
                self._events.clear()
            else:
                self._events.append(event)
            wake, self._waking = not self._waking, True
        with suppress(RuntimeError):  # the loop has ended with the server; the turn is saved
            if self._stalled:
                self._loop.call_soon_threadsafe(self.cancel)
            if wake:
                self._loop.call_soon_threadsafe(self._wake.set)

    def _drain(self) -> Sequence[PoolEvent]:
        with self._lock:
            count = min(len(self._events), _MOST_EVENTS)
            events = tuple(self._events.popleft() for _ in range(count))
            self._waking = False
        if events and _is_last(events[-1]):
            self._ended = True
        return events

    async def _wait_for_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self.cancel()
        self._wake.set()

    def _start_timer(self) -> None:
        seconds = self._context.settings.keep_alive_seconds
        self._timer = self._context.call_later(seconds, self._note_silence)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note_silence(self) -> None:
        self._silent = True
        self._wake.set()


def _is_last(event: PoolEvent) -> bool:
    """Return whether no event follows; the record of a failed turn is followed by its error."""
    if isinstance(event, TurnFinished):
        return event.record.status != "error"
    return isinstance(event, TurnFailed)


KEEP_ALIVE = b": keep-alive\n\n"
"""A comment of server-sent events, which clients skip."""

_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}
_WHOLE_HEADERS = {"content-type": "application/json", "cache-control": "no-store"}


class AnswerForm(Protocol):
    """The form of an endpoint's responses; one object a request."""

    def begin(self, turn_id: str) -> None:
        """Note the id of the turn."""

    def add(self, event: PoolEvent) -> bytes:
        """Take an event of the turn; return the frames of the stream that it causes."""

    def end(self, record: TurnRecord) -> bytes:
        """Return the last frames of a stream, with the joules."""

    def fail(self, error: ApiError) -> bytes:
        """Return the last frames of a stream that has failed."""

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the response that is not streamed."""


class TurnResponse(Response):
    """A response with the answer of a turn.

    The first byte is sent with the first text, or after ``keep_alive_seconds`` without any. So a
    request that fails before that (its prompt is too long, its model cannot be loaded) is answered
    with the status of its error, streamed or not.

    Args:
        turn: The turn that the client asks for.
    """

    def __init__(
        self, context: ServerContext, turn: TurnRequest, form: AnswerForm, *, streamed: bool
    ) -> None:
        super().__init__()
        self._context = context
        self._turn = turn
        self._form = form
        self._streamed = streamed
        self._decision: Decision | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the turn and send its answer.

        Raises:
            ApiError: The turn failed before the first byte.
            ClientDisconnect: The client has left.
        """
        sender = _Sender(send, self._context.settings.stall_seconds)
        try:
            async with TurnStream(self._context, self._turn, receive) as stream:
                self._form.begin(stream.turn_id)
                if self._streamed:
                    await self._send_stream(stream, sender)
                else:
                    await self._send_whole(stream, sender)
        except ReaderStalled:
            abort_connection(scope)
        except ApiError:
            raise
        except EtuiError as error:
            raise to_api_error(error) from error

    async def _send_stream(self, stream: TurnStream, sender: _Sender) -> None:
        async for batch in stream.batches():
            parts = [] if batch else [KEEP_ALIVE]
            record = None
            for event in batch:
                self._note(event)
                parts.append(self._form.add(event))
                if isinstance(event, TurnFinished):
                    record = event.record
                failure = find_failure(event)
                if failure is not None:
                    if not sender.started:
                        raise failure
                    parts.append(self._form.fail(failure))
                    await self._send_frames(sender, b"".join(parts), more=False)
                    return
            if record is not None and record.status != "error":
                parts.append(self._form.end(record))
                await self._send_frames(sender, b"".join(parts), more=False)
            elif any(parts):
                await self._send_frames(sender, b"".join(parts))

    async def _send_frames(self, sender: _Sender, frames: bytes, *, more: bool = True) -> None:
        if not sender.started:
            await sender.start({**_STREAM_HEADERS, **headers_of(self._decision)})
        await sender.send(frames, more=more)

    async def _send_whole(self, stream: TurnStream, sender: _Sender) -> None:
        async for event in stream.events():
            self._note(event)
            self._form.add(event)
            failure = find_failure(event)
            if failure is not None:
                raise failure
            if isinstance(event, TurnFinished) and event.record.status != "error":
                body = encode(self._form.whole(event.record))
                headers = headers_of(self._decision, event.record)
                length = {"content-length": str(len(body))}
                await sender.start({**_WHOLE_HEADERS, **headers, **length})
                await sender.send(body, more=False)

    def _note(self, event: PoolEvent) -> None:
        if isinstance(event, Decided):
            self._decision = event.decision


def find_failure(event: PoolEvent) -> ApiError | None:
    """Return the error with which an event ends its turn; None if it does not.

    The client has left already if it stopped the turn, so a stopped one was ended by the server.
    """
    if isinstance(event, TurnFailed):
        return to_api_error(event.error)
    if isinstance(event, TurnFinished) and event.record.status == "stopped":
        return shutting_down()
    return None


class _Sender:
    """Sends a response; a client that does not read it is not waited for."""

    def __init__(self, send: Send, stall_seconds: float) -> None:
        self._send = send
        self._stall_seconds = stall_seconds
        self.started = False

    async def start(self, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.started = True
        raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})

    async def send(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise ReaderStalled from None
