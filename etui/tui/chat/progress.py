"""A turn as text: its progress, why a model answers, and what is unusual once it has answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from etui import units
from etui.energy.types import Energy
from etui.events import Loaded, Prefilled, Prefilling, Vote
from etui.routing.decision import Decision
from etui.text import SEPARATOR, one_line, sanitize
from etui.tui.chat._batches import TextBatch, TurnEnded, TurnFact
from etui.tui.power.feed import Stage
from etui.turn.events import (
    Decided,
    HopEnded,
    HopStarted,
    RoundStarted,
    ToolStarted,
    TurnFinished,
)
from etui.turn.record import CONTINUES, REPLACES, HopRecord, TurnRecord
from etui.turn.text import route_parts


@dataclass(frozen=True, slots=True)
class TurnProgress:
    """A running turn."""

    stage: Stage = Stage.QUEUED
    stage_ns: int = 0  # Start of the stage, monotonic clock; 0 before the turn begins
    energy_start_ns: int | None = None
    """Start of the energy interval, after the load; None before it begins."""
    model: str = ""  # Name of the answering model; empty before the decision
    done_tokens: int = 0
    total_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    votes: int = 0  # Number of finished votes
    hop: int = 1  # Number of the answering arm, from 1; the energy shown is that of all hops
    tool: str = ""  # Name of the tool that runs, or ran last

    @property
    def output_tokens(self) -> int:
        return self.thinking_tokens + self.answer_tokens


def advance(
    progress: TurnProgress, fact: TurnFact, now_ns: int, residents: Collection[str]
) -> TurnProgress:
    """Return the state after ``fact``; a model that is not in memory has to be loaded first."""
    match fact:
        case Decided(decision=decision):
            stage = Stage.PREFILL if decision.arm.model in residents else Stage.LOADING
            start = now_ns if stage is Stage.PREFILL else None
            start = progress.energy_start_ns if progress.hop > 1 else start
            moved = replace(progress, model=decision.arm.model, energy_start_ns=start)
            return _enter(moved, stage, now_ns)
        case HopStarted(number=number, model=model):
            stage = Stage.PREFILL if model in residents else Stage.LOADING
            moved = replace(progress, hop=number, model=model, done_tokens=0, total_tokens=0)
            return _enter(moved, stage, now_ns)
        case Loaded(end_ns=end_ns):
            return _enter(_start_energy(progress, end_ns), Stage.PREFILL, now_ns)
        case Prefilling(done_tokens=done, total_tokens=total, t_ns=t_ns):
            start = progress.energy_start_ns or t_ns
            moved = replace(progress, energy_start_ns=start, done_tokens=done, total_tokens=total)
            return _enter(moved, Stage.PREFILL, now_ns)
        case Prefilled(start_ns=start_ns):
            return _enter(_start_energy(progress, start_ns), Stage.PREFILL, now_ns)
        case TextBatch(answer=answer, thinking_tokens=thinking, answer_tokens=tokens):
            moved = replace(
                progress,
                thinking_tokens=progress.thinking_tokens + thinking,
                answer_tokens=progress.answer_tokens + tokens,
            )
            return _enter(moved, Stage.ANSWERING if answer else Stage.THINKING, now_ns)
        case ToolStarted(name=name):
            return _enter(replace(progress, tool=name), Stage.TOOL, now_ns)
        case RoundStarted():
            return _enter(replace(progress, hop=progress.hop + 1), Stage.ROUTING, now_ns)
        case Vote():
            return replace(progress, votes=progress.votes + 1)
        case TurnFinished() | TurnEnded():
            return _enter(progress, Stage.DONE, now_ns)
    return progress


def _start_energy(progress: TurnProgress, start_ns: int) -> TurnProgress:
    """Restart the energy interval, unless an earlier arm has already answered in this turn."""
    if progress.hop > 1 and progress.energy_start_ns is not None:
        return progress
    return replace(progress, energy_start_ns=start_ns)


def _enter(progress: TurnProgress, stage: Stage, now_ns: int) -> TurnProgress:
    if stage is progress.stage:
        return progress
    return replace(progress, stage=stage, stage_ns=now_ns)


def progress_line(progress: TurnProgress, now_ns: int, energy: Energy | None) -> str:
    """Describe what a turn is doing: ``answering … 118 tok · ≈71 J · 0.60 J/tok``."""
    spent = units.seconds_text((now_ns - progress.stage_ns) / 1e9)
    match progress.stage:
        case Stage.QUEUED:
            return ""
        case Stage.ROUTING:
            return "choosing a model …"
        case Stage.LOADING:
            return f"loading {progress.model} … {spent}"
        case Stage.PREFILL:
            read = (
                f" {progress.done_tokens:,} of {units.tokens_text(progress.total_tokens)}"
                if progress.total_tokens
                else ""
            )
            return f"reading the prompt …{read}"
        case Stage.TOOL:
            return f"running {one_line(progress.tool)} … {spent}"
        case Stage.THINKING | Stage.ANSWERING:
            parts = [f"{progress.stage} … {units.tok_text(progress.output_tokens)}"]
            if progress.votes:
                parts.append(units.count_text(progress.votes, "vote"))
            if energy is not None:
                parts += _format_price(energy, progress.output_tokens)
            return SEPARATOR.join(parts)
        case Stage.DONE:
            return ""


def _format_price(energy: Energy, output_tokens: int) -> list[str]:
    kind = None if energy.kind is None else str(energy.kind)
    parts = [units.short_energy_text(energy.joules, kind)]
    if energy.joules is not None and output_tokens:
        parts.append(units.short_per_token_text(energy.joules / output_tokens, kind))
    return parts


def finished_thinking_title(record: TurnRecord) -> str:
    """Format ``thinking · 123 tokens (45 %) · ≈4.5 J, 38 % of the joules``."""
    energy, tokens = record.energy, record.tokens
    parts = ["thinking", units.tokens_text(tokens.thinking)]
    if tokens.output:
        parts[-1] += f" ({units.percent_text(tokens.thinking / tokens.output)})"
    if energy.thinking_joules is not None:
        parts.append(units.short_energy_text(energy.thinking_joules, energy.kind))
        if energy.joules:
            parts[-1] += (
                f", {units.percent_text(energy.thinking_joules / energy.joules)} of the joules"
            )
    return SEPARATOR.join(parts)


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
    """Build the fact, by turn id, on each answer that replaces or continues another one."""
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
    parts = route_parts(decision)
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
