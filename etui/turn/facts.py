"""List everything that is known of a turn as pairs of name and text, for the app and the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from etui import units
from etui.energy.scopes import describe_unread
from etui.energy.wall_model import wall_text
from etui.routing.decision import NO_RULE_MATCHED
from etui.text import SEPARATOR, count_cells, format_table, local_time, one_line, sanitize
from etui.turn.record import (
    CUT,
    DRAFTS_STOPPED,
    Attribution,
    ClientRecord,
    HopRecord,
    LoadRecord,
    TurnRecord,
    UnloadRecord,
)
from etui.turn.text import (
    bound_text,
    cache_lines,
    forecast_range,
    forecast_ratio,
    kind_of_hop,
    loop_text,
    name_shared,
    saved_text,
    speculation_text,
    tool_tree,
    undrafted,
)

NO_BASELINE = "needs an idle baseline: leave etui idle for 35 s"
ID_FACTS = frozenset({"time", "turn", "chat", "client"})
"""Names of the facts that tell a turn from others; they come last."""

_SOURCES = {
    "counter": "a hardware counter",
    "integrated": "hardware power readings, integrated over time",
    "model": "the vendor's power model",
    "battery": "the battery's readings",
    units.ESTIMATE: "estimated from CPU time and a configured power range, no meter",
}
"""How an energy was obtained, by its kind."""

_WAYS = {"direct": "answers at once", "cot": "thinks first", "vote": "most frequent of several"}

Fact = tuple[str, str]
"""Name and text; a text may have several lines."""


def list_facts(
    turn: TurnRecord,
    loads: Sequence[LoadRecord] = (),
    unloads: Sequence[UnloadRecord] = (),
    costs: Sequence[Fact] = (),
) -> list[Fact]:
    """List the facts of a turn: its joules and ``costs``, what answered and why, its ids."""
    facts = (
        *_list_energy(turn),
        *costs,
        *_list_route(turn),
        *_list_speculation(turn),
        *(("unload", _format_residence(unload)) for unload in unloads),
        *(("load", _format_residence(load)) for load in loads),
        *_list_ids(turn),
    )
    return [(name, text) for name, text in facts if text]


def list_texts(turn: TurnRecord) -> list[Fact]:
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


def _short(turn: TurnRecord, joules: float | None) -> str:
    return units.short_energy_text(joules, turn.energy.kind)


def _per_token(turn: TurnRecord, joules: float | None) -> str:
    about = units.ABOUT if turn.energy.kind == units.ESTIMATE else ""
    return about + units.short_per_token_text(joules, turn.energy.kind)


def _list_energy(turn: TurnRecord) -> Iterator[Fact]:
    energy = turn.energy
    yield "failed", one_line(turn.error or "")
    if energy.joules is None:
        yield "energy", f"{units.UNMEASURED}: nothing could be read; `etui doctor` shows why"
    else:
        gross = units.energy_text(energy.joules, energy.uncertainty, energy.kind, spread=True)
        price = [bound_text(units.marked(gross), turn.status)]
        if turn.tokens.output:
            price.append(_per_token(turn, energy.joules_per_token))
        parts = [", ".join([*price, "idle included"]), _SOURCES.get(energy.kind or "", "")]
        yield "energy", SEPARATOR.join(part for part in parts if part)
        yield "at the wall", "" if energy.wall is None else wall_text(energy.wall)
        yield "net", _format_net(turn)
        yield "etui's part", _format_own(turn)
        if energy.attribution is not None and energy.attribution.method != "exclusive":
            yield "attribution", _format_attribution(energy.attribution, turn)
        watts = f"{units.short_watts_text(energy.mean_watts, energy.kind)} mean"
        if energy.peak_watts is not None:
            watts += f", {units.short_watts_text(energy.peak_watts, energy.kind)} peak"
        seen = "" if energy.coverage == 1 else f"; read {units.percent_text(energy.coverage)} of it"
        yield "power", f"{watts} in {units.seconds_text(turn.seconds.total)}{seen}"
    yield "phases", "\n".join(_format_phases(turn))
    if (speed := turn.tokens_per_second) is not None:
        yield "speed", units.short_rate_text(speed)
    if turn.cache is not None:
        yield "cache", "\n".join(cache_lines(turn.cache))
    if again := turn.settings.get("recomputed_tokens"):
        why = one_line(str(turn.settings.get("recomputed_why") or ""))
        yield "recomputed", f"{units.tok_text(int(again))} {why}"
    if turn.seconds.ttft is not None:
        yield "first token", f"after {units.seconds_text(turn.seconds.ttft)}"
    parts = [f"{one_line(name)} {_short(turn, joules)}" for name, joules in energy.channels.items()]
    if len(parts) == 1 and energy.kind == units.ESTIMATE:
        parts = []  # the energy again
    yield "sensors", ", ".join(filter(None, [*parts, one_line(describe_unread(energy.unmeasured))]))
    yield "flags", ", ".join(energy.flags)


def _format_own(turn: TurnRecord) -> str:
    energy = turn.energy
    if not energy.shared:
        return "all: no other program is in it"
    where = f"other programs on the {name_shared(energy)}"
    if energy.own_joules is None:
        return f"not known: {where} are in it"
    idle = "" if energy.idle_watts is None else "idle power and "
    return f"{_short(turn, energy.own_joules)}, the rest is {idle}{where}"


def _format_net(turn: TurnRecord) -> str:
    energy = turn.energy
    if energy.net_joules is None:
        return NO_BASELINE
    if energy.net_joules <= 0:
        net = units.NOT_ABOVE_IDLE
    else:
        net = _short(turn, energy.net_joules)
        if turn.tokens.output:
            net += f", {_per_token(turn, energy.net_joules / turn.tokens.output)}"
    return f"{net}, without the {units.short_watts_text(energy.idle_watts, energy.kind)} of idling"


def _format_phases(turn: TurnRecord) -> list[str]:
    """Format the phases as a table: joules, seconds, tokens."""
    energy, seconds, tokens = turn.energy, turn.seconds, turn.tokens
    answer, thinking = energy.phases.get("decode"), energy.thinking_joules
    cached = f", {tokens.cached:,} cached" if tokens.cached else ""
    rows: list[tuple[str, float | None, str, str]] = []
    if seconds.load or energy.phases.get("load"):
        load = units.seconds_text(seconds.load)
        rows.append(("load", energy.phases.get("load"), load, "not in the price"))
    reading = units.seconds_text(seconds.prefill)
    prompt = f"{units.tok_text(tokens.prompt)}{cached}"
    rows.append(("read", energy.phases.get("prefill"), reading, prompt))
    if (seen := turn.pictures) is not None:
        rows.append(("pictures", seen.joules, units.seconds_text(seen.seconds),
                     units.tok_text(seen.tokens)))  # fmt: skip
    if tokens.thinking:
        rows.append(("think", thinking, "", units.tok_text(tokens.thinking)))
        answer = None if answer is None or thinking is None else max(0.0, answer - thinking)
    writing = units.seconds_text(seconds.decode) + (" with thinking" if tokens.thinking else "")
    written = units.tok_text(tokens.output - tokens.thinking)
    rows.append(("write", answer, writing, written))
    table = [(name, _short(turn, joules), *others) for name, joules, *others in rows]
    return [line.rstrip() for line in format_table(table, measure=count_cells)]


def _list_route(turn: TurnRecord) -> Iterator[Fact]:
    yield "model", one_line(turn.model)
    way = _WAYS.get(turn.reasoning, "")
    yield "arm", one_line(f"{turn.arm} ({turn.reasoning}{f': {way}' if way else ''})")
    yield "chosen by", one_line(_format_reason(turn))
    notices = turn.trace.get("notices")
    yield "notice", one_line("; ".join(notices if isinstance(notices, list | tuple) else ()))
    yield "forecast", _format_forecast(turn)
    if tree := tool_tree(turn):
        whole = tree[0][1].replace(": ", "\n", 1)
        yield "tools", "\n".join([whole, *(f"{name}: {text}" for name, text in tree[1:])])
    for number, hop in enumerate(() if tree else turn.hops, start=1):
        yield f"hop {number}", _format_hop(hop, turn)
    for vote in turn.votes:
        spent = [units.tokens_text(vote.tokens)]
        if vote.joules is not None:
            spent.append(_short(turn, vote.joules))
        answer = one_line(vote.choice or vote.answer) or "no answer"
        yield f"vote {vote.index + 1}", f"{answer} ({', '.join(spent)})"
    for probe in turn.probes:
        likeliest = max(probe.probabilities.items(), key=lambda item: item[1], default=None)
        if likeliest is not None:
            answer, share = one_line(likeliest[0]), units.percent_text(likeliest[1])
            yield f"probe at {probe.thinking_tokens}", f"{answer} ({share})"
    if turn.confidence is not None:
        yield "confidence", units.percent_text(turn.confidence)
    said = str(turn.settings.get("ended") or "")
    yield "ended", one_line(f"{said}{saved_text(turn)}" if said else loop_text(turn) or turn.ended)
    if cut := turn.settings.get(CUT):
        yield "cut", _format_cut(cut)


def _format_reason(turn: TurnRecord) -> str:
    """Say what chose the arm: ``balanced, rule code: it has code``."""
    reason = turn.why.removeprefix(f"{turn.rule}: ") if turn.rule else turn.why
    if reason.startswith(NO_RULE_MATCHED):
        reason = reason.replace(NO_RULE_MATCHED, f"{NO_RULE_MATCHED}, so its default arm", 1)
        return f"{turn.policy}: {reason}"
    named = f"{turn.policy}, rule {turn.rule}" if turn.rule else turn.policy or ""
    return ": ".join(part for part in (named, reason) if part)


def _format_forecast(turn: TurnRecord) -> str:
    parts = []
    if ends := forecast_range(turn):
        parts.append(units.joules_between_text(*ends))
        ratio = forecast_ratio(turn)
        if ratio is not None:
            parts.append(f"it took {_short(turn, turn.energy.joules)}, {units.times_text(ratio)}")
    if turn.predicted_accuracy is not None:
        parts.append(f"right with {units.percent_text(turn.predicted_accuracy)}")
    return SEPARATOR.join(parts)


def _list_ids(turn: TurnRecord) -> Iterator[Fact]:
    if turn.status not in ("complete", "error"):
        yield "status", turn.status
    yield "time", local_time(turn.created_at)
    yield "turn", turn.turn_id
    yield "chat", turn.chat_id or ""
    if turn.client is not None:
        yield "client", _format_client(turn.client)


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
    share = "an unknown share" if found.share is None else units.percent_text(found.share)
    batches = units.count_text(found.batches, "batch", "batches")
    method = "Shapley values" if found.method == "shapley" else "tokens"
    text = f"{share} of {_short(turn, found.batch_joules)} in {batches}"
    text += f" of {found.mean_requests:.1f} requests, by {method}"
    if found.spread is not None:
        text += f" ({_short(turn, found.spread)} from the share by tokens)"
    return text


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
        text = units.marked(units.per_token_text(each, kind, half, spread=True))
        facts.append(("  per accepted", text))
    return facts


def residence_size_text(record: LoadRecord | UnloadRecord) -> str:
    """Format the memory that a model takes, or took: about, of one that was unloaded."""
    if isinstance(record, LoadRecord):
        return units.bytes_text(record.size_bytes)
    return f"{units.ABOUT}{units.bytes_text(record.freed_bytes)}"


def _format_residence(record: LoadRecord | UnloadRecord) -> str:
    freed = "" if isinstance(record, LoadRecord) else " freed"
    energy = units.marked(units.energy_text(record.joules, record.uncertainty, record.kind))
    return (
        f"{one_line(record.model)}, {residence_size_text(record)}{freed}, "
        f"{units.seconds_text(record.seconds)}, {energy}; not in the turn's energy"
    )
