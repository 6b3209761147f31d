"""The running requests of one answer: what arrives from any of them comes through one queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from etui.backends.remote.client import RemoteClient
from etui.backends.remote.dialects import Dialect
from etui.backends.remote.failures import RequestFailed
from etui.backends.remote.pieces import Asked, Piece
from etui.backends.remote.retries import Failure
from etui.errors import InvalidRequest

HURRY_SECONDS = 2.0
"""Longest wait for the control call that ends the thinking; then the request is closed."""

Signal = Literal["cancel", "hurry"]


@dataclass(frozen=True, slots=True)
class Arrived:
    """Pieces of a request arrived."""

    number: int
    pieces: tuple[Piece, ...]
    t_ns: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A request has ended as its server ended it."""

    number: int
    t_ns: int


@dataclass(frozen=True, slots=True)
class Broke:
    """A request failed."""

    number: int
    failure: Failure
    tries: int


Inbox = Arrived | Ended | Broke | Signal


class Requests:
    """Sends the requests of one answer and collects what arrives; lives on the event loop.

    Args:
        client: The backend's client.
        clock_ns: Monotonic clock of this machine; every piece has the time when it arrived here.
    """

    def __init__(self, client: RemoteClient, dialect: Dialect, clock_ns: Callable[[], int]) -> None:
        self._client = client
        self._dialect = dialect
        self._clock_ns = clock_ns
        self._inbox: asyncio.Queue[Inbox] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._sent = 0
        self.retried: list[Failure] = []

    def send(self, asked: Asked) -> int:
        """Send a request, and return its number.

        Raises:
            InvalidRequest: The server cannot do what is asked.
        """
        request = self._dialect.build(asked)
        self._sent += 1
        number = self._sent

        async def run() -> None:
            try:
                documents = self._client.stream(request, self.retried.append)
                async with aclosing(documents):  # type: ignore[type-var]
                    async for document in documents:
                        t_ns = self._clock_ns()
                        pieces = self._dialect.parse(document)
                        error = next((piece.error for piece in pieces if piece.error), "")
                        if error:
                            what = self._client.hide_key(error)
                            raise RequestFailed(Failure("error event", what, began=True))
                        self._inbox.put_nowait(Arrived(number, pieces, t_ns))
                        if any(piece.last for piece in pieces):
                            break
                self._inbox.put_nowait(Ended(number, self._clock_ns()))
            except RequestFailed as error:
                self._inbox.put_nowait(Broke(number, error.failure, error.tries))

        def end(task: asyncio.Task[None]) -> None:
            """Let a bug of a parser end the answer, instead of hanging it."""
            error = None if task.cancelled() else task.exception()
            if error is not None:
                what = f"{type(error).__name__}: {error}"
                self._inbox.put_nowait(Broke(number, Failure("format", what, began=True), 1))

        self._tasks[number] = asyncio.get_running_loop().create_task(run())
        self._tasks[number].add_done_callback(end)
        return number

    def signal(self, signal: Signal) -> None:
        """Put a signal of the user or of a budget into the queue."""
        self._inbox.put_nowait(signal)

    async def receive(self) -> Inbox:
        """Wait for what comes next from requests that were not closed."""
        while True:
            message = await self._inbox.get()
            if isinstance(message, str) or message.number in self._tasks:
                return message

    async def hurry(self, request_id: str) -> bool:
        """Ask the server to end the thinking of a request; return whether it does."""
        try:
            request = self._dialect.build_hurry(request_id)
            await self._client.fetch_text(request.path, seconds=HURRY_SECONDS, body=request.body)
        except (RequestFailed, InvalidRequest):
            return False
        return True

    async def close(self, number: int) -> None:
        """Close a request, whose connection ends; what arrives from it is dropped."""
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close_all(self) -> None:
        """Close every request."""
        for number in list(self._tasks):
            await self.close(number)
