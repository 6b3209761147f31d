"""What stands on the screen, and a hand on the keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Markdown, Static

from etui.tui.chat._prompt import Prompt
from etui.tui.chat._title_row import TitleRow
from etui.tui.chat._transcript import MOST_TURNS, Transcript
from etui.tui.chat._turn_view import TurnView
from etui.tui.power._widgets import ChannelTable
from etui.tui.power.panel import PowerPanel
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until

WIDE = (120, 36)


def turns(app: EtuiApp) -> list[TurnView]:
    return app.screen.query_one(Transcript).turns


def text_of(turn: TurnView, name: str) -> str:
    """The text of one line of a turn, empty where it is hidden."""
    static = turn.query_one(f".{name}", Static)
    shown = str(static.content) if static.display else ""
    return shown.replace("\n", " · ") if name in ("energy", "why") else shown


def source_of(turn: TurnView) -> str:
    return turn.query_one(Markdown).source


def panel_text(app: EtuiApp) -> str:
    """What the title, the panel and its line for narrow terminals say."""
    title = app.screen.query_one(TitleRow)
    line = app.screen.query_one(".power-status", Static)
    panel = app.screen.query_one(PowerPanel)
    return "\n".join([str(title.content), panel_lines(panel), str(line.content)])


def panel_lines(panel: PowerPanel) -> str:
    lines = [str(static.content) for static in panel.query(Static) if static.display]
    return "\n".join([*lines, table_text(panel._table)])


def table_text(table: ChannelTable) -> str:
    return "\n".join("".join(text for text, _ in line) for line in table._draw())


def drawn(app: EtuiApp) -> str:
    """What stands on the terminal, line by line."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def notices(app: EtuiApp) -> str:
    return "\n".join(notification.message for notification in app._notifications)


async def ask(pilot: Pilot[Any], question: str) -> None:
    pilot.app.screen.query_one(Prompt).text = question
    await pilot.press("enter")


async def answered(pilot: Pilot[Any], house: House, count: int) -> None:
    """Wait until ``count`` answers are saved and shown, and their turns are over."""
    app: Any = pilot.app

    def shown() -> bool:
        current = app._chat.queue._answering
        done = [one for one in turns(app) if one.record is not None and one is not current]
        return len(house.runner.saved) >= count and len(done) >= min(count, MOST_TURNS)

    await until(pilot, shown)


class Terminal:
    """The app in a terminal, and a hand on its keys."""

    def __init__(self, house: House, app: EtuiApp, pilot: Pilot[Any]) -> None:
        self.house, self.app, self.pilot = house, app, pilot
        self.runner = house.runner

    @property
    def turns(self) -> list[TurnView]:
        return turns(self.app)

    @property
    def prompt(self) -> Prompt:
        return self.app.screen.query_one(Prompt)

    @property
    def drawn(self) -> str:
        return drawn(self.app)

    @property
    def panel(self) -> str:
        return panel_text(self.app)

    def text(self, at: int, name: str) -> str:
        """The text of a line of a turn."""
        return text_of(self.turns[at], name)

    def source(self, at: int) -> str:
        return source_of(self.turns[at])

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def until(self, predicate: Callable[[], object]) -> None:
        await until(self.pilot, predicate)

    async def sees(self, *words: str) -> None:
        """Wait until words are drawn."""
        await self.until(lambda: all(word in self.drawn for word in words))

    async def told(self, words: str) -> None:
        """Wait for a notice."""
        await self.until(lambda: words in notices(self.app))

    async def at(self, kind: type[Any]) -> Any:
        """Wait for a screen of this kind, and return it."""
        await self.until(lambda: isinstance(self.app.screen, kind))
        return self.app.screen

    async def ask(self, question: str) -> None:
        await ask(self.pilot, question)

    async def answered(self, count: int) -> None:
        await answered(self.pilot, self.house, count)

    async def answer(self, *questions: str) -> None:
        """Ask questions, each after the answer to the one before."""
        for question in questions:
            count = len(self.runner.saved) + 1
            await self.ask(question)
            await self.answered(count)

    async def streams(self, question: str = "Tell me everything") -> None:
        """Ask, and wait until the first words of the last answer are there."""
        await self.ask(question)
        await self.until(lambda: self.turns and "Paris" in self.source(-1))


@asynccontextmanager
async def running(
    house: House, size: tuple[int, int] = WIDE, kind: type[EtuiApp] = EtuiApp
) -> AsyncIterator[Terminal]:
    """The app with its services open."""
    app = house.app(kind)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.backend is not None)
        yield Terminal(house, app, pilot)
