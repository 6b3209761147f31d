"""What the routes of the server work with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.runtime.decide import Choice, Overrides
    from etui.runtime.runtime import Runtime
    from etui.runtime.turn_request import PoolEvent, PoolStatus, RunningTurn, TurnRequest
    from etui.server.settings import ServerSettings
    from etui.turn.record import TurnRecord


class Pool(Protocol):
    """Runs the turns that clients ask for; see :class:`etui.runtime.turn_pool.TurnPool`."""

    def submit(self, request: TurnRequest, on_event: Callable[[PoolEvent], None]) -> RunningTurn:
        """Queue a turn; its events are reported on another thread.

        Raises:
            QueueFull: Too many requests wait already.
        """

    def decide(self, request: TurnRequest) -> Choice:
        """Decide which arm would answer, without an answer; blocks while the machine is read."""

    def status(self) -> PoolStatus:
        """Return what the pool is doing now."""

    def find_turn(self, turn_id: str) -> TurnRecord | None:
        """Return a turn from the log; None if there is none with this id, or not yet."""

    def close(self, grace_seconds: float) -> None:
        """End running answers within the grace time and save every turn."""


class Timer(Protocol):
    """A call in the future that can be called off."""

    def cancel(self) -> None:
        """Call it off."""


CallLater = Callable[[float, Callable[[], None]], Timer]


def call_later(seconds: float, function: Callable[[], None]) -> Timer:
    """Call a function on the running event loop after some seconds."""
    return asyncio.get_running_loop().call_later(seconds, function)


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What every route is built with."""

    pool: Pool  # Runs the turns
    runtime: Runtime[Any]
    settings: ServerSettings
    parse_model: Callable[[str], Overrides] | None = None
    """Turns the id of a model into overrides; None reads the machine's policies and models
    (:func:`etui.runtime.model_ids.parse_model_id`)."""
    call_later: CallLater = call_later  # Sets the timer of keep-alive comments, for tests


def key_name(request: Request) -> str:
    """Return the name of the key that a request was sent with; empty without keys."""
    state: Mapping[str, Any] = request.scope.get("state", {})
    return str(state.get("key_name", ""))


def request_id(request: Request) -> str:
    """Return the id of a request, which its response names in ``x-request-id``."""
    state: Mapping[str, Any] = request.scope.get("state", {})
    return str(state.get("request_id", ""))
