"""The turns of a chat, newest last; it stays at the bottom until the reader scrolls up."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from etui import units
from etui.tui.turn_view import TurnView

MOST_TURNS = 20
"""Turns kept on the screen: each more makes every new token dearer to draw."""

WELCOME = """\
Ask something. Every answer shows what it cost in joules.

A policy chooses the model for each question; ctrl+p changes the policy or the model.
Esc stops an answer and keeps its text. F1 shows all keys."""


class Transcript(VerticalScroll, can_focus=False):
    """The scrolling list of turns."""

    HELP = """\
## Chat

Each answer ends with its price: tokens, tokens a second, time to first token (TTFT), joules with
their uncertainty and how they are known, joules per token, mean watts.

- **counter**: a cumulative hardware counter
- **integrated**: hardware power readings, integrated over time
- **estimate**: no hardware reading at all
- **unmeasured**: nothing could be read
"""

    def __init__(self) -> None:
        super().__init__()
        self._earlier = 0
        self._marker = Static("", markup=False, classes="earlier")
        self._marker.display = False
        self._welcome = Static(WELCOME, markup=False, classes="welcome")

    def compose(self) -> ComposeResult:
        yield self._marker
        yield self._welcome

    def on_mount(self) -> None:
        self.anchor()

    @property
    def turns(self) -> list[TurnView]:
        """The turns on the screen, oldest first."""
        return list(self.query_children(TurnView))

    async def add(self, view: TurnView) -> None:
        """Show a new turn at the bottom, and take the oldest off where there are too many."""
        self._welcome.display = False
        turns = self.turns
        done = [turn for turn in turns if turn.record is not None]
        surplus = done[: max(0, len(turns) + 1 - MOST_TURNS)]
        if surplus:
            self._earlier += len(surplus)
            await self.remove_children(surplus)
            earlier = units.count_text(self._earlier, "earlier turn")
            self._marker.update(f"{earlier} in the log: etui logs list")
            self._marker.display = True
        await self.mount(view)
        self.anchor()

    async def clear(self) -> None:
        """Begin a new chat."""
        self._earlier = 0
        self._marker.display = False
        self._welcome.display = True
        await self.remove_children(TurnView)
