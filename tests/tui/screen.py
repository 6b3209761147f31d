"""What stands on the screen, and a hand on the keys."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot
from textual.widgets import Markdown, Static

from etui.tui.chat._prompt import Prompt
from etui.tui.chat._title_row import TitleRow
from etui.tui.chat._transcript import MOST_TURNS, Transcript
from etui.tui.chat._turn_view import TurnView
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
    return "\n".join([str(title.content), panel.text, str(line.content)])


def drawn(app: EtuiApp) -> str:
    """What stands on the terminal, line by line."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def notices(app: EtuiApp) -> str:
    return "\n".join(notification.message for notification in app._notifications)


async def ask(pilot: Pilot[Any], question: str) -> None:
    pilot.app.screen.query_one(Prompt).text = question
    await pilot.press("enter")


async def answered(pilot: Pilot[Any], house: House, count: int) -> None:
    """Wait until ``count`` answers are saved and shown."""

    def shown() -> bool:
        done = [turn for turn in turns(pilot.app) if turn.record is not None]  # type: ignore[arg-type]
        return len(house.runner.saved) >= count and len(done) >= min(count, MOST_TURNS)

    await until(pilot, shown)
