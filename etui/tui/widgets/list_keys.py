"""Lists and tables that are also moved through with j, k, g, G, Ctrl+D and Ctrl+U."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from textual.binding import Binding, BindingType
from textual.widgets import DataTable, OptionList

_Cell = TypeVar("_Cell")


def _row_keys(first: str, last: str) -> list[BindingType]:
    """Build the keys; ``first`` and ``last`` name the actions of the widget."""
    return [
        Binding("j", "cursor_down", "Down", id="list.down", show=False),
        Binding("k", "cursor_up", "Up", id="list.up", show=False),
        Binding("g", first, "First", id="list.first", show=False),
        Binding("G", last, "Last", id="list.last", show=False),
        Binding("ctrl+d", "half_page(1)", "Half a page down", id="list.half_down", show=False),
        Binding("ctrl+u", "half_page(-1)", "Half a page up", id="list.half_up", show=False),
    ]


def move_by_half(row: int, rows: int, height: int, pages: int) -> int:
    """Return the row that is ``pages`` half pages away from ``row``, within a list.

    Args:
        row: The current row, from 0.
        rows: Number of rows; with 0 the result is 0.
        pages: Half pages to move; negative moves up.
    """
    return max(0, min(rows - 1, row + pages * max(1, height // 2)))


def has_words(text: str, words: str) -> bool:
    """Return whether a text has every one of the words; case does not matter."""
    folded = text.casefold()
    return all(word in folded for word in words.casefold().split())


class RowList(OptionList):
    """A list of options."""

    BINDINGS: ClassVar[list[BindingType]] = _row_keys("first", "last")

    def action_half_page(self, pages: int) -> None:
        """Move the cursor by half pages."""
        if self.option_count:
            row, height = self.highlighted or 0, self.scrollable_content_region.height
            self.highlighted = move_by_half(row, self.option_count, height, pages)


class RowTable(DataTable[_Cell]):
    """A table of rows."""

    BINDINGS: ClassVar[list[BindingType]] = _row_keys("scroll_top", "scroll_bottom")

    def action_half_page(self, pages: int) -> None:
        """Move the cursor by half pages."""
        height = self.scrollable_content_region.height - self.header_height
        self.move_cursor(row=move_by_half(self.cursor_row, self.row_count, height, pages))
