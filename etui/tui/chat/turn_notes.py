"""What a branch or a continued answer cost, beside the turns that it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len

from etui import units
from etui.text import sanitize
from etui.turn.record import CONTINUES, REPLACES, TurnRecord

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


_LEAST_COMPUTED_TOKENS = 16
"""A shorter prefill is mostly the fixed cost of a batch, and says little about a token."""


def build_notes(records: Sequence[TurnRecord]) -> dict[str, str]:
    """Build the lines below the answers of a chat that replace or continue another one.

    Args:
        records: All turns of the chat, oldest first.

    Returns:
        Turn id -> lines; turns without any are missing.
    """
    by_id = {record.turn_id: record for record in records}
    notes: dict[str, str] = {}
    for record in records:
        lines = []
        before = by_id.get(str(record.settings.get(REPLACES)))
        if before is not None and before.query == record.query:
            lines.append(compare_costs(before, record))
        lines.append(format_parts(answer_parts(record, by_id)))
        if before is not None or CONTINUES in record.settings:
            lines.append(format_saved(record, prefill_joules_per_token(record, records)))
        if text := "\n".join(line for line in lines if line):
            notes[record.turn_id] = text
    return notes


def answer_parts(record: TurnRecord, by_id: Mapping[str, TurnRecord]) -> tuple[TurnRecord, ...]:
    """Return the turns that wrote an answer one after the other, this one last."""
    parts = [record]
    seen = {record.turn_id}
    while (before := by_id.get(str(parts[-1].settings.get(CONTINUES)))) is not None:
        if before.turn_id in seen:
            break
        parts.append(before)
        seen.add(before.turn_id)
    return tuple(reversed(parts))


def format_parts(parts: Sequence[TurnRecord]) -> str:
    """Format ``2 parts: ≈42 J + 11 J = 53 J · 640 tokens``; empty for an answer of one part."""
    if len(parts) < 2:
        return ""
    joules = [part.energy.joules for part in parts]
    known = [each for each in joules if each is not None]
    estimated = any(part.energy.kind == units.ESTIMATE for part in parts)
    sign = "≈" if estimated else ""
    tokens = units.tokens_text(sum(part.tokens.output for part in parts))
    if len(known) < len(parts):
        return f"{len(parts)} parts: {units.UNMEASURED} · {tokens}"
    terms = " + ".join(units.energy_text(each) for each in known)
    return f"{len(parts)} parts: {sign}{terms} = {units.energy_text(sum(known))} · {tokens}"


def prefill_joules_per_token(record: TurnRecord, records: Sequence[TurnRecord]) -> float | None:
    """Estimate the joules of a prompt token: of the turn's own prefill, or else of its model's.

    Args:
        records: Other turns of the chat, which may be of the same model.

    Returns:
        Gross joules per computed prompt token; None if no prefill long enough was measured.
    """
    alike = [
        each
        for each in records
        if (each.model, each.model_sha256) == (record.model, record.model_sha256)
    ]
    for group in ([record], alike):
        measured = [
            (joules, each.tokens.computed)
            for each in group
            if each.tokens.computed >= _LEAST_COMPUTED_TOKENS
            and (joules := each.energy.phases.get("prefill")) is not None
        ]
        if measured:
            return sum(joules for joules, _ in measured) / sum(count for _, count in measured)
    return None


def format_saved(record: TurnRecord, joules_per_token: float | None) -> str:
    """Format ``saved 412 prompt tokens ≈ 3.0 J``; empty if nothing was in the KV cache."""
    cached = record.tokens.cached
    if not cached:
        return ""
    text = f"saved {units.count_text(cached, 'prompt token')}"
    if joules_per_token is None:
        return text
    return f"{text} ≈ {units.energy_text(cached * joules_per_token)}"
