"""Say why a model answers: in full before it does, and afterwards only where it matters.

Afterwards the price is what one reads, and the details of an answer have the whole reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.cells import cell_len

from etui import units
from etui.routing.decision import Decision
from etui.text import SEPARATOR, sanitize
from etui.turn.events import HopEnded, HopStarted
from etui.turn.record import CONTINUES, REPLACES, HopRecord, TurnRecord
from etui.turn.text import route_parts

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
    """Format ``saved 412 prompt tokens ≈ 3.0 J``; empty if nothing was in the KV cache.

    A turn that knows its joules by the curve says them, and the price line of one whose cache was
    not in the context has said them already.
    """
    cached = record.tokens.cached
    if record.cache is not None and record.cache.tier != "context":
        return ""
    if record.cache is not None and record.cache.net_joules is not None and cached:
        joules_per_token = record.cache.net_joules / cached
    if not cached:
        return ""
    text = f"saved {units.count_text(cached, 'prompt token')}"
    if joules_per_token is None:
        return text
    return f"{text} ≈ {units.energy_text(cached * joules_per_token)}"


_BETWEEN = re.compile(rf"{re.escape(SEPARATOR)}|; ")
_SUBSTITUTED = (
    " answers instead",
    " stands in for ",  # in turns that were logged before
    "no model of arm ",
    "a budget is spent",
)
"""Parts of a reason which say that something else answers than the rules wanted."""


def full_why(decision: Decision) -> str:
    """Format the route, its reason and the notices; the forecast stood at the prompt."""
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


def short_why(decision: Decision, hop: HopStarted | None) -> str:
    """Return what the user must know about the choice in one line; empty for a usual one."""
    signals = [signal.name for signal in decision.signals]
    went = "" if hop is None or hop.number == 1 else f"then {hop.arm} › {hop.model}"
    return _join(decision.notices, went, _find_reason(decision.rule, decision.why, signals))


def logged_why(record: TurnRecord) -> str:
    """Return :func:`short_why` of a logged turn."""
    notices, signals = record.trace.get("notices"), record.trace.get("signals")
    names = [str(one.get("name")) for one in _as_list(signals) if isinstance(one, dict)]
    went = ""
    if len(record.hops) > 1 and not record.hops[0].taken:
        went = f"then {record.arm} › {record.model}"
    reason = _find_reason(record.rule, record.why, names)
    return _join([str(one) for one in _as_list(notices)], went, reason)


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _join(notices: Sequence[str], went: str, reason: str) -> str:
    """Join what there is; a notice about a budget says what the reason would repeat."""
    parts = [f"! {notice}" for notice in notices] + [went]
    return sanitize("; ".join(part for part in (parts if notices else [went, reason]) if part))


def _find_reason(rule: str | None, why: str, signals: Sequence[str]) -> str:
    """Return the parts of a reason that name another model than planned, or signals that held."""
    reason = why.removeprefix(f"{rule}: ") if rule else why
    parts = _BETWEEN.split(reason)
    found = [part for part in parts if any(sign in part for sign in _SUBSTITUTED)]
    words = parts[0].removeprefix("not ")
    if rule and any(re.match(rf"{re.escape(name)}\b", words) for name in signals):
        found.insert(0, f"{rule}: {parts[0]}")
    return SEPARATOR.join(found)


def hop_line(hop: HopEnded | HopRecord) -> str:
    """Describe an answer not taken: ``not taken: quick › smollm2-135m · 41 % sure · ≈12 J``."""
    parts = [f"not taken: {hop.arm} › {hop.model}", hop.why]
    if hop.joules is not None:
        parts.append(units.short_energy_text(hop.joules, hop.kind))
    return SEPARATOR.join(part for part in parts if part)
