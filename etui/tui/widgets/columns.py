"""Columns of a table that fit its width: the least important ones are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etui.text import count_cells

PADDING_CELLS = 2
"""Cells that a table adds to each column, one on each side."""

_DOWN, _UP = "▼", "▲"
_ARROW_CELLS = 2


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


@dataclass(frozen=True, slots=True)
class FittedColumn:
    """A column that is shown, and its width in cells without padding."""

    column: TableColumn
    width: int


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


def fit_columns(
    columns: Sequence[TableColumn], needed: Mapping[str, int], width: int
) -> tuple[FittedColumn, ...]:
    """Choose the columns that fit next to each other, in the order of the table.

    The columns are taken by rank as long as they fit; the first by rank is always shown. What is
    left goes to the columns that may shrink, by rank.

    Args:
        needed: Width in cells that each column needs, by key.
        width: Cells of the whole table.
    """
    chosen: dict[str, int] = {}
    left = width
    for column in sorted(columns, key=lambda column: column.rank):
        wanted = needed[column.key]
        if column.least is not None:
            least = min(wanted, max(column.least, column.title_cells))
            enough = min(wanted, column.enough or 0)
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
    return tuple(FittedColumn(one, chosen[one.key]) for one in columns if one.key in chosen)
