"""Tables of text: columns as wide as their widest cell, for a terminal and for Markdown."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from etui.text.sanitize import sanitize

SEPARATOR = " · "
"""Between the parts of a line of facts."""

_GAP = "  "
_MARKDOWN_RULES = {"<": "---", ">": "---:"}

Row = Sequence[str]


def format_table(
    rows: Sequence[Row],
    *,
    header: Row = (),
    align: str = "<",
    measure: Callable[[str], int] = len,
) -> list[str]:
    """Write rows as lines with aligned columns, without spaces at their ends.

    Args:
        rows: Cells of one line each; every row has as many.
        header: The row above them; an empty one is left out.
        align: ``<`` (left) or ``>`` (right) for each column; the last holds for all that follow.
        measure: Width of a cell. ``count_cells`` for text that may hold wide characters.

    Returns:
        A line for the header and each row.
    """
    lines = [header, *rows] if header else list(rows)
    if not lines:
        return []
    widths = [max(map(measure, column)) for column in zip(*lines, strict=True)]
    sides = _sides(align, len(widths))

    def pad(text: str, width: int, side: str) -> str:
        spaces = " " * (width - measure(text))
        return spaces + text if side == ">" else text + spaces

    return [_GAP.join(map(pad, line, widths, sides)).rstrip() for line in lines]


def format_markdown_table(rows: Sequence[Row], *, header: Row, align: str = "<") -> str:
    """Write rows as a table of Markdown; ``align`` is that of ``format_table``.

    Cells are taken as they are: a ``|`` in one must be escaped before.
    """
    rules = [_MARKDOWN_RULES[side] for side in _sides(align, len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *rows))


def _sides(align: str, columns: int) -> str:
    return align[:columns].ljust(columns, align[-1])


def one_line(text: str) -> str:
    """Put text of any origin on one line, safe for a terminal."""
    return " ".join(sanitize(text).split())


def count_cells(text: str) -> int:
    """Count the cells of a terminal that a text takes."""
    return sum(_cells_of(char) for char in text)


def fit_cells(text: str, room: int) -> str:
    """Cut a text with ``…`` so that it takes at most ``room`` cells."""
    if count_cells(text) <= room:
        return text
    used, kept = 1, []
    for char in text:
        used += _cells_of(char)
        if used > room:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _cells_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
