"""Format turns, totals and loads of the log as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from etui import units
from etui.log.model_usage import ModelUsage, Spent, Use
from etui.text import count_cells, fit_cells, format_table, local_time, one_line
from etui.turn.facts import list_facts, list_texts, residence_size_text
from etui.turn.record import LoadRecord, UnloadRecord
from etui.turn.text import bound_text

if TYPE_CHECKING:
    from etui.energy.tariff import Cost
    from etui.log.prices import Prices
    from etui.log.queries import TurnSummary
    from etui.log.records import AuditRecord
    from etui.log.totals import Total
    from etui.turn.record import TurnRecord


def format_audit(audit: AuditRecord) -> str:
    """Format an audit in one line: when, by which arm, its result and its joules."""
    energy = units.energy_text(audit.joules, audit.uncertainty, audit.kind)
    load = f" and {units.energy_text(audit.load_joules)} of loading" if audit.load_joules else ""
    result = "agrees" if audit.agrees else "differs"
    if audit.agrees is None:
        result = audit.why or "not compared"
    return (
        f"audit {local_time(audit.created_at)}: {one_line(audit.arm)} ({one_line(audit.model)}) "
        f"{one_line(result)}, {energy}{load}"
    )


_ID_CHARS = 8
_LOADS_HEAD = ("TIME", "WHAT", "MODEL", "SIZE", "SECONDS", "ENERGY", "REASON")
_HEAD = ("ID", "TIME", "MODEL", "RULE", "TOKENS", "SECONDS", "ENERGY", "PER TOKEN", "QUESTION")
_TOTALS_HEAD = ("TURNS", "TOKENS", "ENERGY", "ESTIMATED", "PER TOKEN", "UNMEASURED")
_MIN_QUESTION_CELLS = 20


def format_turns(turns: Sequence[TurnSummary], width: int | None) -> list[str]:
    """Format turns as a table; questions are cut to fit ``width`` cells, None cuts nothing.

    There is a column for key and endpoint if a client of ``etui serve`` asked for one of them.
    """
    clients = any(turn.endpoint is not None for turn in turns)
    rows = [_HEAD, *(_format_turn_row(turn) for turn in turns)]
    if clients:
        named = ((one_line(part) for part in (turn.key, turn.endpoint) if part) for turn in turns)
        texts = ["CLIENT", *(" ".join(parts) or "-" for parts in named)]
        rows = [(*row[:-1], text, row[-1]) for row, text in zip(rows, texts, strict=True)]
    if width is not None:
        fixed = format_table([row[:-1] for row in rows], measure=count_cells)
        room = max(_MIN_QUESTION_CELLS, width - max(map(count_cells, fixed)) - 2)
        rows = [(*row[:-1], fit_cells(row[-1], room)) for row in rows]
    return format_table(rows, measure=count_cells)


def _format_turn_row(turn: TurnSummary) -> tuple[str, ...]:
    mark = "" if turn.status == "complete" else f"[{turn.status}] "
    mark += "" if turn.kept == "whole" else "[cut] "
    return (
        one_line(turn.turn_id[:_ID_CHARS]),
        local_time(turn.created_at),
        one_line(turn.model),
        one_line(turn.rule or "-"),
        f"{turn.tokens_output:,}",
        units.seconds_text(turn.seconds_total),
        bound_text(_format_energy(turn), turn.status),
        _format_per_token(turn.joules_per_token, turn.tokens_output, turn.kind),
        mark + one_line(turn.query),
    )


def _format_per_token(joules: float | None, tokens: int, kind: str | None) -> str:
    """Format joules per token; a turn without tokens has none, however well it was measured."""
    return units.marked(units.per_token_text(joules, kind)) if tokens else "–"


def _format_energy(record: TurnSummary | LoadRecord | UnloadRecord) -> str:
    return units.marked(units.energy_text(record.joules, record.uncertainty, record.kind))


def format_totals(
    by: str, totals: Sequence[Total], costs: Mapping[tuple[str, bool], Cost] | None = None
) -> list[str]:
    """Format totals as a table with separate columns for hardware readings and estimates.

    With costs (:func:`etui.log.prices.sum_costs`), the last column has those of both.
    """
    rows = [
        (
            one_line(total.key) or "-",
            f"{total.turns:,}",
            f"{total.output_tokens:,}",
            units.total_text(total.joules, total.uncertainty, total.kind),
            "-" if total.estimated_joules is None else units.about_joules(total.estimated_joules),
            _format_per_token(
                total.joules_per_token,
                total.output_tokens,
                total.kind if total.joules is not None else units.ESTIMATE,
            ),
            f"{total.unmeasured_turns:,}",
            *([] if costs is None else [_format_cost(total, costs)]),
        )
        for total in totals
    ]
    head = (by.upper(), *_TOTALS_HEAD, *([] if costs is None else ["COST"]))
    return format_table(rows, header=head, measure=count_cells)


def _format_cost(total: Total, costs: Mapping[tuple[str, bool], Cost]) -> str:
    """Format carbon and cost of a total; estimates are marked, and never added to readings."""
    parts = []
    for estimated in (False, True):
        cost = costs.get((total.key, estimated))
        if cost is not None:
            parts.append(cost.text(about=estimated) or units.UNKNOWN)
    return " and ".join(parts) or units.UNMEASURED


def format_turn(
    turn: TurnRecord,
    loads: Sequence[LoadRecord],
    unloads: Sequence[UnloadRecord] = (),
    prices: Prices | None = None,
) -> list[str]:
    """Format one turn in full: energy by phase, model, reason, ids, then its texts."""
    facts = list_facts(turn, loads, unloads, () if prices is None else prices.facts(turn))
    width = max(len(name) for name, _ in facts)
    indent = "\n" + " " * (width + 2)
    lines = [f"{name:<{width}}  {text}".replace("\n", indent) for name, text in facts]
    for title, text in list_texts(turn):
        lines += ["", f"{title}:", *(f"  {line}" for line in text.split("\n"))]
    return lines


def format_spent(spent: Spent) -> str:
    """Format what was spent in one line: ``12.3 ± 0.4 J, 3.42 mWh + ≈5 J; 2 unmeasured``."""
    parts = []
    if spent.joules is not None:
        parts.append(units.total_text(spent.joules, spent.uncertainty, spent.kind))
    if spent.estimated_joules is not None:
        parts.append(units.about_joules(spent.estimated_joules))
    if not parts:
        return units.UNMEASURED
    missing = f"; {spent.unmeasured:,} unmeasured" if spent.unmeasured else ""
    return " + ".join(parts) + missing


_USES = {"answers": "answer", "loads": "load", "audits": "audit", "bench": "bench answer"}


def format_usage(files: Mapping[str | None, ModelUsage]) -> str:
    """Format what a model was used for in one line: ``used 2026-11-24: 3 answers: 12.3 J``."""
    usage = sum(files.values(), start=ModelUsage())
    counts = (_count_uses(use, spent) for use, spent in usage.uses.items())
    day = local_time(usage.last_used)[:10]
    return f"used {day}: {', '.join(counts)}: {format_spent(usage.total)}"


def _count_uses(use: Use, spent: Spent) -> str:
    return units.count_text(spent.count, _USES[use]) + format_failed(spent)


def format_failed(spent: Spent) -> str:
    """Return how many failed, to be put after the number of those that did not: ``, 3 failed``."""
    return f", {spent.failed:,} failed" if spent.failed else ""


def list_usage(
    files: Mapping[str | None, ModelUsage], sha256: str | None
) -> Iterator[tuple[str, str]]:
    """Yield what a model was used for as pairs of name and text; other files of it apart.

    Args:
        sha256: That of its file now; None if it is not known.
    """
    usage = sum(files.values(), start=ModelUsage())
    yield "last used", local_time(usage.last_used) if usage.last_used else "never"
    for use, spent in usage.uses.items():
        yield _count_uses(use, spent), format_spent(spent)
    if len(usage.uses) > 1:
        yield "spent in all", format_spent(usage.total)
    for other, part in files.items():
        if len(files) > 1 and (other is None or other != sha256):
            name = "a file of unknown sha256" if other is None else f"another file, {other[:12]}"
            yield "of it by", f"{name}: {format_spent(part.total)}"


_REASONS = {
    "room": "memory needed",
    "idle": "idle timeout",
    "changed": "entry changed",
    "asked": "requested",
}


def format_loads(
    loads: Sequence[LoadRecord], unloads: Sequence[UnloadRecord], limit: int | None = None
) -> list[str]:
    """Format loads and unloads as a table, latest first, with at most ``limit`` rows.

    The size of an unload is an estimate of the memory that the model used. The last column is the
    turn that waited or, without one, the reason.
    """
    both: list[LoadRecord | UnloadRecord] = [*loads, *unloads]
    both.sort(key=lambda record: record.created_at, reverse=True)
    rows = [_format_load_row(record) for record in both[:limit]]
    return format_table(rows, header=_LOADS_HEAD, measure=count_cells)


def _format_load_row(record: LoadRecord | UnloadRecord) -> tuple[str, ...]:
    if isinstance(record, LoadRecord):
        what, reason = "load", "upcoming question"
    else:
        what, reason = "unload", _REASONS.get(record.reason, record.reason)
    return (
        local_time(record.created_at),
        what,
        one_line(record.model),
        residence_size_text(record),
        units.seconds_text(record.seconds),
        _format_energy(record),
        one_line(reason if record.turn_id is None else f"turn {record.turn_id[:8]}"),
    )
