"""The command palette: what the app and the active screen offer, found by their words.

A screen offers commands by a method ``commands() -> Sequence[Command]``; the app has one too.
Titles sort by noun: ``model: …``, ``policy: …``, ``chat: …``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.markup import escape

from etui.runtime.route import Route
from etui.text.sanitize import sanitize
from etui.tui.services import Services


@dataclass(frozen=True, slots=True)
class Command:
    """One line of the palette.

    Attributes:
        title: What it is called; nothing in it is markup.
        help_text: What it does.
        run: Called when it is chosen.
    """

    title: str
    help_text: str
    run: Callable[[], Any]


@runtime_checkable
class OffersCommands(Protocol):
    """A screen, or the app, that has commands."""

    def commands(self) -> Sequence[Command]: ...


class EtuiCommands(Provider):
    """Commands of the app and of the active screen."""

    def _commands(self) -> Iterator[Command]:
        for offering in (self.app, self.screen):
            if isinstance(offering, OffersCommands):
                yield from offering.commands()

    async def discover(self) -> Hits:
        """Everything, while nothing is typed."""
        for command in sorted(self._commands(), key=lambda command: command.title):
            yield DiscoveryHit(_plain(command.title), command.run, command.title,
                               _plain(command.help_text))  # fmt: skip

    async def search(self, query: str) -> Hits:
        """Those whose title matches."""
        matcher = self.matcher(query)
        for command in self._commands():
            if (score := matcher.match(command.title)) > 0:
                # The highlighter reads markup, and its offsets fit no escaped text.
                marked = "[" not in command.title
                title = matcher.highlight(command.title) if marked else _plain(command.title)
                yield Hit(score, title, command.run, command.title, _plain(command.help_text))


def route_commands(
    backend: Services, route: Route, take: Callable[[Route], object]
) -> Iterator[Command]:
    """One command a policy and a model that may answer the next questions."""
    for policy in backend.policies:
        yield Command(
            f"policy: {sanitize(policy)}",
            f"Let {sanitize(policy)} choose the model of the next questions",
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
            "model: as the policy says",
            f"Let {sanitize(route.policy)} choose again",
            partial(take, Route(route.policy)),
        )


def _plain(text: str) -> str:
    """A text as it stands: the palette reads its lines as markup."""
    return escape(text)
