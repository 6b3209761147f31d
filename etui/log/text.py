"""Format turns, totals and loads of the log as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from etui import units
from etui.energy.scopes import describe_unread
from etui.energy.wall_model import wall_text
from etui.log.model_usage import ModelUsage, Spent, Use
from etui.text import count_cells, fit_cells, format_table, local_time, one_line, sanitize
from etui.turn.record import CUT, DRAFTS_STOPPED, LoadRecord, UnloadRecord
from etui.turn.text import (
    bound_text,
    cache_lines,
    kind_of_hop,
    saved_text,
    shared_text,
    speculation_text,
    tool_tree,
    undrafted,
)

if TYPE_CHECKING:
    from etui.energy.tariff import Cost
    from etui.log.prices import Prices
    from etui.log.queries import TurnSummary
    from etui.log.records import AuditRecord
    from etui.log.totals import Total
    from etui.turn.record import Attribution, ClientRecord, HopRecord, TurnRecord


def format_grade(good: bool) -> str:
    """Return the word for a grade: ``good`` or ``bad``."""
    return "good" if good else "bad"


def format_agreement(audit: AuditRecord) -> str:
    """Return what the comparison of an audit gave: ``agrees``, ``differs`` or why there is none."""
    if audit.agrees is None:
        return audit.why or "not compared"
    return "agrees" if audit.agrees else "differs"


def format_audit(audit: AuditRecord) -> str:
    """Format an audit in one line: when, by which arm, its result and its joules."""
    energy = units.energy_text(audit.joules, audit.uncertainty, audit.kind)
    load = f" and {units.energy_text(audit.load_joules)} of loading" if audit.load_joules else ""
    return (
        f"audit {local_time(audit.created_at)}: {one_line(audit.arm)} ({one_line(audit.model)}) "
        f"{one_line(format_agreement(audit))}, {energy}{load}"
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
    """Format one turn in full: route, tokens, seconds, energy by phase, then its texts."""
    facts = list_facts(turn, loads, unloads, prices)
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {text}" for name, text in facts]
    for title, text in list_texts(turn):
        lines += ["", f"{title}:", *(f"  {line}" for line in text.split("\n"))]
    return lines


def list_facts(
    turn: TurnRecord,
    loads: Sequence[LoadRecord],
    unloads: Sequence[UnloadRecord] = (),
    prices: Prices | None = None,
) -> list[tuple[str, str]]:
    """List the facts of a turn as pairs of name and text, one line each."""
    facts = [
        ("turn", turn.turn_id),
        ("time", local_time(turn.created_at)),
        ("chat", turn.chat_id or "-"),
        *([("client", _format_client(turn.client))] if turn.client is not None else []),
        ("status", turn.status + (f": {one_line(turn.error)}" if turn.error else "")),
        ("model", one_line(turn.model)),
        ("arm", f"{one_line(turn.arm)} ({turn.reasoning})"),
        ("route", " › ".join(one_line(part) for part in (turn.policy, turn.rule) if part) or "-"),
        *([("ended", _format_ended(turn))] if turn.ended else []),
        ("why", one_line(turn.why) or "-"),
        *([("cut", _format_cut(turn.settings[CUT]))] if turn.settings.get(CUT) else []),
        ("tokens", _format_tokens(turn)),
        *([("cache", "; ".join(cache_lines(turn.cache)))] if turn.cache is not None else []),
        ("seconds", _format_seconds(turn)),
        *_list_energy(turn),
        *([] if prices is None else prices.facts(turn)),
        *_list_speculation(turn),
        *(("unload", _format_residence(unload)) for unload in unloads),
        *(("load", _format_residence(load)) for load in loads),
    ]
    if turn.confidence is not None:
        facts.append(("confidence", units.percent_text(turn.confidence)))
    facts += tool_tree(turn) or [
        (f"hop {number}", _format_hop(hop, turn)) for number, hop in enumerate(turn.hops, start=1)
    ]
    for vote in turn.votes:
        spent = [units.tokens_text(vote.tokens)]
        if vote.joules is not None:
            spent.append(units.short_energy_text(vote.joules, turn.energy.kind))
        facts.append((f"vote {vote.index + 1}", f"{one_line(vote.answer)} ({', '.join(spent)})"))
    for probe in turn.probes:
        likeliest = max(probe.probabilities.items(), key=lambda item: item[1], default=None)
        if likeliest is not None:
            answer, share = one_line(likeliest[0]), units.percent_text(likeliest[1])
            facts.append((f"probe at {probe.thinking_tokens}", f"{answer} ({share})"))
    return facts


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


def list_texts(turn: TurnRecord) -> list[tuple[str, str]]:
    """List the texts of a turn as pairs of title and text; empty ones are omitted."""
    texts = (
        ("system prompt", turn.system),
        ("question", turn.query),
        ("thinking", turn.thinking),
        ("answer", turn.answer),
        ("tool calls", turn.tool_calls),
        ("thinking with its repetition", turn.loop.raw_thinking if turn.loop else ""),
        ("answer with its repetition", turn.loop.raw_answer if turn.loop else ""),
    )
    return [(title, sanitize(text)) for title, text in texts if text]


def _format_client(client: ClientRecord) -> str:
    parts = [
        f"key {client.key}" if client.key else "no key",
        client.endpoint,
        f"request {client.request_id}" if client.request_id else "",
        f"{units.seconds_text(client.queue_seconds)} in the queue",
    ]
    return ", ".join(one_line(part) for part in parts if part)


def _format_attribution(found: Attribution, turn: TurnRecord) -> str:
    """Say how the joules were separated from those of others, with the error of the method."""
    if found.method == "none":
        return "others used the machine, and the part of this turn is not known"
    kind = units.ESTIMATE if turn.energy.kind == units.ESTIMATE else None
    share = "an unknown share" if found.share is None else units.percent_text(found.share)
    batches = units.count_text(found.batches, "batch", "batches")
    text = (
        f"{share} of {units.short_energy_text(found.batch_joules, kind)} in {batches} "
        f"of {found.mean_requests:.1f} requests, by "
        + ("Shapley values" if found.method == "shapley" else "tokens")
    )
    if found.spread is not None:
        text += f" ({units.short_energy_text(found.spread, kind)} from the share by tokens)"
    return text


def _format_ended(turn: TurnRecord) -> str:
    """Say why the answer or its thinking ended, if a repetition ended it."""
    return one_line(f"{turn.settings.get('ended') or turn.ended}{saved_text(turn)}")


def _format_cut(cut: Mapping[str, int]) -> str:
    """Say which texts the log has in part: ``question of 7.8 MB``."""
    named = {"query": "question", "system": "system prompt"}
    texts = (f"{named.get(name, name)} of {units.bytes_text(size)}" for name, size in cut.items())
    return f"{', '.join(texts)}: the log keeps begin and end"


def _format_hop(hop: HopRecord, turn: TurnRecord) -> str:
    kind = kind_of_hop(hop, turn.energy)
    parts = [
        f"{one_line(hop.arm)} ({hop.reasoning}) on {one_line(hop.model)}",
        one_line(hop.why),
        one_line(hop.answer) or "no answer",
        units.tokens_text(hop.tokens.output),
        f"{hop.tokens.cached:,} of {hop.tokens.prompt:,} prompt tokens cached",
        units.short_energy_text(hop.joules, kind),
    ]
    if hop.speculation is not None:
        parts.append(speculation_text(hop.speculation, turn.energy.kind))
    if hop.load_joules:
        parts.append(f"load {units.short_energy_text(hop.load_joules, kind)}")
    return ("✓ " if hop.taken else "") + "; ".join(parts)


def _format_tokens(turn: TurnRecord) -> str:
    t = turn.tokens
    return (
        f"{t.prompt:,} prompt ({t.cached:,} cached, {t.computed:,} computed), "
        f"{t.output:,} output ({t.thinking:,} thinking), "
        f"{units.speed_text(turn.tokens_per_second)}"
    )


def _format_seconds(turn: TurnRecord) -> str:
    s = turn.seconds
    named = (("total", s.total), ("prefill", s.prefill), ("decode", s.decode))
    parts = [f"{units.seconds_text(seconds)} {name}" for name, seconds in named]
    if s.ttft is not None:
        parts.append(f"first token after {units.seconds_text(s.ttft)}")
    return ", ".join(parts)


def _list_energy(turn: TurnRecord) -> list[tuple[str, str]]:
    e = turn.energy

    def short(joules: float | None) -> str:
        return units.short_energy_text(joules, e.kind)

    gross = units.marked(units.energy_text(e.joules, e.uncertainty, e.kind, spread=True))
    gross = bound_text(gross, turn.status)
    facts = [("energy", gross)]
    if e.joules is not None:
        net = "no idle baseline"
        if e.net_joules is not None:  # the gross joules before them have the kind
            estimated = units.ESTIMATE if e.kind == units.ESTIMATE else None
            text = units.marked(units.net_text(e.net_joules, None, estimated))
            net = f"net {text} (idle {units.short_watts_text(e.idle_watts, e.kind)})"
        facts = [("energy", f"{gross}, {net}")]
        if e.wall is not None:
            facts.append(("at the wall", wall_text(e.wall)))
        if e.kind == units.ESTIMATE:
            facts.append(("kind", "estimate: no hardware reading"))
        per_token = _format_per_token(e.joules_per_token, turn.tokens.output, e.kind)
        facts.append(("per token", per_token))
        watts = f"{units.short_watts_text(e.mean_watts, e.kind)} mean"
        if e.peak_watts is not None:
            watts += f", {units.short_watts_text(e.peak_watts, e.kind)} peak"
        facts.append(("power", f"{watts}, {units.percent_text(e.coverage)} recorded"))
        if e.shared:
            facts.append(("shared", shared_text(e)))
        if e.attribution is not None and e.attribution.method != "exclusive":
            facts.append(("attribution", _format_attribution(e.attribution, turn)))
        phases = ("prefill", "image", "decode") if turn.pictures else ("prefill", "decode")
        facts += [(f"  {name}", short(e.phases.get(name))) for name in phases]
        if e.thinking_joules is not None and turn.tokens.thinking:
            facts.append(("  thinking", short(e.thinking_joules)))
    facts += [(f"  {one_line(channel)}", short(joules)) for channel, joules in e.channels.items()]
    if turn.predicted_joules is not None:
        facts.append(("predicted", units.about_joules(turn.predicted_joules)))
    if e.unmeasured:
        facts.append(("unmeasured", one_line(describe_unread(e.unmeasured))))
    if e.flags:
        facts.append(("flags", ", ".join(e.flags)))
    return facts


def _list_speculation(turn: TurnRecord) -> list[tuple[str, str]]:
    s, kind = turn.speculation, turn.energy.kind
    if s is None:
        idle = undrafted(turn)
        return [("speculation", f"{idle}: nothing drafted")] if idle else []
    counts = f"drafted {s.drafted:,}, accepted {s.accepted:,}"
    share = units.percent_text(s.accepted / s.drafted)
    batches = units.count_text(s.batches, "batch", "batches")
    facts = [("speculation", f"{s.method}: {counts} ({share}) in {batches}")]
    if stopped := turn.settings.get(DRAFTS_STOPPED):
        facts.append(("drafts stopped", one_line(str(stopped))))
    joules = [("verify", s.verify_joules, s.verify_uncertainty)]
    if s.draft_seconds:  # a lookup takes no model
        joules.append(("draft", s.draft_joules, s.draft_uncertainty))
    joules.append(("waste", s.waste_joules, s.waste_uncertainty))
    facts += [
        (f"  {name}", units.marked(units.energy_text(value, half, kind, spread=True)))
        for name, value, half in joules
    ]
    each, half = s.joules_per_accepted_token, s.joules_per_accepted_token_uncertainty
    if each is not None:
        facts.append(
            ("  per accepted", units.marked(units.per_token_text(each, kind, half, spread=True))),
        )
    return facts


def _format_size(record: LoadRecord | UnloadRecord) -> str:
    if isinstance(record, LoadRecord):
        return units.bytes_text(record.size_bytes)
    return f"{units.ABOUT}{units.bytes_text(record.freed_bytes)}"


def _format_residence(record: LoadRecord | UnloadRecord) -> str:
    freed = "" if isinstance(record, LoadRecord) else " freed"
    return (
        f"{one_line(record.model)}, {_format_size(record)}{freed}, "
        f"{units.seconds_text(record.seconds)}, {_format_energy(record)}; not in the turn's energy"
    )


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
        _format_size(record),
        units.seconds_text(record.seconds),
        _format_energy(record),
        one_line(reason if record.turn_id is None else f"turn {record.turn_id[:8]}"),
    )
