"""The events of one turn on the event loop; the turn ends when its client leaves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from etui.runtime.pool.turn_request import TurnFailed
from etui.turn.events import TurnFinished

if TYPE_CHECKING:
    from starlette.types import Receive

    from etui.runtime.pool.turn_request import PoolEvent, RunningTurn, TurnRequest
    from etui.server.context import ServerContext, Timer


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
