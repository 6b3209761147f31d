"""Say why a model answers before it does, and what is unusual once it has answered.

The details of an answer have the whole reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etui import units
from etui.routing.decision import Decision
from etui.text import SEPARATOR, sanitize
from etui.turn.events import HopEnded, HopStarted
from etui.turn.record import CONTINUES, REPLACES, HopRecord, TurnRecord
from etui.turn.text import route_parts


def compare_costs(before: TurnRecord, after: TurnRecord) -> str:
    """Format what another answer to the question cost: ``3.7× the ≈3.0 J before``.

    The ratio, of the joules of now to those, is left out where the two cannot be compared.
    """
    first, second = before.energy, after.energy
    cost = f"{units.short_energy_text(first.joules, first.kind)} before"
    if not first.joules or second.joules is None or first.kind != second.kind:
        return cost
    return f"{units.times_text(second.joules / first.joules)} the {cost}"


def build_notes(records: Sequence[TurnRecord]) -> dict[str, str]:
    """Build the facts of the answers of a chat that replace or continue another one.

    Args:
        records: All turns of the chat, oldest first.

    Returns:
        Turn id -> fact; turns without any are missing.
    """
    by_id = {record.turn_id: record for record in records}
    notes: dict[str, str] = {}
    for record in records:
        before = by_id.get(str(record.settings.get(REPLACES)))
        if text := format_parts(answer_parts(record, by_id)):
            notes[record.turn_id] = text
        elif before is not None and before.query == record.query:
            notes[record.turn_id] = compare_costs(before, record)
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
    """Format ``continued (whole: ≈53 J, 640 tok)``; empty for an answer of one part."""
    if len(parts) < 2:
        return ""
    joules = [part.energy.joules for part in parts]
    known = [each for each in joules if each is not None]
    estimated = any(part.energy.kind == units.ESTIMATE for part in parts)
    total = sum(known) if len(known) == len(parts) else None
    text = units.short_energy_text(total, units.ESTIMATE if estimated else None)
    tokens = units.tok_text(sum(part.tokens.output for part in parts))
    return f"continued (whole: {text}, {tokens})"


def full_why(decision: Decision) -> str:
    """Format the route, its reason and the notices; the forecast was at the prompt."""
    arm = decision.arm
    parts = route_parts(
        decision.policy, decision.rule, arm.name, arm.reasoning, arm.model, decision.why
    )
    notices = [f"! {notice}" for notice in decision.notices]
    return sanitize("\n".join([SEPARATOR.join(part for part in parts if part), *notices]))


def next_hop_why(hop: HopStarted) -> str:
    """Format that another arm answers after the one before: ``then › think (cot) › qwen3-4b``."""
    arm = hop.arm if hop.arm == hop.reasoning else f"{hop.arm} ({hop.reasoning})"
    route = " › ".join(["then", arm, hop.model])
    return sanitize(SEPARATOR.join(part for part in (route, hop.why) if part))


def notices_text(notices: object) -> str:
    """Format what the user must know about the choice, as of a budget; empty for a usual one."""
    found = notices if isinstance(notices, list | tuple) else ()
    return sanitize("; ".join(f"! {notice}" for notice in found))


def hop_line(hop: HopEnded | HopRecord) -> str:
    """Describe an answer not taken: ``not taken: quick › smollm2-135m · 41 % sure · ≈12 J``."""
    parts = [f"not taken: {hop.arm} › {hop.model}", hop.why]
    if hop.joules is not None:
        parts.append(units.short_energy_text(hop.joules, hop.kind))
    return SEPARATOR.join(part for part in parts if part)
