"""The power screen: every channel over the last hour, whose watts they are, what was spent."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, ClassVar, Literal

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError
from etui.log.daily_energy import DailyEnergy
from etui.plots.braille import Graph
from etui.plots.power_history import ZOOM_SECONDS
from etui.text import SEPARATOR, sanitize
from etui.tui._work import in_thread
from etui.tui.ascii import TerminalApp, leave_on_hangup, leave_on_terminate
from etui.tui.commands import Command, build_commands
from etui.tui.pacing import SAMPLE_SECONDS
from etui.tui.power import spent_text
from etui.tui.power._widgets import ChannelTable
from etui.tui.power.channel_rows import Row, build_rows, header_text, long_name
from etui.tui.power.feed import SINCE_START, PowerFeed, TimeWindow
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.lines import Line
from etui.tui.widgets.power_graph import PowerGraph

if TYPE_CHECKING:
    from etui.tui.open_services import LiveMeter

_VITALS_NS = 1_000_000_000


class PowerTopApp(TerminalApp):
    """The power screen alone."""

    TITLE = "etui power"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "toggle_help", "Help", id="top.help", priority=True),
        Binding("q", "quit", "Quit", id="top.quit"),
        Binding("ctrl+q,ctrl+c", "quit", "Quit", id="top.leave", show=False, priority=True),
    ]

    def __init__(self, config: Config, meter: LiveMeter, interval_seconds: float = 1.0) -> None:
        super().__init__(config)
        self._meter = meter
        self._feed = PowerFeed()
        self._vitals_ns = -_VITALS_NS
        self._screen = PowerScreen(config, self._feed, interval_seconds=interval_seconds)

    def on_mount(self) -> None:
        self.set_keymap(dict(self._config.keymap))
        if self._config.theme in self.available_themes:
            self.theme = self._config.theme
        leave_on_terminate(self.exit)
        with suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.exit)
        self._read()
        self.push_screen(self._screen)
        self.set_interval(SAMPLE_SECONDS, self._read)

    def run_until_left(self) -> None:
        leave_on_hangup(lambda: None)
        self.run()

    def _read(self) -> None:
        now_ns = time.monotonic_ns()
        self._feed.add(now_ns, self._meter.latest())
        if now_ns - self._vitals_ns >= _VITALS_NS:
            self._vitals_ns = now_ns
            self._feed.vitals = self._meter.vitals()


Part = Literal["channels", "models", "days", "money"]

PARTS: tuple[Part, ...] = ("channels", "models", "days", "money")
"""Parts between which tab moves, in their order; the channels come with the graph."""

_COMPACT_HEIGHT, _COMPACT_WIDTH = 16, 60
_WIDE = 112
_FIXED_LINES = 4  # The title, the titles of the columns, those of the parts, and the footer
_LEAST_GRAPH, _MOST_GRAPH = 5, 10
_LEAST_SPENT, _MOST_SPENT = 5, 16
_MOST_ROW = 2  # Lines of a channel; the only one has its graph above


@dataclass(frozen=True, slots=True)
class ScreenLayout:
    """Heights in lines, and the parts that are shown."""

    graph_height: int  # 0 hides the graph
    row_height: int  # Lines of a channel
    channels_height: int  # Lines of all channels together; they scroll if that is too few
    spent_height: int  # Lines below the titles of the parts; 0 hides them
    parts: tuple[Part, ...]  # The parts that are shown, from the left


def choose_layout(width: int, height: int, rows: int, focused: Part, left: Part) -> ScreenLayout:
    """Choose the layout for a terminal."""
    if height < _COMPACT_HEIGHT or width < _COMPACT_WIDTH:
        room = max(1, height - 3)
        if focused == "channels":
            return ScreenLayout(0, 1, room, 0, ())
        return ScreenLayout(0, 1, 0, room, (focused,))
    parts: tuple[Part, ...] = ("models", "days", "money") if width >= _WIDE else (left, "money")
    room = height - _FIXED_LINES
    spent = max(_LEAST_SPENT, min(_MOST_SPENT, room // 3))
    rows = max(1, rows)
    row_height = max(1, min(_MOST_ROW if rows > 1 else 1, (room - spent - room // 4) // rows))
    channels = min(rows * row_height, room - spent - _LEAST_GRAPH)
    graph = room - spent - channels
    most = max(_MOST_GRAPH, height // 3)
    if graph > most:
        spent, graph = spent + graph - most, most
    return ScreenLayout(graph, row_height, channels, spent, parts)


NOTHING_READ = "no power sensor can be read: `etui doctor` shows why, and what makes it readable"
NOT_OPEN = "opening the meter …"
_READ_AGAIN_SECONDS = 20.0
_LONG_TITLE_FROM = 90
_TITLES: dict[Part, str] = {
    "models": f"Joules by model, {spent_text.DAYS_SHOWN} days",
    "days": "Joules, answers' peak W",
    "money": "Spent in all",
}
_HINTS: dict[Part, str] = {"models": " (tab: days)", "days": " (tab: models)"}
_LINES: dict[Part, Callable[[spent_text.Spent, int], list[str]]] = {
    "models": spent_text.model_and_answer_lines,
    "days": spent_text.day_lines,
    "money": spent_text.money_lines,
}


class SpentPart(VerticalScroll, can_focus=True):
    """A title, and lines that scroll."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", id="top.scroll_down", show=False),
        Binding("k", "scroll_up", "Up", id="top.scroll_up", show=False),
        Binding("g", "scroll_home", "First line", id="top.scroll_first", show=False),
        Binding("G", "scroll_end", "Last line", id="top.scroll_last", show=False),
    ]

    HELP = "## What was spent"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"spent-part--bar"}

    def __init__(self, part: Part) -> None:
        self._body = Static("", markup=False)
        super().__init__(self._body, id=part, classes="part")
        self.part = part

    def show(self, spent: spent_text.Spent) -> None:
        if width := self._body.size.width:
            text = Text(sanitize("\n".join(_LINES[self.part](spent, width))))
            text.highlight_regex("[█▏▎▍▌▋▊▉]+", self.get_component_rich_style("spent-part--bar"))
            self._body.update(text)


class PowerScreen(Screen[None]):
    """Graph, channels, and what was spent by model, by day, and in money."""

    AUTO_FOCUS = "ChannelTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "zoom(-1)", "Shorter", id="top.zoom_in", key_display="["),
        Binding("right_square_bracket", "zoom(1)", "Longer", id="top.zoom_out", key_display="]"),
        Binding("p,space", "pause", "Pause", id="top.pause"),
        Binding("tab", "next_part(1)", "Next part", id="top.next", priority=True),
        Binding("shift+tab", "next_part(-1)", "Part before", id="top.previous", show=False,
                priority=True),
        Binding("r", "read", "Read again", id="top.read", show=False),
        Binding("w", "wall_meter", "Wall meter", id="top.wall", show=False),
    ]  # fmt: skip
    HELP = "## Power"

    def __init__(
        self,
        config: Config,
        feed: PowerFeed,
        *,
        interval_seconds: float = 1.0,
    ) -> None:
        super().__init__()
        self._config = config
        self._feed = feed
        self._interval_seconds = interval_seconds
        self._window = TimeWindow(feed, SINCE_START)
        self._part: Part = "channels"
        self._left: Part = "days"
        self._rows: tuple[Row, ...] = ()
        self._spent: spent_text.Spent | None = None
        self._title = Line("", classes="title")
        self._graph = PowerGraph(id="power-graph")
        self._columns = Line("", classes="columns")
        self._table = ChannelTable()
        self._spent_parts = [SpentPart(part) for part in PARTS[1:]]
        self._headings = {part: Line(_TITLES[part], classes="heading") for part in PARTS[1:]}

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._graph
        yield self._columns
        yield self._table
        with Horizontal(id="spent"):
            for part in self._spent_parts:
                with Vertical(id=f"{part.part}-box", classes="box"):
                    yield self._headings[part.part]
                    yield part
        yield KeyFooter()

    def commands(self) -> list[Command]:
        return build_commands(
            ("power: pause", "Hold the picture, or go on", self.action_pause),
            ("power: read again", "Read the log again", self.action_read),
            ("power: wall meter …", "Set up a plug with a meter", self.action_wall_meter),
        )  # fmt: skip

    def on_mount(self) -> None:
        self.set_interval(self._interval_seconds, self._draw)
        self.set_interval(_READ_AGAIN_SECONDS, self._read_if_shown)

    def on_screen_resume(self) -> None:
        self.action_read()
        self._draw()

    def on_resize(self) -> None:
        self._draw()
        self.call_after_refresh(self._show_spent)

    def on_channel_table_moved(self) -> None:
        self._draw()

    def action_zoom(self, by: int) -> None:
        self._window.zoom(by)
        self._draw()

    def action_pause(self) -> None:
        self._window.pause()
        self._draw()

    def action_next_part(self, by: int) -> None:
        """Move to the next part, and show it where not all have room."""
        part = PARTS[(PARTS.index(self._part) + by) % len(PARTS)]
        self._part = part
        if part in ("models", "days"):
            self._left = part
        self._draw()
        self.query_one(f"#{part}").focus()
        self.call_after_refresh(self._show_spent)

    def on_descendant_focus(self) -> None:
        focused = self.focused
        if isinstance(focused, SpentPart):
            self._part = focused.part
        elif isinstance(focused, ChannelTable):
            self._part = "channels"

    def action_wall_meter(self) -> None:
        from etui.tui.power._wall_dialog import WallMeterModal

        self.app.push_screen(WallMeterModal(self._config))

    def _read_if_shown(self) -> None:
        if self.is_current:
            self.action_read()

    @work(exclusive=True, group="spent", exit_on_error=False)
    async def action_read(self) -> None:
        today = date.today()
        try:
            self._spent = await in_thread(
                lambda: spent_text.read_spent(self._config, today), "run `etui doctor`"
            )
        except EtuiError as error:
            self._spent = spent_text.Spent(
                DailyEnergy(), today, problem=f"{error.what}; {error.fix}"
            )
        self._show_spent()

    def _draw(self) -> None:
        if not self.is_current or not self.is_mounted:
            return
        if not self._window.is_held or not self._rows:
            self._rows = build_rows(self._window.states())
        layout = choose_layout(*self.app.size, len(self._rows), self._part, self._left)
        self._take_layout(layout)
        self._table.show(self._rows, self._window, layout.row_height)
        span = self._window.span_text
        width = self._table.width or self.app.size.width
        self._columns.set_text(header_text(self._rows, width, span))
        row, values = self._table.row, self._graph.values
        if row is not None and layout.graph_height:
            buckets = self._window.buckets(row.key, values)
            own = self._window.buckets(row.key, values, own=True).means
            self._graph.show(Graph(buckets, row.limit_watts, row.idle_watts, own=own))
        self._title.set_text(self._title_text(row, span))

    def _title_text(self, row: Row | None, span: str) -> str:
        newest_ns = self._feed.history.newest_ns
        if row is None:
            return NOT_OPEN if newest_ns is None else NOTHING_READ
        hour = ZOOM_SECONDS[-1]
        whole = self._feed.history.buckets(row.key, time.monotonic_ns(), hour, 2)
        now = units.UNMEASURED
        if row.watts is not None:
            now = units.of_limit_text(row.watts, row.limit_watts, row.kind)
        elif row.state is not None and row.state.power.problem:
            now = f"{now} ({row.state.power.problem})"
        parts, is_long = [long_name(row), now], self.app.size.width >= _LONG_TITLE_FROM
        if whole.highest is not None:
            when = " in the last hour" if is_long else ""
            parts.append(f"highest {units.short_watts_text(whole.highest, row.kind)}{when}")
        parts.append(f"{span} ([ ] change it)" if is_long else span)
        if self._window.is_held:
            parts.append("paused")
        return sanitize(SEPARATOR.join(parts))

    def _take_layout(self, layout: ScreenLayout) -> None:
        self._graph.display = layout.graph_height > 0
        self._graph.styles.height = max(1, layout.graph_height)
        self._table.display = self._columns.display = layout.channels_height > 0
        self._table.styles.height = max(1, layout.channels_height)
        spent = self.query_one("#spent")
        spent.display = layout.spent_height > 0
        spent.styles.height = layout.spent_height + 1
        for part in self._spent_parts:
            self.query_one(f"#{part.part}-box").display = part.part in layout.parts
            hint = _HINTS.get(part.part, "") if len(layout.parts) == 2 else ""
            self._headings[part.part].set_text(_TITLES[part.part] + hint)

    def _show_spent(self) -> None:
        if self._spent is not None:
            for part in self._spent_parts:
                part.show(self._spent)
