"""The channels of the power screen, with a cursor; the graph shows the one under it."""

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
from etui.tui.power_screen.channel_rows import Ink, Row, Run, row_lines


class PowerTable(ScrollView, can_focus=True):
    """Rows of channels, drawn only where they changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Next channel", id="top.down", show=False),
        Binding("up,k", "move(-1)", "Channel above", id="top.up", show=False),
        Binding("home,g", "move_to(0)", "First channel", id="top.first", show=False),
        Binding("end,G", "move_to(-1)", "Last channel", id="top.last", show=False),
    ]
    HELP = """\
## Channels

One row a channel: its watts over the time of the graph, now and of its limit, how busy its device
is, and whose watts they are. The graph shows the channel under the cursor. `–` is a value that no
driver reports.
"""
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "power-table--text",
        "power-table--muted",
        "power-table--spark",
        "power-table--limit",
        "power-table--own",
        "power-table--others",
        "power-table--idle",
        "power-table--cursor",
    }

    class Moved(Message):
        """The cursor is on another row."""

    def __init__(self) -> None:
        super().__init__(id="channels")
        self._rows: tuple[Row, ...] = ()
        self._buckets: Mapping[str, Buckets] = {}
        self._row_height = 1
        self._cursor = 0
        self._lines: tuple[int, list[list[Run]]] | None = None

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self._cursor] if self._rows else None

    @property
    def width(self) -> int:
        """Cells of a row, without the scrollbar."""
        return self.scrollable_content_region.width

    @property
    def text(self) -> str:
        """All rows as text."""
        return "\n".join("".join(text for text, _ in line) for line in self._draw())

    def show(self, rows: tuple[Row, ...], buckets: Mapping[str, Buckets], row_height: int) -> None:
        """Show these rows, with the buckets of each by its key."""
        self._rows, self._buckets, self._row_height = rows, buckets, row_height
        self._cursor = max(0, min(self._cursor, len(rows) - 1))
        self._lines = None
        self.virtual_size = Size(self.width, len(rows) * row_height)
        self.refresh()

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        self._move_to(self._cursor + by)

    def action_move_to(self, row: int) -> None:
        """Move the cursor to a row; negative ones count from the end."""
        self._move_to(row if row >= 0 else len(self._rows) + row)

    def on_click(self, event: object) -> None:
        """Move the cursor to the row under the mouse."""
        y = getattr(event, "y", 0) + self.scroll_offset.y
        self._move_to(int(y) // self._row_height)

    def on_resize(self) -> None:
        """Draw the columns that fit the new width."""
        self._lines = None

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        width, at = self.width, y + self.scroll_offset.y
        lines = self._draw()
        if at >= len(lines):
            return Strip.blank(width, self.rich_style)
        is_current = at // self._row_height == self._cursor
        back = Style()
        if is_current and (self.has_focus or len(self._rows) > 1):
            # Only the background: the colours of a row have a meaning.
            back = Style(bgcolor=self.get_component_rich_style("power-table--cursor").bgcolor)
        segments = [
            Segment(text, self.get_component_rich_style(f"power-table--{ink}") + back)
            for text, ink in lines[at]
        ]
        return Strip(segments).adjust_cell_length(width, self.rich_style + back)

    def _draw(self) -> list[list[Run]]:
        width = self.width
        if self._lines is None or self._lines[0] != width:
            nothing = Buckets(1.0, (), ())
            lines: list[list[tuple[str, Ink]]] = []
            for row in self._rows:
                buckets = self._buckets.get(row.key, nothing)
                lines += row_lines(row, buckets, self._rows, width, self._row_height)
            self._lines = (width, lines)
        return self._lines[1]

    def _move_to(self, row: int) -> None:
        row = max(0, min(row, len(self._rows) - 1))
        if row != self._cursor:
            self._cursor = row
            height = self._row_height
            self.scroll_to_region(Region(0, row * height, self.width, height), animate=False)
            self.refresh()
            self.post_message(self.Moved())
