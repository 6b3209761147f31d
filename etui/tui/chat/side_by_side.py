"""Comparison of two answers to one question: the cost of each, in two aligned lines."""

from __future__ import annotations

from rich.cells import cell_len

from etui import units
from etui.text.sanitize import sanitize
from etui.turn.record import TurnRecord

_GAP = "  "


def compare_costs(before: TurnRecord, after: TurnRecord) -> str:
    """Format both costs, one below the other, and the ratio of their joules."""
    rows = [_row("before", before), _row("now", after)]
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        _GAP.join(
            text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    ratio = ratio_text(before, after)
    return "\n".join([*lines, ratio] if ratio else lines)


def ratio_text(before: TurnRecord, after: TurnRecord) -> str:
    """Return ``3.7 times as many joules as before``; empty if the two cannot be compared."""
    first, second = before.energy, after.energy
    if not first.joules or second.joules is None or first.kind != second.kind:
        return ""
    return f"{units.significant(second.joules / first.joules, 2)} times as many joules as before"


def _row(word: str, record: TurnRecord) -> tuple[str, ...]:
    energy = record.energy
    return (
        word,
        sanitize(f"{record.arm} › {record.model}"),
        units.short_energy_text(energy.joules, energy.kind),
        units.tokens_text(record.tokens.output),
        units.seconds_text(record.seconds.total),
    )
