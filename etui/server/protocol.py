"""HTTP/1.1 connections of the server: uvicorn's, with a time limit for headers and a hard end."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from etui.server.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import Scope

_CONNECTION = "connection"
_MOST_DISCARDED_BYTES = 4 * 2**20
_MOST_READ_BYTES = 64 * 2**10
"""asyncio reads four times as much at once, before anyone can say that it is too much."""

_LINGER_SECONDS = 2.0
"""How long a refused connection may take to read its answer; it counts as open until then."""

_MOST_REFUSED = 64
"""Connections over the limit that get an answer saying so; further ones are closed at once.

Each takes a file descriptor until its client has read the answer.
"""


class LimitedProtocol(H11Protocol):
    """A connection that is cut if headers take too long to arrive, or a body that was answered.

    uvicorn waits for the rest of them forever, so that a few slow clients could hold every
    connection.
    """

    header_seconds = 10.0
    max_connections = 512

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app_state = {**self.app_state, _CONNECTION: self}
        self._timer: asyncio.TimerHandle | None = None
        self._left_bytes: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request, unless there are too many connections."""
        transport.max_size = _MOST_READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        self._start_timer()
        excess = len(self.connections) - self.max_connections
        if excess > _MOST_REFUSED:
            self.abort()
        elif excess > 0:
            text, wait = (
                f"{self.max_connections} connections are open already",
                {"Retry-After": "1"},
            )
            self._send_error(ApiError(503, text, "too_many_connections", headers=wait))

    def data_received(self, data: bytes) -> None:
        """Take data, and wait for the rest of the headers if they are not complete."""
        if self._left_bytes is not None:
            self._discard(data)
            return
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of one that was answered early."""
        super().on_response_complete()
        has_begun, _ = self.conn.trailing_data  # a part of the next request
        if self.conn.their_state is not h11.IDLE or has_begun:
            self._update_timer()  # between requests uvicorn's own limit holds

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._send_error(ApiError(400, msg))

    def _send_error(self, error: ApiError) -> None:
        """Send an error and the end, and read on: unread data would reset the connection."""
        if self.transport.is_closing() or self._left_bytes is not None:
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.abort()
            return
        body = json.dumps(error.document()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *((name.encode(), value.encode()) for name, value in error.headers.items()),
        ]
        reason = HTTPStatus(error.status).phrase.encode()
        for event in (
            h11.Response(status_code=error.status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._left_bytes = _MOST_DISCARDED_BYTES
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_timer()
        self._start_timer(min(self.header_seconds, _LINGER_SECONDS))

    def abort(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        self.transport.abort()

    def _discard(self, data: bytes) -> None:
        assert self._left_bytes is not None
        self._left_bytes -= len(data)
        if self._left_bytes <= 0:
            self.abort()

    def _update_timer(self) -> None:
        if self._left_bytes is not None:
            return
        awaits_headers = self.conn.their_state is h11.IDLE
        answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if (awaits_headers or answered) and not self.transport.is_closing():
            self._start_timer()
        else:
            self._stop_timer()

    def _start_timer(self, seconds: float | None = None) -> None:
        if self._timer is None:
            wait = self.header_seconds if seconds is None else seconds
            self._timer = self.loop.call_later(wait, self._cut)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        self._timer = None
        if self.conn.our_state is h11.IDLE and self._left_bytes is None:
            self.send_400_response("The headers did not arrive in time.")
        else:
            self.abort()  # it goes on sending what was refused


def build_protocol(header_seconds: float, max_connections: int) -> type[LimitedProtocol]:
    """Return the protocol with its limits."""
    limits = {"header_seconds": header_seconds, "max_connections": max_connections}
    return type("LimitedProtocol", (LimitedProtocol,), limits)


def abort_connection(scope: Scope) -> None:
    """Close the connection of a request at once; without effect under another server."""
    connection = scope.get("state", {}).get(_CONNECTION)
    if isinstance(connection, LimitedProtocol):
        connection.abort()
