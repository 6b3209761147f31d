"""Messages to the app as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from textual.message import Message

from etui.runtime.route import Route
from etui.tui.services import Services


@dataclass(frozen=True, slots=True)
class RouteRequested:
    """The next questions shall find their arm so."""

    route: Route


@dataclass(frozen=True, slots=True)
class PoliciesThere:
    """The policies there are now, by name."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What leaving the app would lose; empty where there is nothing.

    Attributes:
        keep: Puts it aside where nobody can be asked (a kill, a terminal that is gone), in
            whatever thread.
    """

    what: str
    keep: Callable[[], object] = field(default=lambda: None, compare=False)


AppAction: TypeAlias = RouteRequested | PoliciesThere | Unsaved


class AppRequest(Message):
    """A wish, on its way from a screen up to the app."""

    def __init__(self, wish: AppAction) -> None:
        super().__init__()
        self.wish = wish


@runtime_checkable
class ShowsRoute(Protocol):
    """A screen that shows how the next questions find their arm."""

    def take_route(self, route: Route) -> None: ...


class BackendOpened(Message):
    """Everything behind the screen is there."""

    def __init__(self, backend: Services) -> None:
        super().__init__()
        self.backend = backend


class BackendFailed(Message):
    """The backend could not be opened; ``what`` and ``fix`` tell why."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__()
        self.what = what
        self.fix = fix
