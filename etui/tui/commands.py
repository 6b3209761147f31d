"""The command palette: searchable commands of the app and of the active screen.

A screen offers commands with a method ``commands() -> Sequence[Command]``, and so does the app.
Titles sort by noun: ``model: …``, ``policy: …``, ``chat: …``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from textual.app import App
from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.markup import escape
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

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


def list_commands(*nodes: App[Any] | Screen[Any]) -> list[Command]:
    """List the commands of screens and the app, those of each sorted by their titles."""
    return [
        command
        for node in nodes
        if isinstance(node, OffersCommands)
        for command in sorted(node.commands(), key=lambda command: command.title.casefold())
    ]


def list_keys(app: App[Any], screen: Screen[Any]) -> dict[str, str]:
    """Return the keys of the actions of a screen, its parts and the app, as they are shown."""
    bindings = [active.binding for active in screen.active_bindings.values()]
    parts = {type(widget): widget for widget in screen.query(Widget) if widget.focusable}
    for node in (*parts.values(), app):
        bindings += [binding for _key, binding in node._bindings]
    keys: dict[str, str] = {}
    for binding in bindings:
        if binding.id is not None:
            keys.setdefault(binding.action.removeprefix("screen."), _show_key(app, binding))
    return keys


def _show_key(app: App[Any], binding: Binding) -> str:
    if own := app._keymap.get(binding.id or ""):
        binding = binding.with_key(own.split(",")[0])
    return app.get_key_display(binding)


def name_action(run: Callable[[], Any]) -> str:
    """Name what a command runs as a binding does: ``zoom(1)`` for ``partial(action_zoom, 1)``."""
    call, values = (run.func, run.args) if isinstance(run, partial) else (run, ())
    name = getattr(call, "__name__", "").removeprefix("action_")
    return f"{name}({', '.join(map(repr, values))})" if values else name


def with_key(title: str | Content, command: Command, keys: Mapping[str, str]) -> Content:
    """Return the title of a command with the key that runs it, if there is one."""
    shown = Content(title) if isinstance(title, str) else title
    key = keys.get(name_action(command.run), "")
    return Content.assemble(shown, (f"  {key}", "bold dim")) if key else shown


class EtuiCommands(Provider):
    """Palette provider for the commands of the active screen and of the app, with their keys."""

    async def discover(self) -> Hits:
        from etui.tui.help import name_part

        keys = list_keys(self.app, self.screen)
        for node in (self.screen, self.app):
            heading = f"{name_part(node)}\n"
            for command in list_commands(node):
                shown = Content.assemble((heading, "dim"), with_key(command.title, command, keys))
                heading = ""
                yield DiscoveryHit(shown, command.run, command.title, escape(command.help_text))

    async def search(self, query: str) -> Hits:
        """Yield the commands whose titles match, and then those whose help texts do."""
        matcher, keys = self.matcher(query), list_keys(self.app, self.screen)
        words = query.casefold().split()
        for command in (*list_commands(self.screen), *list_commands(self.app)):
            score = matcher.match(command.title)
            if score <= 0 and all(word in command.help_text.casefold() for word in words):
                score = _LEAST_SCORE
            if score > 0:
                # The highlighter parses markup, and its offsets do not fit escaped text.
                plain = score == _LEAST_SCORE or "[" in command.title
                title = command.title if plain else matcher.highlight(command.title)
                shown = with_key(title, command, keys)
                yield Hit(score, shown, command.run, command.title, escape(command.help_text))


_LEAST_SCORE = 1e-6  # Less than the title of any command has that matches


def route_commands(
    backend: Services, route: Route, take: Callable[[Route], object]
) -> Iterator[Command]:
    """Yield one command per policy and per model that may answer the next questions."""
    for policy in backend.policies():
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
