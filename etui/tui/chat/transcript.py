"""Show the turns of a chat, a window of them at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from etui import units
from etui.tui.chat.turn_view import TurnView
from etui.turn.record import TurnRecord

_LOOKS = 4


WELCOME = """\
Ask something. Every answer shows what it cost in joules.

A policy chooses the model for each question; ctrl+p changes the policy or the model.
Esc stops an answer and keeps its text. Ctrl+O lists earlier chats. F1 shows all keys."""


class Transcript(VerticalScroll, can_focus=False):
    """The scrolling list of turns; of a long chat only a window of them is mounted."""

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
        self._records: list[TurnRecord] = []
        self._window = TurnWindow()
        self._replaced: Collection[str] = ()
        self._moving = False
        self._marker = Static("", markup=False, classes="earlier")
        self._marker.display = False
        self._later = Static("", markup=False, classes="later")
        self._later.display = False
        self._welcome = Static(WELCOME, markup=False, classes="welcome")

    def compose(self) -> ComposeResult:
        yield self._marker
        yield self._welcome
        yield self._later

    def watch_virtual_size(self) -> None:
        """Hold on to the end once there is something to scroll.

        Textual lays what is anchored and shorter than its place at the bottom, below nothing.
        """
        longer = self.virtual_size.height > self.size.height
        if longer and not self.is_anchored:
            self.anchor()
        elif not longer and self.is_anchored:
            self.anchor(False)
            self.scroll_home(animate=False, immediate=True)

    def _to_the_end(self) -> None:
        if self.virtual_size.height > self.size.height:
            self.anchor()

    @property
    def turns(self) -> list[TurnView]:
        """The turns on the screen, oldest first."""
        return list(self.query_children(TurnView))

    async def show(self, records: Sequence[TurnRecord], replaced: Collection[str]) -> None:
        """Show a chat from its end."""
        self._moving = True
        await self.remove_children(TurnView)
        self._records = list(records)
        self._replaced = replaced
        self._window = TurnWindow(len(records), len(records))
        self._welcome.display = not records
        self._moving = False
        await self._move_to(latest(len(records)))
        self.call_after_refresh(self._to_the_end)

    async def add(self, view: TurnView) -> None:
        """Show a new turn at the bottom, and take the oldest off where there are too many."""
        self._welcome.display = False
        pending = [turn for turn in self.turns if turn.record is None]
        surplus = [turn for turn in pending if turn.ended]
        await self.remove_children(surplus[:-1])  # said their error, and are in no log
        room = max(1, MOST_TURNS - len(pending) - 1)
        await self._move_to(latest(len(self._records), room))
        await self.mount(view, before=self._later)
        self._to_the_end()

    def keep(self, record: TurnRecord, replaced: Collection[str]) -> None:
        """The turn at the bottom has become a turn of the chat."""
        at_end = self._window.end == len(self._records)
        self._records.append(record)
        if at_end:
            self._window = TurnWindow(self._window.first, len(self._records))
        self._replaced = replaced
        self._mark()

    async def earlier(self) -> None:
        """Bring in the page of turns before the first one shown, and stay where the reader is."""
        if self._window.first > 0 and not self._moving:
            await self._move_to(self._window.earlier(), stay=True)

    async def later(self) -> None:
        """Bring in the page of turns after the last one shown."""
        if self._window.end < len(self._records) and not self._moving:
            await self._move_to(self._window.later(len(self._records)), stay=True)

    async def page(self, pages: int) -> None:
        """Scroll by a page; past an end, what lies beyond it is brought in."""
        if pages < 0 and self.scroll_y <= 0:
            await self.earlier()
        elif pages < 0:
            self.scroll_page_up()
        elif self.scroll_y >= self.max_scroll_y:
            await self.later()
        else:
            self.scroll_page_down()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Bring in more where the reader has come to an end of what is there."""
        super().watch_scroll_y(old_value, new_value)
        if self._moving or not self.is_mounted:
            return
        if new_value <= 0 < old_value:
            self.call_later(self.earlier)
        elif new_value >= self.max_scroll_y > 0 and new_value > old_value:
            self.call_later(self.later)

    async def _move_to(self, window: TurnWindow, *, stay: bool = False) -> None:
        if self._moving:
            return
        self._moving = True
        held = self._held(window) if stay else None
        place = held.region.y if held is not None else 0
        try:
            await self._mount_and_remove(window)
            self._window = window
            self._mark()
        finally:
            if held is None or not self.call_after_refresh(self._hold, held, place):
                self._moving = False

    def _held(self, window: TurnWindow) -> TurnView | None:
        """A turn on the screen that stays mounted."""
        kept = {record.turn_id for record in self._records[window.first : window.end]}
        views = [turn for turn in self.turns if turn.record and turn.record.turn_id in kept]
        seen = [turn for turn in views if turn.region.overlaps(self.region)]
        return next(iter(seen or views), None)

    def _hold(self, view: TurnView, place: int, looks: int = _LOOKS) -> None:
        """Scroll so that a turn is where it was before others came or went above it.

        Markdown gets its height over more than one layout, so this looks more than once.
        """
        if view.is_mounted and view.region.y != place:
            y = self.scroll_y + view.region.y - place
            self.scroll_to(y=y, animate=False, force=True, immediate=True)
        again = view.is_mounted and looks > 1
        if not (again and self.call_after_refresh(self._hold, view, place, looks - 1)):
            self._moving = False

    async def _mount_and_remove(self, window: TurnWindow) -> None:
        wanted = self._records[window.first : window.end]
        ids = {record.turn_id for record in wanted}
        shown = {turn.record.turn_id: turn for turn in self.turns if turn.record is not None}
        await self.remove_children([view for id_, view in shown.items() if id_ not in ids])
        kept = [at for at, record in enumerate(wanted) if record.turn_id in shown]
        if not kept:
            pending = next(iter(self.turns), None)
            await self.mount_all([TurnView.of(r) for r in wanted], before=pending or self._later)
            return
        first, last = kept[0], kept[-1]
        above, below = wanted[:first], wanted[last + 1 :]
        if above:
            await self.mount_all(
                [TurnView.of(r) for r in above], before=shown[wanted[first].turn_id]
            )
        if below:
            await self.mount_all([TurnView.of(r) for r in below], after=shown[wanted[last].turn_id])

    def _mark(self) -> None:
        first, below = self._window.first, len(self._records) - self._window.end
        for turn in self.turns:
            if turn.record is None:
                turn.display = below == 0
            else:
                turn.show_replaced(turn.record.turn_id in self._replaced)
        self._marker.display = first > 0
        self._marker.update(f"▲ {units.count_text(first, 'earlier turn')}: Page Up brings them")
        self._later.display = below > 0
        self._later.update(f"▼ {units.count_text(below, 'later turn')}: Page Down brings them")


MOST_TURNS = 20
"""Turns kept on the screen while answers come: each more makes every new token dearer to draw."""


PAGE_TURNS = 10
"""Turns brought in at a time when the reader scrolls."""


MOST_TURNS_READING = 40
"""Turns kept while the reader scrolls through earlier ones."""


@dataclass(frozen=True, slots=True)
class TurnWindow:
    """The turns ``first <= index < end`` of a chat are on the screen."""

    first: int = 0
    end: int = 0

    def earlier(self) -> TurnWindow:
        """A page further up; what is too far below is let go."""
        first = max(0, self.first - PAGE_TURNS)
        return TurnWindow(first, min(self.end, first + MOST_TURNS_READING))

    def later(self, total: int) -> TurnWindow:
        """A page further down; what is too far above is let go."""
        end = min(total, self.end + PAGE_TURNS)
        return TurnWindow(max(self.first, end - MOST_TURNS_READING), end)


def latest(total: int, most: int = MOST_TURNS) -> TurnWindow:
    """The last turns of a chat."""
    return TurnWindow(max(0, total - most), total)
