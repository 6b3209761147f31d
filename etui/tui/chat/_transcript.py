"""The transcript of a chat, with a window of its turns mounted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Size
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from etui import units
from etui.tui.chat._find import FindBar, FoundWords, choose_match, find_turns
from etui.tui.chat._turn_view import TurnView
from etui.tui.widgets.lines import BlankBox
from etui.turn.record import TurnRecord

MOST_TURNS = 20
"""Turns kept mounted while answers stream: each one makes a new token more expensive to draw."""

PAGE_TURNS = 10  # Turns mounted at a time when the reader scrolls
MOST_TURNS_READING = 40  # Turns kept mounted while the reader scrolls through earlier ones


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
    return TurnWindow(max(0, total - most), total)


def window_around(index: int, total: int, most: int = MOST_TURNS) -> TurnWindow:
    """Return a window of turns with the turn at ``index`` in its middle, where that is possible."""
    first = max(0, min(index - most // 2, total - most))
    return TurnWindow(first, min(total, first + most))


_SCROLL_CORRECTIONS = 4
"""How often the scroll position is corrected after turns were mounted or removed."""

_LATE_CHECKS, _LATE_CHECK_SECONDS = 20, 0.05
"""A slow machine draws Markdown later than the refreshes of these corrections."""

WELCOME = """\
Ask something. Every answer shows what it cost in joules.

A policy chooses the model for each question.

F7      another policy or model
Esc     stop an answer; its text stays
Ctrl+O  earlier chats
F1      all keys, and what the words mean"""


class Transcript(BlankBox, VerticalScroll, can_focus=False):
    """Scrolling list of turns; only a window of a long chat is mounted."""

    HELP = "## Chat"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "lines(1)", "Line down", id="transcript.line_down", show=False),
        Binding("k", "lines(-1)", "Line up", id="transcript.line_up", show=False),
        Binding(
            "ctrl+d", "half_page(1)", "Half a page down", id="transcript.half_down", show=False
        ),
        Binding("ctrl+u", "half_page(-1)", "Half a page up", id="transcript.half_up", show=False),
        Binding("g", "first", "First turn", id="transcript.first", show=False),
        Binding("G", "last", "Last turn", id="transcript.last", show=False),
        Binding("slash", "find", "Find", id="transcript.find", key_display="/", show=False),
        Binding("n,enter", "found(1)", "Next found", id="transcript.found_next", key_display="n"),
        Binding("N,shift+enter", "found(-1)", "Before", id="transcript.found_before",
                key_display="N"),
    ]  # fmt: skip

    @dataclass
    class FoundElsewhere(Message):
        """Words were found on another branch alone, in this turn."""

        turn_id: str

    def __init__(self) -> None:
        self._records: list[TurnRecord] = []
        self._window = TurnWindow()
        self._replaced: Collection[str] = ()
        self._branches: Mapping[str, tuple[int, int]] = {}
        self._grades: dict[str, bool | None] = {}
        self._costs: Mapping[str, str] = {}
        self._moving = False
        self._kept: tuple[Widget, int] | None = None
        """What stays at a row of the screen while others are mounted."""
        self._marker = Static("", markup=False, classes="earlier")
        self._marker.display = False
        self._later = Static("", markup=False, classes="later")
        self._later.display = False
        self.find_bar = FindBar()
        self._words = ""
        self._found_words = FoundWords()
        self.elsewhere: Sequence[TurnRecord] = ()
        """The turns that are on other branches."""
        self._welcome = Static(WELCOME, markup=False, classes="welcome")
        super().__init__(self._marker, self._welcome, self._later, self.find_bar)

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        before = self.virtual_size
        has_changed = super()._size_updated(size, virtual_size, container_size, layout)
        if self.virtual_size != before:
            self.watch_virtual_size()  # which a box that only grows does not cause
        return has_changed

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
        return list(self.query_children(TurnView))

    async def show(self, records: Sequence[TurnRecord]) -> None:
        self._moving = True
        await self.remove_children(TurnView)
        self._records = list(records)
        self._replaced = ()
        self._window = TurnWindow(len(records), len(records))
        self._welcome.display = not records
        self._moving = False
        await self._move_to(latest_window(len(records)))
        self.call_after_refresh(self._anchor_to_end)

    async def show_turn(self, turn_id: str) -> None:
        """Scroll to a turn and focus it; a turn that the chat does not have changes nothing."""
        await self._with_turn(turn_id, self._bring_to_top)

    async def _with_turn(self, turn_id: str, use: Callable[[TurnView], object]) -> None:
        """Mount a turn, and call a function with it after the next refresh."""
        ids = [record.turn_id for record in self._records]
        if turn_id not in ids:
            return
        index = ids.index(turn_id)
        if not self._window.first <= index < self._window.end:
            if self._moving:  # the last jump has not come to rest
                self.call_after_refresh(self._with_turn, turn_id, use)
                return
            await self._move_to(window_around(index, len(ids)))
        views = [turn for turn in self.turns if turn.record and turn.record.turn_id == turn_id]
        if views:
            self.call_after_refresh(use, views[0])

    def _bring_to_top(self, view: TurnView) -> None:
        view.focus(scroll_visible=False)
        self._bring_to(view, self.content_region.y)

    def _bring_to(self, part: Widget, place: int) -> None:
        self.release_anchor()
        self._moving = True
        self._keep_in_place(part, place)

    async def add(self, view: TurnView) -> None:
        self._welcome.display = False
        pending = [turn for turn in self.turns if turn.record is None]
        surplus = [turn for turn in pending if turn.ended]
        await self.remove_children(surplus[:-1])  # their errors were shown, and they are in no log
        room = max(1, MOST_TURNS - len(pending) - 1)
        await self._move_to(latest_window(len(self._records), room))
        await self.mount(view, before=self._later)
        self._anchor_to_end()

    def add_record(self, record: TurnRecord) -> None:
        at_end = self._window.end == len(self._records)
        self._records.append(record)
        if at_end:
            self._window = TurnWindow(self._window.first, len(self._records))

    async def remove_turn(self, turn_id: str) -> None:
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

    def mark(
        self,
        *,
        replaced: Collection[str] | None = None,
        branches: Mapping[str, tuple[int, int]] | None = None,
        costs: Mapping[str, str] | None = None,
        grades: Mapping[str, bool | None] | None = None,
    ) -> None:
        """Mark turns, by id; what is None stays as it is, and grades are added to those before.

        A branch is its number, from 1, and their count; costs are lines below the price.
        """
        self._replaced = self._replaced if replaced is None else replaced
        self._branches = self._branches if branches is None else branches
        self._costs = self._costs if costs is None else costs
        self._grades |= grades or {}
        self._update_markers()

    async def earlier(self) -> None:
        """Mount the page of turns before the first mounted one, keeping the scroll position."""
        if self._window.first > 0 and not self._moving:
            await self._move_to(self._window.earlier(), stay=True)

    async def later(self) -> None:
        if self._window.end < len(self._records) and not self._moving:
            await self._move_to(self._window.later(len(self._records)), stay=True)

    async def page(self, pages: int) -> None:
        if pages < 0 and self.scroll_y <= 0:
            await self.earlier()
        elif pages < 0:
            self.scroll_page_up()
        elif self.scroll_y >= self.max_scroll_y:
            await self.later()
        else:
            self.scroll_page_down()

    async def action_half_page(self, halves: int) -> None:
        await self.action_lines(halves * max(1, self.size.height // 2))

    async def action_lines(self, lines: int) -> None:
        if lines < 0 and self.scroll_y <= 0:
            await self.earlier()
        elif lines > 0 and self.scroll_y >= self.max_scroll_y:
            await self.later()
        else:
            self.release_anchor()
            self.scroll_relative(y=lines, animate=False)

    async def action_first(self) -> None:
        if self._records:
            await self.show_turn(self._records[0].turn_id)

    async def action_last(self) -> None:
        window = latest_window(len(self._records))
        if self._moving and window != self._window:  # the last jump has not come to rest
            self.call_after_refresh(self.action_last)
            return
        await self._move_to(window)
        if self.turns:
            self.turns[-1].focus(scroll_visible=False)
            self.scroll_end(animate=False)
            self.call_after_refresh(self._anchor_to_end)

    @property
    def finding(self) -> bool:
        return bool(self.find_bar.display)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self._words) if action == "found" else super().check_action(action, parameters)

    def action_find(self) -> None:
        at_end = self.is_vertical_scroll_end
        self.add_class("-finding")
        self.find_bar.open()
        if at_end:
            self.call_after_refresh(self.scroll_end, animate=False)

    def on_input_changed(self, changed: Input.Changed) -> None:
        words = changed.value.strip()
        count = units.count_text(len(find_turns(self._records, words)), "answer")
        self.find_bar.show_result(f"in {count} · Enter: the first, n next" if words else "")

    def end_find(self) -> Widget | None:
        """Close the line and remove the marks; return the turn that was found last."""
        self.find_bar.display = False
        self.remove_class("-finding")
        self.find_bar.show_result("")
        self._words = ""
        self.refresh_bindings()
        return self._found_words.clear()

    async def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Go to the first turn with the words, from the first one in view."""
        submitted.stop()
        self._found_words.clear()
        self._words = submitted.value.strip()
        await self.find(0)

    async def action_found(self, step: int) -> None:
        """Go to the next (1) or the earlier (-1) place with the words."""
        if place := self._found_words.step(step):
            self._show_result()
            self._bring_into_view(*place)
        else:
            await self.find(step)

    async def find(self, step: int) -> None:
        """Go to the next (1) or the earlier (-1) turn with the words; with 0, not past this one."""
        index = choose_match(find_turns(self._records, self._words), self._turn_in_view(), step)
        self.refresh_bindings()
        if index is not None:
            mark = partial(self._mark_found, words=self._words, at_end=step < 0)
            await self._with_turn(self._records[index].turn_id, mark)
            return
        others = find_turns(self.elsewhere, self._words)
        self.find_bar.show_result("not found" if self._words and not others else "")
        if others:
            self.post_message(self.FoundElsewhere(self.elsewhere[others[-1]].turn_id))

    def _show_result(self) -> None:
        matches = find_turns(self._records, self._words)
        ids, turn_id = [self._records[m].turn_id for m in matches], self._found_words.turn_id
        at = ids.index(turn_id) + 1 if turn_id in ids else 0
        parts = [f"answer {at} of {len(ids)}", self._found_words.place_text]
        more = len(find_turns(self.elsewhere, self._words))
        parts += [f"{more} on other branches" if more else "", "n next, N before"]
        self.find_bar.show_result(" · ".join(part for part in parts if part))

    def _mark_found(
        self, view: TurnView, *, words: str, at_end: bool, checks: int = _LATE_CHECKS
    ) -> None:
        """Focus a turn, mark the words in it, which may be mounted later, and scroll to them."""
        if words != self._words or not view.is_mounted:
            return
        if checks == _LATE_CHECKS:
            view.focus(scroll_visible=False)
        if place := self._found_words.mark(view, words, at_end=at_end):
            self.call_after_refresh(self._bring_into_view, *place)
        elif checks > 1:
            again = partial(self._mark_found, view, words=words, at_end=at_end, checks=checks - 1)
            self.set_timer(_LATE_CHECK_SECONDS, again)
        else:
            self._bring_to(view, self.content_region.y)  # they are where the text was cut
        self._show_result()

    def _bring_into_view(self, part: Widget, line: int) -> None:
        """Scroll so that a line of a widget is seen, if it is not."""
        view = self.content_region
        y = part.content_region.y + line
        if not view.y <= y < view.bottom - self.find_bar.size.height:
            top = part.content_region.y - part.region.y
            self._bring_to(part, view.y + view.height // 3 - line - top)

    def _turn_in_view(self) -> int:
        turns = [turn for turn in self.turns if turn.record is not None]
        seen = [turn for turn in turns if turn.region.overlaps(self.region)]
        focused = [turn for turn in turns if turn.has_focus_within]
        chosen = next(iter(focused or seen), None)
        return self._window.first + (turns.index(chosen) if chosen is not None else 0)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
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
        # Not its region: that is the one before a scroll which is not drawn yet.
        seen_y = fixed.virtual_region.y - round(self.scroll_y) if fixed is not None else 0
        place = self.content_region.y + seen_y
        try:
            await self._mount_and_remove(window)
            self._window = window
            self._update_markers()
        finally:
            if fixed is None or not self.call_after_refresh(self._keep_in_place, fixed, place):
                self._moving = False

    def _find_fixed_turn(self, window: TurnWindow) -> TurnView | None:
        kept = {record.turn_id for record in self._records[window.first : window.end]}
        views = [turn for turn in self.turns if turn.record and turn.record.turn_id in kept]
        seen = [turn for turn in views if turn.region.overlaps(self.region)]
        return next(iter(seen or views), None)

    def _keep_in_place(
        self, view: Widget, place: int, corrections: int = _SCROLL_CORRECTIONS
    ) -> None:
        """Scroll so that a turn stays in place while others are mounted or removed above it.

        Markdown reaches its height over several layouts, so the position is corrected repeatedly.
        """
        if corrections == _SCROLL_CORRECTIONS:
            self._kept = (view, place)
        elif self._kept != (view, place):
            return  # another turn is to be seen meanwhile
        if view.is_mounted:
            self._scroll_into(view, place)
        repeat = view.is_mounted and corrections > 1
        if not (
            repeat and self.call_after_refresh(self._keep_in_place, view, place, corrections - 1)
        ):
            self._moving = False
            self._keep_later(view, place, self.scroll_y)

    def _scroll_into(self, view: Widget, place: int) -> None:
        if view.region.y != place:
            y = self.scroll_y + view.region.y - place
            self.scroll_to(y=y, animate=False, force=True, immediate=True)

    def _keep_later(
        self, view: Widget, place: int, scroll_y: float, checks: int = _LATE_CHECKS
    ) -> None:
        """Correct the position for a while, until the reader scrolls or more turns are mounted."""
        is_left = self.scroll_y != scroll_y or self._kept != (view, place)
        if self._moving or not view.is_mounted or is_left:
            return
        self._moving = True
        self._scroll_into(view, place)
        self._moving = False
        if checks > 1:
            again = partial(self._keep_later, view, place, self.scroll_y, checks - 1)
            self.set_timer(_LATE_CHECK_SECONDS, again)

    async def _mount_and_remove(self, window: TurnWindow) -> None:
        records = self._records[window.first : window.end]
        ids = [record.turn_id for record in records]
        shown = {turn.record.turn_id: turn for turn in self.turns if turn.record is not None}
        await self.remove_children([view for id_, view in shown.items() if id_ not in ids])
        kept = [at for at, turn_id in enumerate(ids) if turn_id in shown]
        first, after = (kept[0], kept[-1] + 1) if kept else (len(records), len(records))
        below = shown[ids[first]] if kept else next(iter(self.turns), None)
        if above := records[:first]:
            views = [TurnView.from_record(record) for record in above]
            await self.mount_all(views, before=below or self._later)
        if rest := records[after:]:
            views = [TurnView.from_record(record) for record in rest]
            await self.mount_all(views, after=shown[ids[after - 1]])

    def _update_markers(self) -> None:
        first, below = self._window.first, len(self._records) - self._window.end
        for turn in self.turns:
            if turn.record is None:
                turn.display = below == 0
            else:
                turn_id = turn.record.turn_id
                turn.show_marks(  # without a change there is no new layout
                    replaced=turn_id in self._replaced,
                    place=self._branches.get(turn_id),
                    good=self._grades.get(turn_id),
                    costs=self._costs.get(turn_id, ""),
                )
        self._marker.display = first > 0
        self._marker.update(f"▲ {units.count_text(first, 'earlier turn')}: Page Up shows them")
        self._later.display = below > 0
        self._later.update(f"▼ {units.count_text(below, 'later turn')}: Page Down shows them")
