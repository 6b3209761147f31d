"""The table of power channels: beside the chat, and with a cursor on the power screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from etui.plots.power_history import Buckets
from etui.tui.power.channel_rows import Row, Run, row_lines, spark_width
from etui.tui.power.feed import TimeWindow

_LEAST_COLUMN = 22  # Narrowest column where rows are side by side


class ChannelTable(ScrollView, can_focus=True):
    """Rows of channels, drawn only where they changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Next channel", id="top.down", show=False),
        Binding("up,k", "move(-1)", "Channel above", id="top.up", show=False),
        Binding("home,g", "move_to(0)", "First channel", id="top.first", show=False),
        Binding("end,G", "move_to(-1)", "Last channel", id="top.last", show=False),
    ]
    HELP = "## Channels"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "channel-table--text",
        "channel-table--muted",
        "channel-table--spark",
        "channel-table--limit",
        "channel-table--own",
        "channel-table--others",
        "channel-table--idle",
        "channel-table--cursor",
    }

    class Moved(Message):
        """The cursor is on another row."""

    def __init__(self, *, cursor: bool = True) -> None:
        super().__init__(id="channels")
        self.can_focus = self._has_cursor = cursor
        self._rows: tuple[Row, ...] = ()
        self._buckets: Mapping[str, Buckets] = {}
        self._row_height = self._columns = 1
        self._cursor = 0
        self._shown: tuple[TimeWindow, int] | None = None
        self._lines: tuple[int, list[list[Run]]] | None = None

    @property
    def row(self) -> Row | None:
        return self._rows[self._cursor] if self._rows else None

    @property
    def width(self) -> int:
        return self.scrollable_content_region.width

    def show(
        self, rows: tuple[Row, ...], window: TimeWindow, row_height: int = 1, columns: int = 1
    ) -> None:
        """Show these rows, of so many lines, with the watts of a window of time.

        Columns are filled from top to bottom, without a cursor.
        """
        self._shown = (window, columns)
        room = (self.width + 1) // (_LEAST_COLUMN + 1)
        self._columns = max(1, min(columns, len(rows), room))
        count = 2 * spark_width(rows, self._column_width)
        self._buckets = {row.key: window.buckets(row.key, count) for row in rows}
        self._rows, self._row_height = rows, row_height
        self._cursor = max(0, min(self._cursor, len(rows) - 1))
        self._lines = None
        self.virtual_size = Size(self.width, -(-len(rows) // self._columns) * row_height)
        self.refresh()

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_move_to(self, row: int) -> None:
        """Move the cursor to a row; negative ones count from the end."""
        self._move_to(row if row >= 0 else len(self._rows) + row)

    def on_click(self, event: object) -> None:
        y = getattr(event, "y", 0) + self.scroll_offset.y
        self._move_to(int(y) // self._row_height)

    def on_resize(self) -> None:
        if self._shown is not None:
            window, columns = self._shown
            self.show(self._rows, window, self._row_height, columns)

    def render_line(self, y: int) -> Strip:
        width, at = self.width, y + self.scroll_offset.y
        lines = self._draw()
        if at >= len(lines):
            return Strip.blank(width, self.rich_style)
        is_current = self._has_cursor and at // self._row_height == self._cursor
        back = Style()
        if is_current and len(self._rows) > 1:
            # Only the background: the colours of a row have a meaning.
            back = Style(bgcolor=self.get_component_rich_style("channel-table--cursor").bgcolor)
        segments = [
            Segment(text, self.get_component_rich_style(f"channel-table--{ink}") + back)
            for text, ink in lines[at]
        ]
        return Strip(segments).adjust_cell_length(width, self.rich_style + back)

    @property
    def _column_width(self) -> int:
        return (self.width - 2 * (self._columns - 1)) // self._columns

    def _draw(self) -> list[list[Run]]:
        width = self._column_width
        if self._lines is None or self._lines[0] != self.width:
            nothing = Buckets(1.0, (), ())
            drawn: list[list[Run]] = []
            for row in self._rows:
                buckets = self._buckets.get(row.key, nothing)
                drawn += row_lines(row, buckets, self._rows, width, self._row_height)
            height = -(-len(drawn) // self._columns)
            lines = [list(line) for line in drawn[:height]]
            for at, line in enumerate(drawn[height:], height):
                lines[at % height] += [("  ", "text"), *line]
            self._lines = (self.width, lines)
        return self._lines[1]

    def _move_to(self, row: int) -> None:
        row = max(0, min(row, len(self._rows) - 1))
        if row != self._cursor:
            self._cursor = row
            height = self._row_height
            self.scroll_to_region(Region(0, row * height, self.width, height), animate=False)
            self.refresh()
            self.post_message(self.Moved())
