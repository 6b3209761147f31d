"""Tables of text for a terminal and for Markdown; a column is as wide as its widest cell."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from etui.text.sanitize import sanitize

SEPARATOR = " · "
"""Separates the parts of a line of facts."""

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
    """Format rows as lines with aligned columns and no trailing spaces.

    Args:
        rows: Cells, shown on one line each; every row has the same number of cells.
        header: The row above them; an empty one is left out.
        align: ``<`` (left) or ``>`` (right) for each column; the last one also applies to all
            columns that follow.
        measure: Returns the width of a cell; use ``count_cells`` for text with wide characters.
    """
    lines = [[join_lines(cell) for cell in row] for row in ([header] if header else []) + [*rows]]
    if not lines:
        return []
    widths = [max(map(measure, column)) for column in zip(*lines, strict=True)]
    sides = _expand_align(align, len(widths))

    def pad(text: str, width: int, side: str) -> str:
        spaces = " " * (width - measure(text))
        return spaces + text if side == ">" else text + spaces

    return [_GAP.join(map(pad, line, widths, sides)).rstrip() for line in lines]


def format_markdown_table(rows: Sequence[Row], *, header: Row, align: str = "<") -> str:
    """Format rows as a Markdown table; ``align`` is as in :func:`format_table`.

    Cells are not escaped: the caller escapes any ``|`` in them.
    """
    rules = [_MARKDOWN_RULES[side] for side in _expand_align(align, len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *rows))


def _expand_align(align: str, columns: int) -> str:
    return align[:columns].ljust(columns, align[-1])


def join_lines(text: str) -> str:
    """Put a text with line breaks, such as the name of a file, on one line; keep its spaces."""
    return text if text.isprintable() else sanitize(text).replace("\n", " ").replace("\t", " ")


def one_line(text: str) -> str:
    """Put untrusted text on one line that is safe to print."""
    return " ".join(sanitize(text).split())


def count_cells(text: str) -> int:
    """Count the terminal cells that a text takes."""
    if text.isascii():
        return len(text)
    return sum(_count_char_cells(char) for char in text)


def fit_cells(text: str, room: int) -> str:
    """Cut a text, ending in ``…``, so that it takes at most ``room`` terminal cells."""
    if count_cells(text) <= room:
        return text
    used, kept = 1, []
    for char in text:
        used += _count_char_cells(char)
        if used > room:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _count_char_cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
