"""The table of runs: sorted by a column, filtered by words, with the columns that fit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from etui.tui.runs.columns import COLUMNS, run_texts, sort_runs
from etui.tui.runs.run_list import RunEntry
from etui.tui.widgets.columns import FittedColumn, fit_columns, measure_columns
from etui.tui.widgets.list_keys import RowTable, has_words

_SCROLLBAR_CELLS = 2
_ASCENDING = frozenset({"run", "what", "model", "joules", "per_token"})
"""Columns of which the lowest value comes first when they are chosen."""


class RunsTable(RowTable[Text]):
    """One row per run; at first in the order in which they were started, the last one first."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, id="runs")
        self._all: Sequence[RunEntry] = ()
        self._shown: list[RunEntry] = []
        self._fitted: tuple[FittedColumn, ...] = ()
        self._sort_key: str | None = None
        self._descending = True
        self._words = ""

    @property
    def run_under_cursor(self) -> RunEntry | None:
        """The run of the selected row."""
        row = self.cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def show(self, runs: Sequence[RunEntry]) -> None:
        """Show these runs, the one started last first."""
        self._all = runs
        self._draw()

    def filter(self, words: str) -> None:
        """Show only the runs that have all words in a cell."""
        self._words = words
        self._draw()

    def sort_by(self, key: str | None) -> None:
        """Sort by a column; the current one reverses the order, None is the order of the starts."""
        if key is not None and key == self._sort_key:
            self._descending = not self._descending
        else:
            self._sort_key, self._descending = key, key not in _ASCENDING
        self._draw()

    def sort_next(self) -> None:
        """Sort by the next column, or by the starts after the last one."""
        keys = [None, *(one.column.key for one in self._fitted)]
        at = keys.index(self._sort_key) if self._sort_key in keys else 0
        self.sort_by(keys[(at + 1) % len(keys)])

    def on_resize(self) -> None:
        """Choose the columns again."""
        texts = [run_texts(run) for run in self._shown]
        if self._all and self._fit(texts) != self._fitted:
            self._draw()

    def _fit(self, texts: Sequence[dict[str, str]]) -> tuple[FittedColumn, ...]:
        width = self.size.width - _SCROLLBAR_CELLS
        return fit_columns(COLUMNS, measure_columns(COLUMNS, texts), width)

    def _draw(self) -> None:
        current, row = self.run_under_cursor, self.cursor_row
        runs = list(self._all)
        if self._sort_key is not None:
            runs = sort_runs(runs, self._sort_key, self._descending)
        rows = [(run, run_texts(run)) for run in runs]
        words = self._words
        rows = [(run, texts) for run, texts in rows if has_words(" ".join(texts.values()), words)]
        self._shown = [run for run, _ in rows]
        self._fitted = self._fit([texts for _, texts in rows])
        self.clear(columns=True)
        for one in self._fitted:
            heading = one.column.heading(self._sort_key, self._descending)
            label = Text(heading, justify="right" if one.column.right else "left")
            self.add_column(label, key=one.column.key, width=one.width)
        for number, (_, texts) in enumerate(rows):
            self.add_row(*(_cell(texts, one) for one in self._fitted), key=f"{number}")
        names = [run.name for run in self._shown]
        if current is not None and current.name in names:
            row = names.index(current.name)
        if names:
            self.move_cursor(row=max(0, min(row, len(names) - 1)), animate=False)


def _cell(texts: dict[str, str], one: FittedColumn) -> Text:
    return Text(
        texts[one.column.key],
        justify="right" if one.column.right else "left",
        no_wrap=True,
        overflow="ellipsis",
    )
