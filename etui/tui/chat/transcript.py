"""The transcript of a chat, with a window of its turns mounted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from etui import units
from etui.tui.chat.turn_view import TurnView
from etui.turn.record import TurnRecord

_SCROLL_CORRECTIONS = 4
"""How often the scroll position is corrected after turns were mounted or removed."""

_LATE_CHECKS, _LATE_CHECK_SECONDS = 20, 0.05
"""A slow machine draws Markdown later than the refreshes of these corrections."""


WELCOME = """\
Ask something. Every answer shows what it cost in joules.

A policy chooses the model for each question; ctrl+p changes the policy or the model.
Esc stops an answer and keeps its text. Ctrl+O lists earlier chats. F1 shows all keys."""


class Transcript(VerticalScroll, can_focus=False):
    """Scrolling list of turns; only a window of a long chat is mounted."""

    HELP = """\
## Chat

Each answer ends with its cost: tokens, tokens per second, time to first token (TTFT), joules with
their uncertainty and how they were measured, joules per token, mean watts.

- **counter**: a cumulative hardware counter
- **integrated**: hardware power readings, integrated over time
- **estimate**: computed without a hardware reading
- **unmeasured**: nothing could be read
"""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[TurnRecord] = []
        self._window = TurnWindow()
        self._replaced: Collection[str] = ()
        self._branches: Mapping[str, tuple[int, int]] = {}
        self._notes: Mapping[str, str] = {}
        self._moving = False
        self._marker = Static("", markup=False, classes="earlier")
        self._marker.display = False
        self._later = Static("", markup=False, classes="later")
        self._later.display = False
        self._welcome = Static(WELCOME, markup=False, classes="welcome")

    def compose(self) -> ComposeResult:
        """Lay out the markers and the welcome text; turns are mounted between them."""
        yield self._marker
        yield self._welcome
        yield self._later

    def watch_virtual_size(self) -> None:
        """Anchor to the end once there is something to scroll.

        Textual puts anchored content that is shorter than its container at the bottom of it.
        """
        longer = self.virtual_size.height > self.size.height
        if longer and not self.is_anchored:
            self.anchor()
        elif not longer and self.is_anchored:
            self.anchor(False)
            self.scroll_home(animate=False, immediate=True)

    def _anchor_to_end(self) -> None:
        if self.virtual_size.height > self.size.height:
            self.anchor()

    @property
    def turns(self) -> list[TurnView]:
        """Mounted turns, oldest first."""
        return list(self.query_children(TurnView))

    async def show(self, records: Sequence[TurnRecord], replaced: Collection[str]) -> None:
        """Show a chat, scrolled to its end."""
        self._moving = True
        await self.remove_children(TurnView)
        self._records = list(records)
        self._replaced = replaced
        self._window = TurnWindow(len(records), len(records))
        self._welcome.display = not records
        self._moving = False
        await self._move_to(latest_window(len(records)))
        self.call_after_refresh(self._anchor_to_end)

    async def show_turn(self, turn_id: str) -> None:
        """Scroll to a turn and focus it; a turn that the chat does not have changes nothing."""
        ids = [record.turn_id for record in self._records]
        if turn_id not in ids:
            return
        index = ids.index(turn_id)
        if not self._window.first <= index < self._window.end:
            await self._move_to(window_around(index, len(ids)))
        views = [turn for turn in self.turns if turn.record and turn.record.turn_id == turn_id]
        if views:
            self.call_after_refresh(self._bring_to_top, views[0])

    def _bring_to_top(self, view: TurnView) -> None:
        self.release_anchor()
        view.focus(scroll_visible=False)
        self._moving = True
        self._keep_in_place(view, self.content_region.y)

    async def add(self, view: TurnView) -> None:
        """Show a new turn at the bottom, and remove the oldest if there are too many."""
        self._welcome.display = False
        pending = [turn for turn in self.turns if turn.record is None]
        surplus = [turn for turn in pending if turn.ended]
        await self.remove_children(surplus[:-1])  # their errors were shown, and they are in no log
        room = max(1, MOST_TURNS - len(pending) - 1)
        await self._move_to(latest_window(len(self._records), room))
        await self.mount(view, before=self._later)
        self._anchor_to_end()

    def add_record(self, record: TurnRecord, replaced: Collection[str]) -> None:
        """Add the record of the finished turn at the bottom."""
        at_end = self._window.end == len(self._records)
        self._records.append(record)
        if at_end:
            self._window = TurnWindow(self._window.first, len(self._records))
        self._replaced = replaced
        self._update_markers()

    def show_notes(self, notes: Mapping[str, str]) -> None:
        """Show lines below the costs of turns.

        Args:
            notes: Lines by turn id.
        """
        self._notes = notes
        self._update_markers()

    async def remove_turn(self, turn_id: str) -> None:
        """Remove a turn from the screen, because another one has its text."""
        ids = [record.turn_id for record in self._records]
        if turn_id not in ids:
            return
        at, window = ids.index(turn_id), self._window
        del self._records[at]
        self._window = TurnWindow(
            window.first - (at < window.first), window.end - (at < window.end)
        )
        await self.remove_children(
            [turn for turn in self.turns if turn.record and turn.record.turn_id == turn_id]
        )
        self._update_markers()

    def show_branches(self, places: Mapping[str, tuple[int, int]]) -> None:
        """Mark the turns of which there are several branches.

        Args:
            places: Number of the branch, from 1, and their count, by turn id.
        """
        self._branches = places
        self._update_markers()

    async def earlier(self) -> None:
        """Mount the page of turns before the first mounted one, keeping the scroll position."""
        if self._window.first > 0 and not self._moving:
            await self._move_to(self._window.earlier(), stay=True)

    async def later(self) -> None:
        """Mount the page of turns after the last mounted one."""
        if self._window.end < len(self._records) and not self._moving:
            await self._move_to(self._window.later(len(self._records)), stay=True)

    async def page(self, pages: int) -> None:
        """Scroll by a page; at an end, mount the turns beyond it."""
        if pages < 0 and self.scroll_y <= 0:
            await self.earlier()
        elif pages < 0:
            self.scroll_page_up()
        elif self.scroll_y >= self.max_scroll_y:
            await self.later()
        else:
            self.scroll_page_down()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Mount more turns once the reader reaches an end of the mounted ones."""
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
        fixed = self._find_fixed_turn(window) if stay else None
        place = fixed.region.y if fixed is not None else 0
        try:
            await self._mount_and_remove(window)
            self._window = window
            self._update_markers()
        finally:
            if fixed is None or not self.call_after_refresh(self._keep_in_place, fixed, place):
                self._moving = False

    def _find_fixed_turn(self, window: TurnWindow) -> TurnView | None:
        """Find a turn that stays mounted, if possible one in view."""
        kept = {record.turn_id for record in self._records[window.first : window.end]}
        views = [turn for turn in self.turns if turn.record and turn.record.turn_id in kept]
        seen = [turn for turn in views if turn.region.overlaps(self.region)]
        return next(iter(seen or views), None)

    def _keep_in_place(
        self, view: TurnView, place: int, corrections: int = _SCROLL_CORRECTIONS
    ) -> None:
        """Scroll so that a turn stays in place while others are mounted or removed above it.

        Markdown reaches its height over several layouts, so the position is corrected repeatedly.
        """
        if view.is_mounted and view.region.y != place:
            y = self.scroll_y + view.region.y - place
            self.scroll_to(y=y, animate=False, force=True, immediate=True)
        repeat = view.is_mounted and corrections > 1
        if not (
            repeat and self.call_after_refresh(self._keep_in_place, view, place, corrections - 1)
        ):
            self._moving = False
            self._keep_later(view, place, self.scroll_y)

    def _keep_later(
        self, view: TurnView, place: int, scroll_y: float, checks: int = _LATE_CHECKS
    ) -> None:
        """Correct the position for a while, until the reader scrolls or more turns are mounted."""
        if self._moving or not view.is_mounted or self.scroll_y != scroll_y:
            return
        if view.region.y != place:
            self._moving = True
            y = self.scroll_y + view.region.y - place
            self.scroll_to(y=y, animate=False, force=True, immediate=True)
            self._moving = False
        if checks > 1:
            again = partial(self._keep_later, view, place, self.scroll_y, checks - 1)
            self.set_timer(_LATE_CHECK_SECONDS, again)

    async def _mount_and_remove(self, window: TurnWindow) -> None:
        records = self._records[window.first : window.end]
        ids = {record.turn_id for record in records}
        shown = {turn.record.turn_id: turn for turn in self.turns if turn.record is not None}
        await self.remove_children([view for id_, view in shown.items() if id_ not in ids])
        kept = [at for at, record in enumerate(records) if record.turn_id in shown]
        if not kept:
            pending = next(iter(self.turns), None)
            await self.mount_all(
                [TurnView.from_record(r) for r in records], before=pending or self._later
            )
            return
        first, last = kept[0], kept[-1]
        above, below = records[:first], records[last + 1 :]
        if above:
            await self.mount_all(
                [TurnView.from_record(r) for r in above], before=shown[records[first].turn_id]
            )
        if below:
            await self.mount_all(
                [TurnView.from_record(r) for r in below], after=shown[records[last].turn_id]
            )

    def _update_markers(self) -> None:
        first, below = self._window.first, len(self._records) - self._window.end
        for turn in self.turns:
            if turn.record is None:
                turn.display = below == 0
            else:
                turn.show_replaced(turn.record.turn_id in self._replaced)
                turn.show_branch(self._branches.get(turn.record.turn_id))
                turn.show_costs(self._notes.get(turn.record.turn_id, ""))
        self._marker.display = first > 0
        self._marker.update(f"▲ {units.count_text(first, 'earlier turn')}: Page Up shows them")
        self._later.display = below > 0
        self._later.update(f"▼ {units.count_text(below, 'later turn')}: Page Down shows them")


MOST_TURNS = 20
"""Turns kept mounted while answers stream: each one makes a new token more expensive to draw."""


PAGE_TURNS = 10
"""Turns mounted at a time when the reader scrolls."""


MOST_TURNS_READING = 40
"""Turns kept mounted while the reader scrolls through earlier ones."""


@dataclass(frozen=True, slots=True)
class TurnWindow:
    """Range of the mounted turns of a chat: ``first <= index < end``."""

    first: int = 0
    end: int = 0

    def earlier(self) -> TurnWindow:
        """Return the window one page further up, without the turns too far below."""
        first = max(0, self.first - PAGE_TURNS)
        return TurnWindow(first, min(self.end, first + MOST_TURNS_READING))

    def later(self, total: int) -> TurnWindow:
        """Return the window one page further down, without the turns too far above."""
        end = min(total, self.end + PAGE_TURNS)
        return TurnWindow(max(self.first, end - MOST_TURNS_READING), end)


def latest_window(total: int, most: int = MOST_TURNS) -> TurnWindow:
    """Return the window of the last turns of a chat."""
    return TurnWindow(max(0, total - most), total)


def window_around(index: int, total: int, most: int = MOST_TURNS) -> TurnWindow:
    """Return a window of turns with the turn at ``index`` in its middle, where that is possible."""
    first = max(0, min(index - most // 2, total - most))
    return TurnWindow(first, min(total, first + most))
