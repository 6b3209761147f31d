"""Loads and unloads of models as lines of a table."""

from __future__ import annotations

from collections.abc import Sequence

from etui import units
from etui.log.records import LoadRecord, UnloadRecord
from etui.text.tables import count_cells, format_table, one_line
from etui.text.timestamps import local_time

_HEAD = ("TIME", "WHAT", "MODEL", "SIZE", "SECONDS", "ENERGY", "FOR")
_REASONS = {
    "room": "room",
    "idle": "kept warm long enough",
    "changed": "a changed entry",
    "asked": "asked for",
}


def loads_table(
    loads: Sequence[LoadRecord], unloads: Sequence[UnloadRecord], limit: int | None = None
) -> list[str]:
    """Lines of a table, the latest first, ``limit`` rows at most.

    The size of an unload is what the model was reckoned to take. The last column names the turn
    that waited, or why there was none.
    """
    both: list[LoadRecord | UnloadRecord] = [*loads, *unloads]
    both.sort(key=lambda record: record.created_at, reverse=True)
    rows = [_row(record) for record in both[:limit]]
    return format_table(rows, header=_HEAD, measure=count_cells)


def _row(record: LoadRecord | UnloadRecord) -> tuple[str, ...]:
    if isinstance(record, LoadRecord):
        what, size = "load", units.bytes_text(record.size_bytes)
        reason = "a question to come"
    else:
        what, size = "unload", f"~{units.bytes_text(record.freed_bytes)} (estimate)"
        reason = _REASONS.get(record.reason, record.reason)
    return (
        local_time(record.created_at),
        what,
        one_line(record.model),
        size,
        units.seconds_text(record.seconds),
        units.energy_text(record.joules, record.uncertainty, record.kind),
        one_line(reason if record.turn_id is None else f"turn {record.turn_id[:8]}"),
    )
