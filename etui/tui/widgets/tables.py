"""Lists and tables of rows: their keys, and the columns that fit the width of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeAlias, TypeVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, OptionList

from etui.text import count_cells, cut_name

_Cell = TypeVar("_Cell")
Side: TypeAlias = Literal["left", "right"]


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
    """Return the row that is ``pages`` half pages away from ``row``, within a list."""
    return max(0, min(rows - 1, row + pages * max(1, height // 2)))


def has_words(text: str, words: str) -> bool:
    """Return whether a text has every one of the words; case does not matter."""
    folded = text.casefold()
    return all(word in folded for word in words.casefold().split())


class RowList(OptionList):
    """A list of options."""

    BINDINGS: ClassVar[list[BindingType]] = _row_keys("first", "last")

    def action_half_page(self, pages: int) -> None:
        if self.option_count:
            row, height = self.highlighted or 0, self.scrollable_content_region.height
            self.highlighted = move_by_half(row, self.option_count, height, pages)


class RowTable(DataTable[_Cell]):
    """A table of rows."""

    BINDINGS: ClassVar[list[BindingType]] = _row_keys("scroll_top", "scroll_bottom")

    def action_half_page(self, pages: int) -> None:
        height = self.scrollable_content_region.height - self.header_height
        self.move_cursor(row=move_by_half(self.cursor_row, self.row_count, height, pages))


PADDING_CELLS = 2  # Cells that a table adds to each column, one on each side
_DOWN, _UP = "▼", "▲"
_ARROW_CELLS = 2
_NOTHING = ("", "–")  # A column with nothing else is left out
_MOST_SHARE = 0.35  # Of the width, for one column before the others have theirs


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column of a table."""

    key: str
    title: str
    rank: int  # Importance: 0 stays longest as the table gets narrower
    most: int  # Greatest width in cells; longer cells are cut
    least: int | None = None
    """Smallest width in cells of a column that may shrink; None for one that may not."""
    enough: int | None = None  # Width in cells that it takes before less important columns get any
    right: bool = False  # Whether its cells are right-aligned
    middle: bool = False  # Whether its cells are cut in their middle, as names that end otherwise
    sorts: bool = True

    @property
    def title_cells(self) -> int:
        """Width of the heading in cells, with room for the arrow of a sorted column."""
        return count_cells(self.title) + (_ARROW_CELLS if self.sorts else 0)

    def heading(self, sorted_by: str | None, descending: bool) -> str:
        """Return the heading, with an arrow if the table is sorted by this column."""
        if self.key != sorted_by:
            return self.title
        return f"{self.title} {_DOWN if descending else _UP}"


Fitted: TypeAlias = tuple[tuple[TableColumn, int], ...]
"""The columns that are shown, and the width of each in cells without padding."""


def measure_columns(
    columns: Sequence[TableColumn], rows: Sequence[Mapping[str, str]]
) -> dict[str, int]:
    """Return the width in cells that each column needs for its heading and its cells, by key."""
    return {
        column.key: min(
            column.most,
            max([column.title_cells, *(count_cells(row.get(column.key, "")) for row in rows)]),
        )
        for column in columns
    }


def fit_columns(columns: Sequence[TableColumn], needed: Mapping[str, int], width: int) -> Fitted:
    """Choose the columns that fit next to each other, in the order of the table.

    The columns are taken by rank as long as they fit; the first by rank is always shown. What is
    left goes to the columns that may shrink, by rank. ``needed`` has the cells by key.
    """
    chosen: dict[str, int] = {}
    left = width
    for column in sorted(columns, key=lambda column: column.rank):
        wanted = needed[column.key]
        if column.least is not None:
            least = min(wanted, max(column.least, column.title_cells))
            enough = min(wanted, column.enough or 0, int(_MOST_SHARE * width))
            wanted = max(least, enough) if enough + PADDING_CELLS <= left else least
        if chosen and wanted + PADDING_CELLS > left:
            break
        wanted = max(1, min(wanted, width - PADDING_CELLS))
        chosen[column.key] = wanted
        left -= wanted + PADDING_CELLS
    for column in sorted(columns, key=lambda column: column.rank):
        if column.least is not None and column.key in chosen and left > 0:
            more = min(left, max(0, needed[column.key] - chosen[column.key]))
            chosen[column.key] += more
            left -= more
    return tuple((one, chosen[one.key]) for one in columns if one.key in chosen)


R = TypeVar("R")


class FittedTable(RowTable[Text], Generic[R]):
    """A table of records with the columns that fit its width."""

    def __init__(
        self,
        columns: Sequence[TableColumn],
        texts: Callable[[R], Mapping[str, str]],
        *,
        id: str,  # noqa: A002 as Textual has it
        margin: int = 2,
    ) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, header_height=1, id=id)
        self._all_columns = columns
        self._format = texts
        self._margin = margin  # Cells of a scrollbar
        self.records: list[R] = []
        self._texts: list[Mapping[str, str]] = []
        self._fitted: Fitted = ()
        self._order: tuple[str | None, bool] = (None, True)

    @property
    def current(self) -> R | None:
        row = self.cursor_row
        return self.records[row] if 0 <= row < len(self.records) else None

    @property
    def shown_keys(self) -> list[str]:
        return [column.key for column, _ in self._fitted]

    def show(
        self,
        records: Iterable[R],
        row: int = 0,
        *,
        sorted_by: str | None = None,
        descending: bool = True,
    ) -> None:
        """Show these records from now on, with the cursor on a row."""
        self.records, self._order = list(records), (sorted_by, descending)
        self._texts = [self._format(record) for record in self.records]
        self._draw(self._fit(), row)

    def append(self, records: Sequence[R]) -> None:
        first = len(self.records)
        self.records += records
        self._texts += [self._format(record) for record in records]
        fitted = self._fit()
        if fitted != self._fitted:
            self._draw(fitted, self.cursor_row)
        else:
            self._add_rows(first)

    def on_resize(self) -> None:
        if self._fitted and (fitted := self._fit()) != self._fitted:
            self._draw(fitted, self.cursor_row)

    def _fit(self) -> Fitted:
        columns = [
            column
            for column in self._all_columns
            if not self._texts or any(row[column.key] not in _NOTHING for row in self._texts)
        ]
        needed = measure_columns(columns, self._texts)
        return fit_columns(columns, needed, self.size.width - self._margin)

    def _draw(self, fitted: Fitted, row: int) -> None:
        self._fitted = fitted
        self.clear(columns=True)
        for column, width in fitted:
            justify: Side = "right" if column.right else "left"
            label = Text(column.heading(*self._order), justify=justify)
            self.add_column(label, key=column.key, width=width)
        self._add_rows(0)
        if row and self.records:
            self.move_cursor(row=max(0, min(row, len(self.records) - 1)), animate=False)

    def _add_rows(self, first: int) -> None:
        for number, texts in enumerate(self._texts[first:], first):
            cells = [
                Text(
                    cut_name(texts[column.key], width) if column.middle else texts[column.key],
                    justify="right" if column.right else "left",
                    no_wrap=True,
                    overflow="ellipsis",
                )
                for column, width in self._fitted
            ]
            self.add_row(*cells, key=f"{number}")
