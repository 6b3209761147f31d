"""The command palette: searchable commands of the app and of the active screen.

A screen offers commands with a method ``commands() -> Sequence[Command]``, and so does the app.
Titles sort by noun: ``model: …``, ``policy: …``, ``chat: …``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from textual.app import App
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.markup import escape
from textual.message import Message
from textual.screen import Screen

from etui.log.records import ChatRecord
from etui.runtime.routes import Route
from etui.text import sanitize
from etui.tui.services import Services


@dataclass
class RouteRequested(Message):
    """Request to answer the next questions by this route."""

    route: Route
    restored: bool = False  # Whether it is the one of a chat that was opened, which has it already


@dataclass
class CopyRequested(Message):
    """Request to copy a text, by every way there is."""

    what: str
    text: str


@dataclass
class SettingChosen(Message):
    """Request to keep a setting in config.yaml."""

    key: str
    value: str | int


@dataclass
class PoliciesListed(Message):
    """Report of the policies that exist now, by name."""

    names: tuple[str, ...]


@dataclass
class ChatRequested(Message):
    """Request to show a chat at one of its turns."""

    chat: ChatRecord
    turn_id: str


@dataclass
class Unsaved(Message):
    """Report of text that would be lost on exit."""

    what: str  # Name of the unsaved text; empty if there is none
    keep: Callable[[], object] = field(default=lambda: None, compare=False)
    """Saves the text without prompting, on SIGTERM or a lost terminal, in any thread."""


@runtime_checkable
class ShowsRoute(Protocol):
    """A screen that shows the route of the next questions."""

    def take_route(self, route: Route) -> None:
        """Use this route for the next questions."""


@dataclass(frozen=True, slots=True)
class Command:
    """One entry of the palette."""

    title: str  # Name of the command, shown literally (not as markup)
    help_text: str
    run: Callable[[], Any]


def build_commands(*rows: tuple[str, str, Callable[[], Any]]) -> list[Command]:
    """Build commands from their titles, help texts and functions."""
    return [Command(*row) for row in rows]


@runtime_checkable
class OffersCommands(Protocol):
    """A screen or app that offers commands."""

    def commands(self) -> Sequence[Command]:
        """Return the commands for the palette."""


def list_commands(app: App[Any], screen: Screen[Any]) -> Iterator[Command]:
    """Yield the commands of the app and of a screen."""
    for offering in (app, screen):
        if isinstance(offering, OffersCommands):
            yield from offering.commands()


class EtuiCommands(Provider):
    """Palette provider for the commands of the app and of the active screen."""

    async def discover(self) -> Hits:
        commands = list_commands(self.app, self.screen)
        for command in sorted(commands, key=lambda command: command.title):
            yield DiscoveryHit(escape(command.title), command.run, command.title,
                               escape(command.help_text))  # fmt: skip

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in list_commands(self.app, self.screen):
            if (score := matcher.match(command.title)) > 0:
                # The highlighter parses markup, and its offsets do not fit escaped text.
                marked = "[" not in command.title
                title = matcher.highlight(command.title) if marked else escape(command.title)
                yield Hit(score, title, command.run, command.title, escape(command.help_text))


def route_commands(
    backend: Services, route: Route, take: Callable[[Route], object]
) -> Iterator[Command]:
    """Yield one command per policy and per model that may answer the next questions."""
    for policy in backend.policies:
        yield Command(
            f"policy: {sanitize(policy)}",
            f"Let {sanitize(policy)} choose the model for the next questions",
            partial(take, Route(policy)),
        )
    for model in backend.shelf.models():
        if model.on_disk:
            yield Command(
                f"model: {sanitize(model.name)}",
                f"Answer the next questions with {sanitize(f'{model.name} ({model.size})')}",
                partial(take, Route(route.policy, model.name)),
            )
    if route.model is not None:
        yield Command(
            "model: chosen by the policy",
            f"Let {sanitize(route.policy)} choose the model again",
            partial(take, Route(route.policy)),
        )
