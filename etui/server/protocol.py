"""HTTP/1.1 connections of the server: uvicorn's, with a time limit for headers and a hard end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import Scope

_CONNECTION = "connection"


class LimitedProtocol(H11Protocol):
    """A connection that is cut if the headers of a request take too long to arrive.

    So is one that still sends the body of a request after its answer.

    uvicorn waits for the rest of them forever, so that a few slow clients could hold every
    connection.
    """

    header_seconds = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app_state = {**self.app_state, _CONNECTION: self}
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Take data, and wait for the rest of the headers if they are not complete."""
        super().data_received(data)
        awaits_headers = self.conn.their_state is h11.IDLE
        answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if (awaits_headers or answered) and not self.transport.is_closing():
            self._await_headers()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        self.transport.abort()

    def _await_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_seconds, self._cut)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cut(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            self.send_400_response("The headers did not arrive in time.")
        else:
            self.abort()  # it goes on sending a body that was refused


def limit_headers(seconds: float) -> type[LimitedProtocol]:
    """Return the protocol with another time limit for headers."""
    return type("LimitedProtocol", (LimitedProtocol,), {"header_seconds": seconds})


def abort_connection(scope: Scope) -> None:
    """Close the connection of a request at once; without effect under another server."""
    connection = scope.get("state", {}).get(_CONNECTION)
    if isinstance(connection, LimitedProtocol):
        connection.abort()
