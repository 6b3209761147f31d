"""Columns of the table of turns, and the cells of one turn."""

from __future__ import annotations

from rich.text import Text

from etui import units
from etui.log.filters import Sort
from etui.log.queries import TurnSummary
from etui.text import local_time, one_line
from etui.tui.widgets.columns import FittedColumn, TableColumn

COLUMNS = (
    TableColumn("time", "TIME", 3, 11),
    TableColumn("question", "QUESTION", 0, 60, least=12, sorts=False),
    TableColumn("joules", "ENERGY", 1, 18, right=True),
    TableColumn("per_token", "PER TOKEN", 4, 14, right=True),
    TableColumn("tokens", "TOKENS", 5, 9, right=True),
    TableColumn("seconds", "SECONDS", 6, 10, right=True),
    TableColumn("model", "MODEL", 2, 24, least=10, enough=20),
    TableColumn("rule", "RULE", 7, 24, least=10),
)
"""Enough for question, joules and model on 40 columns, and for all on a wide terminal."""

SORTS = {
    "time": Sort.TIME,
    "joules": Sort.JOULES,
    "per_token": Sort.JOULES_PER_TOKEN,
    "tokens": Sort.TOKENS,
    "seconds": Sort.SECONDS,
    "model": Sort.MODEL,
    "rule": Sort.RULE,
}
"""Key of a column -> how it sorts the turns."""

SORTED_COLUMNS = {sort: key for key, sort in SORTS.items()}


def turn_texts(turn: TurnSummary) -> dict[str, str]:
    """Format a turn by column.

    Only the kind ``estimate`` is shown here; the detail shows the kind of every turn.
    """
    mark = "" if turn.status == "complete" else f"[{turn.status}] "
    kind = turn.kind if turn.kind == units.ESTIMATE else None
    return {
        "time": local_time(turn.created_at)[5:16],
        "question": mark + one_line(turn.query),
        "joules": units.short_energy_text(turn.joules, kind),
        "per_token": units.short_energy_text(turn.joules_per_token, kind),
        "tokens": f"{turn.tokens_output:,}",
        "seconds": units.seconds_text(turn.seconds_total),
        "model": one_line(turn.model),
        "rule": one_line(turn.rule or "-"),
    }


def row_cells(texts: dict[str, str], fitted: tuple[FittedColumn, ...]) -> list[Text]:
    """Build the cells of one row for the columns that are shown, without markup."""
    return [
        Text(
            texts[one.column.key],
            justify="right" if one.column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
        for one in fitted
    ]
