"""Receive the bodies of requests within limits of size, time and memory.

All bodies that are held at a time, half received or waiting with their turn, share a budget, so
that no number of connections can fill the memory. The first bytes of each are free, so that a small
question is answered however many large ones are held.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect

from etui.server.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive

    from etui.server.context import ServerSettings

LARGE_BYTES = 64 * 2**10
"""This much of every body is free, which with all connections is half of the budget. A larger one
is read on another thread, so that other requests do not wait for it: its texts may be many, and its
pictures are inflated."""

_MOST_READ = 2
"""Large bodies that are read at a time: meanwhile a body takes its memory several times."""

_STALLED_SECONDS = 1.0
"""Where memory is short, a body may not take longer than this for each ``LARGE_BYTES``."""

_DISCARD_SECONDS = 2.0
_TRIM_SECONDS = 0.5
_CLOSE = {"connection": "close"}


T = TypeVar("T")


class BodyBudget:
    """Counts the bytes of all bodies that are held; for the thread of the event loop.

    Without keys all of them share one budget. Each key has twice as much, and all keys together
    four times as much.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._most_bytes = self._most_key_bytes = settings.bodies_limit_bytes
        if settings.keys:
            self._most_key_bytes, self._most_bytes = 2 * self._most_bytes, 4 * self._most_bytes
        self._held: Counter[str] = Counter()
        self.incoming: set[IncomingBody] = set()  # Those that are on their way
        self._trims = False
        self.limiter = CapacityLimiter(_MOST_READ)

    def make_room(self, body: IncomingBody, size: int) -> int:
        """Return what of a size is counted, once there is room for it; else ApiError (503).

        Bodies that have stalled are given up for it.
        """
        counted = max(0, size - LARGE_BYTES)
        while counted > body.counted:
            more = counted - body.counted
            is_full = self._held.total() + more > self._most_bytes
            if not is_full and self._held[body.key] + more <= self._most_key_bytes:
                break
            stalled = [
                each
                for each in self.incoming - {body}
                if each.is_stalled and (is_full or each.key == body.key)
            ]
            if not stalled:
                raise no_room()
            min(stalled, key=lambda each: each.progress_at).give_up()
        return counted

    def take(self, body: IncomingBody, size: int) -> None:
        """Count a body as one of a size; raises as :meth:`make_room`."""
        counted = self.make_room(body, size)
        self._held[body.key] += counted - body.counted
        body.counted = counted

    def release(self, body: IncomingBody) -> None:
        """Count a body no longer, and give the memory of a large one back to the system."""
        self.incoming.discard(body)
        freed, body.counted = body.counted, 0
        self._held[body.key] -= freed
        if freed and not self._trims:
            self._trims = True
            asyncio.get_running_loop().call_later(_TRIM_SECONDS, self._trim)

    def _trim(self) -> None:
        self._trims = False
        asyncio.get_running_loop().run_in_executor(None, trim_heap)


class IncomingBody:
    """Receives the body of a request within its limits of size, time and memory.

    Attributes:
        key: Name of the client's key, once it is known.
        counted: Its bytes in the budget.
        progress_at: When it had last received ``LARGE_BYTES`` more, in seconds of the loop's clock.
        disconnected: Whether the client has left.
    """

    def __init__(
        self, receive: Receive, settings: ServerSettings, budget: BodyBudget, declared_bytes: int
    ) -> None:
        self.key = ""
        self.counted = 0
        self.progress_at = 0.0
        self.disconnected = False
        self._receive = receive
        self._limit_bytes = settings.body_limit_bytes
        self._seconds = settings.body_seconds
        self._budget = budget
        self._declared_bytes = declared_bytes
        self._bytes = self._marked_bytes = 0
        self._data = bytearray()
        self._deadline = 0.0
        self._timer: asyncio.Timeout | None = None
        self._given_up = self._complete = False

    async def read(self) -> bytearray:
        """Receive all of it, once.

        ApiError if it is too large (413) or too slow (408), or there is no memory for it (503);
        ClientDisconnect if the client has left.
        """
        self._budget.make_room(self, self._declared_bytes)
        while not self._complete:
            message = await self.receive()
            self._data += message.get("body", b"")
        if self.disconnected:
            raise ClientDisconnect
        data, self._data = self._data, bytearray()
        return data

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Call what reads its content: on another thread if it is large."""
        if self._bytes <= LARGE_BYTES:
            return function(*args)
        return await to_thread.run_sync(partial(function, *args), limiter=self._budget.limiter)

    async def receive(self) -> Message:
        """Receive the next message; raises as :meth:`read`."""
        if self._complete:
            message = await self._receive()
            self.disconnected |= message["type"] == "http.disconnect"
            return message
        message = await self._receive_part()
        self.disconnected = message["type"] == "http.disconnect"
        self._complete = not message.get("more_body", False)
        self._note(len(message.get("body", b"")))
        if self._complete:
            self._budget.incoming.discard(self)
        return message

    async def _receive_part(self) -> Message:
        now = asyncio.get_running_loop().time()
        if self._timer is None:
            self.progress_at, self._deadline = now, now + self._seconds
            self._budget.incoming.add(self)
        try:
            async with asyncio.timeout_at(self._deadline) as self._timer:
                return await self._receive()
        except TimeoutError:
            if self._given_up:
                raise no_room() from None
            text = f"the body did not arrive within {self._seconds:g} s"
            raise ApiError(408, text, "body_timeout", headers=_CLOSE) from None

    def _note(self, size: int) -> None:
        if self._given_up:
            raise no_room()
        self._bytes += size
        if self._bytes > self._limit_bytes:
            raise too_large(self._limit_bytes)
        if self._bytes - self._marked_bytes >= LARGE_BYTES:
            self._marked_bytes, self.progress_at = self._bytes, asyncio.get_running_loop().time()
        self._budget.take(self, self._bytes)

    def grow(self, size: int) -> None:
        """Count what has become of it in memory, if that is more; raises as :meth:`read`."""
        self._budget.take(self, max(size, self._bytes))

    @property
    def is_stalled(self) -> bool:
        """Whether it takes memory and is too slow to keep it where that is short."""
        waits = asyncio.get_running_loop().time() - self.progress_at
        return self.counted > 0 and waits >= _STALLED_SECONDS and not self._given_up

    def give_up(self) -> None:
        """Receive no more of it, for the sake of another one."""
        self._given_up = True
        self.release()
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time())

    def release(self) -> None:
        """Hold nothing of it any more."""
        self._data = bytearray()
        self._budget.release(self)

    async def leave(self, error: ApiError) -> None:
        """Read on for a moment if it was refused: the client would get a reset otherwise."""
        if error.status not in (413, 503):
            return
        self.release()
        left = 2 * self._limit_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while left > 0 and not self._complete:
                    message = await self._receive()
                    self._complete = not message.get("more_body", False)
                    left -= len(message.get("body", b""))


def too_large(limit_bytes: int) -> ApiError:
    """Create the error of a body over the limit, status 413; its connection is closed."""
    text = f"the body has more than {limit_bytes} bytes"
    return ApiError(413, text, "body_too_large", headers=_CLOSE)


def trim_heap() -> None:
    """Give memory that is free back to the system; without effect under other libraries of C."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def no_room() -> ApiError:
    """Create the error of a body that there is no memory for, status 503."""
    text = "the bodies of other requests take the memory; send it again in a moment"
    return ApiError(503, text, "body_memory_full", headers={"Retry-After": "2", **_CLOSE})
