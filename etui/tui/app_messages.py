"""Messages to the app as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from textual.message import Message

from etui.log.records import ChatRecord
from etui.runtime.routes import Route
from etui.tui.services import Services


@dataclass(frozen=True, slots=True)
class RouteRequested:
    """Request to answer the next questions by this route."""

    route: Route


@dataclass(frozen=True, slots=True)
class PoliciesListed:
    """Report of the policies that exist now, by name."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChatRequested:
    """Request to show a chat at one of its turns."""

    chat: ChatRecord
    turn_id: str


@dataclass(frozen=True, slots=True)
class Unsaved:
    """Text that would be lost on exit."""

    what: str  # Name of the unsaved text; empty if there is none
    keep: Callable[[], object] = field(default=lambda: None, compare=False)
    """Saves the text without prompting, on SIGTERM or a lost terminal, in any thread."""


AppAction: TypeAlias = RouteRequested | PoliciesListed | ChatRequested | Unsaved


class AppRequest(Message):
    """A request from a screen to the app."""

    def __init__(self, action: AppAction) -> None:
        super().__init__()
        self.action = action


@runtime_checkable
class ShowsRoute(Protocol):
    """A screen that shows the route of the next questions."""

    def take_route(self, route: Route) -> None:
        """Use this route for the next questions."""


class BackendOpened(Message):
    """All services behind the screens are open."""

    def __init__(self, backend: Services) -> None:
        super().__init__()
        self.backend = backend


class BackendFailed(Message):
    """The services could not be opened; ``what`` and ``fix`` give the error."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__()
        self.what = what
        self.fix = fix
