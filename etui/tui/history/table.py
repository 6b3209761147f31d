"""The table of turns: the columns that fit, with an arrow at the one it is sorted by."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from etui.log.queries import TurnSummary
from etui.tui.history.columns import COLUMNS, SORTED_COLUMNS, row_cells, turn_texts
from etui.tui.history.queries import HistoryQuery
from etui.tui.widgets.columns import FittedColumn, fit_columns, measure_columns
from etui.tui.widgets.list_keys import RowTable

_SCROLLBAR_CELLS = 2


class TurnsTable(RowTable[Text]):
    """One row per turn."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, id="turns", header_height=1)
        self._turns: list[TurnSummary] = []
        self._texts: list[dict[str, str]] = []
        self._fitted: tuple[FittedColumn, ...] = ()
        self._query = HistoryQuery()
        self._drawn_query: HistoryQuery | None = None

    @property
    def turns(self) -> Sequence[TurnSummary]:
        """The turns that were read, in the order of the rows."""
        return self._turns

    @property
    def turn_under_cursor(self) -> TurnSummary | None:
        """The turn of the selected row."""
        row = self.cursor_row
        return self._turns[row] if 0 <= row < len(self._turns) else None

    def show(self, query: HistoryQuery, turns: Sequence[TurnSummary], offset: int) -> None:
        """Show the turns from ``offset`` on; those of another query are dropped."""
        self._query = query
        if offset == 0:
            self._turns.clear()
            self._texts.clear()
        texts = [turn_texts(turn) for turn in turns]
        first = len(self._turns)
        self._turns += turns
        self._texts += texts
        fitted = self._fit()
        if offset == 0 or fitted != self._fitted or query != self._drawn_query:
            self._draw(fitted, 0 if offset == 0 else self.cursor_row)
        else:
            self._add_rows(first)

    def on_resize(self) -> None:
        """Choose the columns again."""
        fitted = self._fit()
        if fitted != self._fitted and self._drawn_query is not None:
            self._draw(fitted, self.cursor_row)

    def _fit(self) -> tuple[FittedColumn, ...]:
        width = self.size.width - _SCROLLBAR_CELLS
        return fit_columns(COLUMNS, measure_columns(COLUMNS, self._texts), width)

    def _draw(self, fitted: tuple[FittedColumn, ...], row: int) -> None:
        """Build the table again with these columns, and put the cursor on a row."""
        self._fitted, self._drawn_query = fitted, self._query
        sorted_by = SORTED_COLUMNS[self._query.sort]
        self.clear(columns=True)
        for one in fitted:
            heading = Text(
                one.column.heading(sorted_by, self._query.descending),
                justify="right" if one.column.right else "left",
            )
            self.add_column(heading, key=one.column.key, width=one.width)
        self._add_rows(0)
        if row:
            self.move_cursor(row=min(row, len(self._turns) - 1), animate=False)

    def _add_rows(self, first: int) -> None:
        for number, texts in enumerate(self._texts[first:], first):
            self.add_row(*row_cells(texts, self._fitted), key=f"{number}")
