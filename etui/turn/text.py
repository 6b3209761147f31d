"""Format the lines around an answer, the same in the app and on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from etui import units
from etui.energy.scopes import family
from etui.events import Vote
from etui.routing.decision import NO_RULE_MATCHED, Decision
from etui.text import SEPARATOR, fit_cells, one_line
from etui.turn.events import HopEnded, RoundStarted
from etui.turn.record import (
    CONTINUES,
    DRAFTS_STOPPED,
    INTERRUPTED,
    CacheRecord,
    HopRecord,
    ToolCallRecord,
    TurnEnergy,
    TurnRecord,
)

_ENDINGS = {
    "stopped": "■ stopped",
    "budget": "■ ended by its budget",
    "error": "✗ failed",
    "interrupted": "✗ interrupted",
}
"""How an answer ended, if the model did not end it."""

_VOTE_STATUS = {
    "no_answer": "no answer",
    "truncated": "cut off before an answer",
    "uncounted": "not counted",
    "abandoned": "dropped unfinished",
}


def why_line(decision: Decision) -> str:
    """Format the routing decision: policy, rule, arm and model, then the reason."""
    parts = route_parts(decision)
    if decision.predicted_range is not None and decision.cascade is None:
        parts.append(f"forecast {units.joules_between_text(*decision.predicted_range)}")
    elif decision.predicted_joules is not None and decision.cascade is None:
        parts.append(f"forecast {units.about_joules(decision.predicted_joules)}")
    return SEPARATOR.join(part for part in parts if part)


def route_parts(decision: Decision) -> list[str]:
    """Format the route, ``balanced › rest › quick (direct) › smollm2-135m``, and its reason.

    The rule that takes the remaining questions is not named: its reason says that none matched.
    """
    arm, rule = decision.arm, decision.rule
    way = arm.name if arm.name == arm.reasoning else f"{arm.name} ({arm.reasoning})"
    reason = decision.why.removeprefix(f"{rule}: ") if rule else decision.why
    named = None if reason.startswith(NO_RULE_MATCHED) else rule
    chosen_by = [part for part in (decision.policy, named) if part]
    return [" › ".join([*chosen_by, way, arm.model]), reason]


def hop_line(hop: HopEnded) -> str:
    """Format the result of a hop: ``quick on smollm2-135m: 41 % sure, 75 % required``."""
    return f"{hop.arm} on {hop.model}: {hop.why}"


def vote_line(vote: Vote) -> str:
    """Format a completed vote: its number, its choice, its tokens."""
    result = _VOTE_STATUS.get(vote.status, vote.choice or "")
    return SEPARATOR.join([f"vote {vote.index + 1}: {result}", units.tokens_text(vote.tokens)])


def shared_text(energy: TurnEnergy) -> str:
    """Say that the joules count other programs too: ``counts other programs on the CPU``.

    The share of etui follows, if it is known: ``(etui's own ≈9.9 J)``.
    """
    shared = f"counts other programs on the {name_shared(energy)}"
    if energy.own_joules is None:
        return shared
    return f"{shared} (etui's own {units.short_energy_text(energy.own_joules, energy.kind)})"


def name_shared(energy: TurnEnergy) -> str:
    """Name what can be shared: the CPU of an estimate, the GPUs, or both."""
    names = [channel.rpartition("/")[2] for channel in energy.channels]  # after a backend's name
    families = {family(name) for name in names}
    if "estimate" not in families:
        return "GPU"
    return "CPU" if families == {"estimate"} else "GPU or CPU"


def bound_text(joules: str, status: str) -> str:
    """Say that the joules of a turn whose process was killed are a bound: ``at least 5 J``."""
    is_bound = status == INTERRUPTED and units.UNMEASURED not in joules
    return f"at least {joules}" if is_bound else joules


def ending_text(record: TurnRecord) -> str:
    """Say how an answer ended, if the model did not end it; else return an empty text."""
    if record.status == "truncated":
        return f"■ stopped at {units.tokens_text(record.tokens.output)}"
    return _ENDINGS.get(record.status, "")


def cut_text(record: TurnRecord) -> str:
    """Say that an answer ends before its end, and why; empty for a whole one, or a stopped one."""
    is_cut = record.status in ("truncated", "budget") or record.ended == "repeats"
    return (loop_text(record) or ending_text(record)).removeprefix("■ ") if is_cut else ""


FAR_OFF = 2.0
"""From this ratio of the measured joules to the nearer end of the forecast, it is mentioned."""


def forecast_ratio(record: TurnRecord) -> float | None:
    """Return the ratio of the measured joules to the predicted ones; None without both."""
    measured = record.energy.joules
    return measured / record.predicted_joules if measured and record.predicted_joules else None


def forecast_range(record: TurnRecord) -> tuple[float, float] | None:
    """Return the joules that the forecast lay between; None without a forecast.

    The attempts of a cascade are forecast one after another, without a range.
    """
    if record.predicted_joules is None:
        return None
    foreseen = record.trace.get("predicted")
    ends = foreseen.get("range") if isinstance(foreseen, Mapping) and not record.hops else None
    return (ends[0], ends[1]) if ends else (record.predicted_joules, record.predicted_joules)


def forecast_text(record: TurnRecord) -> str:
    """Say that a forecast was far off: ``2.7× the forecast (≈8-60 J)``; else return an empty text.

    An answer that the user stopped, or the rest of one that was continued, was not forecast.
    """
    ends, measured = forecast_range(record), record.energy.joules
    if record.status == "stopped" or CONTINUES in record.settings or not ends or not measured:
        return ""
    low, high = ends
    ratio = measured / high if measured > high else measured / low if measured < low else 1.0
    if 1 / FAR_OFF < ratio < FAR_OFF:
        return ""
    return f"{units.times_text(ratio)} the forecast ({units.joules_between_text(low, high)})"


def hops_text(record: TurnRecord) -> str:
    """Format the joules of each hop: ``2 hops: quick 12.0 J, large 40.1 J``."""
    each = [
        f"{hop.arm} {units.short_energy_text(hop.joules, kind_of_hop(hop, record.energy))}"
        for hop in record.hops
    ]
    return f"{units.count_text(len(record.hops), 'hop')}: {', '.join(each)}"


def tools_text(record: TurnRecord) -> str:
    """Format ``2 rounds, 1 call, 12 J waiting``; empty if no tool was called."""
    if record.tools is None:
        return ""
    rounds = len({hop.round for hop in record.hops})
    calls = units.count_text(len(record.tools.calls), "call")
    waiting = units.short_energy_text(record.tools.idle, record.tools.kind)
    return f"{units.count_text(rounds, 'round')}, {calls}, {waiting} waiting"


def kind_of_hop(hop: HopRecord, energy: TurnEnergy) -> str | None:
    """Return that the joules of a hop are an estimate; None if not.

    The turn has no kind if another of its hops was not measured.
    """
    return units.ESTIMATE if (hop.kind or energy.kind) == units.ESTIMATE else None


_MOST_CELLS = 40
"""Of the arguments and of the result of a call, in a line."""


def call_line(call: ToolCallRecord, kind: str | None = None) -> str:
    """Format a call: ``calculate {"expression": "2+2"} → 4 · 0.01 s · 0.2 J``."""
    asked = fit_cells(one_line(call.arguments), _MOST_CELLS)
    text = f"{one_line(call.name)} {asked} → {fit_cells(one_line(call.result), _MOST_CELLS)}"
    parts = [text] if call.status in ("done", "failed") else [text, call.status]
    if call.status != "refused":
        parts.append(units.seconds_text(call.seconds))
        if call.joules is not None:
            parts.append(units.short_energy_text(call.joules, kind))
    return SEPARATOR.join(parts)


def round_line(event: RoundStarted) -> str:
    """Format what a further round is predicted to cost, and what the budget still allows."""
    if event.predicted_joules is None:
        predicted = "its cost cannot be predicted yet"
    else:
        predicted = f"forecast {units.about_joules(event.predicted_joules)}"
    spent = units.short_energy_text(event.spent_joules, event.kind)
    if event.most_joules is not None and event.spent_joules is not None:
        spent += f" of {units.energy_text(event.most_joules)}"
    calls = f"{event.calls} of {units.count_text(event.most_calls, 'call')}"
    return SEPARATOR.join([f"round {event.number}: {predicted}", f"spent {spent}", calls])


def tool_tree(record: TurnRecord) -> list[tuple[str, str]]:
    """List the joules of a turn that called tools, as pairs of name and text.

    Below the sum are the rounds, and below each of them its calls.
    """
    tools = record.tools
    if tools is None:
        return []
    kind = tools.kind

    def joules(value: float | None) -> str:
        return units.short_energy_text(value, kind)

    waited = f"waiting {joules(tools.idle)} ({units.seconds_text(tools.idle_seconds)})"
    parts = [f"rounds {joules(tools.rounds)}", waited]
    if tools.loads:
        parts.append(f"loads {joules(tools.loads)}")
    limit = "" if tools.most_joules is None else f" of {units.energy_text(tools.most_joules)}"
    calls = f"{len(tools.calls)} of {units.count_text(tools.most_calls, 'call')}"
    rows = [("tools", f"{joules(tools.joules)}{limit}, {calls}: {', '.join(parts)}")]
    predicted = dict(enumerate(tools.predicted, 2))
    last_of = {hop.round or 1: hop for hop in record.hops}
    for hop in record.hops:
        number = hop.round or 1
        parts = [f"{hop.arm} › {hop.model}", joules(hop.joules), units.tok_text(hop.tokens.output)]
        if hop.load_joules:
            parts.append(f"load {joules(hop.load_joules)}")
        if (expected := predicted.pop(number, None)) is not None:
            parts.append(f"forecast {units.about_joules(expected)}")
        rows.append((f"  round {number}", one_line(SEPARATOR.join(parts))))
        if hop is last_of[number]:
            here = [each for each in tools.calls if each.round == number]
            rows += [("    call", call_line(each, kind)) for each in here]
    between = [each.joules for each in tools.calls]
    if tools.idle is not None and all(each is not None for each in between):
        rest = max(0.0, tools.idle - sum(each or 0.0 for each in between))
        rows.append(("  between", f"asking, deciding, reading: {joules(rest)}"))
    return rows


class Drafts(Protocol):
    """Drafted and accepted tokens, of an answer or of many."""

    @property
    def drafted(self) -> int:
        """Drafted tokens, at least one."""

    @property
    def accepted(self) -> int:
        """Those that the model drew too."""

    @property
    def joules_per_accepted_token(self) -> float | None:
        """Joules per accepted token; None if unmeasured or without one."""


def speculation_text(speculation: Drafts, kind: str | None) -> str:
    """Format ``drafted 120, accepted 96 (80 %), 0.21 J per accepted token``."""
    share = units.percent_text(speculation.accepted / speculation.drafted)
    parts = [f"drafted {speculation.drafted:,}", f"accepted {speculation.accepted:,} ({share})"]
    each = speculation.joules_per_accepted_token
    if each is not None:
        joules = units.about_joules(each) if kind == units.ESTIMATE else units.energy_text(each)
        parts.append(f"{joules} per accepted token")
    return ", ".join(parts)


def drafts_text(record: TurnRecord) -> str:
    """Format the drafts of an answer, and why they were stopped if they were; empty without any."""
    if record.speculation is None:
        return ""
    stopped = str(record.settings.get(DRAFTS_STOPPED, ""))
    text = speculation_text(record.speculation, record.energy.kind)
    return f"{text}; stopped: {one_line(stopped)}" if stopped else text


def undrafted(record: TurnRecord) -> str:
    """Return the ``speculate`` of an answer for which nothing was drafted; empty without one."""
    asked = str(record.settings.get("speculate", "off"))
    decoded = record.tokens.output and record.status != "error" and record.reasoning != "vote"
    said = "no speculation:" in str(record.settings.get("ended", ""))  # with the reason
    silent = asked == "off" or said or record.speculation is not None
    return asked if decoded and not silent else ""


_LOOPS = {
    "repeats": "the answer repeats itself",
    "thinking_repeats": "the thinking repeats itself",
}


def loop_text(record: TurnRecord) -> str:
    """Say that a repetition was ended and what that saved; empty if none was."""
    what = _LOOPS.get(record.ended)
    if what is None:
        return ""
    if record.status != "complete":
        return f"{ending_text(record) or record.status}; {what}"
    return f"■ ended: {what}{saved_text(record)}"


def saved_text(record: TurnRecord) -> str:
    """Format the cost that ending a repetition saved: `` (saved up to ≈40 J)``."""
    loop = record.loop
    if loop is None or not loop.saved_tokens:
        return ""
    if loop.saved_joules is None:
        return f" (saved up to {units.tokens_text(loop.saved_tokens)})"
    return f" (saved up to {units.about_joules(loop.saved_joules)})"


def energy_line(record: TurnRecord) -> str:
    """Format the cost of an answer: tokens, tok/s, TTFT, joules ± kind, J/token, watts, sharing."""
    energy, tokens, seconds = record.energy, record.tokens, record.seconds
    parts = [units.tokens_text(tokens.output)]
    if (speed := record.tokens_per_second) is not None:
        parts.append(units.speed_text(speed))
    if seconds.ttft is not None:
        parts.append(f"TTFT {units.seconds_text(seconds.ttft)}")
    if energy.joules is None:
        parts.append(f"energy {units.UNMEASURED}")
    else:
        text = units.energy_text(energy.joules, energy.uncertainty, energy.kind, spread=True)
        parts.append(bound_text(text, record.status))
        if energy.joules_per_token is not None:
            parts.append(units.short_per_token_text(energy.joules_per_token, energy.kind))
        if energy.mean_watts is not None:
            parts.append(f"{units.short_watts_text(energy.mean_watts, energy.kind)} mean")
        if far_off := forecast_text(record):
            parts.append(far_off)
        if energy.shared:
            parts.append(shared_text(energy))
    if record.cache is not None and record.cache.tier != "context":
        parts.append(cache_text(record.cache))
    if drafts := drafts_text(record):
        parts.append(drafts)
    elif undrafted(record) not in ("", "auto"):  # ``auto`` is expected to draft nothing at times
        parts.append("nothing drafted")
    if record.tools is not None:
        parts.append(tools_text(record))
    elif len(record.hops) > 1:
        parts.append(hops_text(record))
    ending = loop_text(record) or ending_text(record)
    return SEPARATOR.join([ending, *parts] if ending else parts)


def cache_text(cache: CacheRecord) -> str:
    """Format ``412 prompt tokens from memory, saved ≈3.0 J``; empty if nothing was reused."""
    if not cache.tokens:
        return ""
    place = {"context": "the context", "disk": "the disk"}.get(cache.tier, cache.tier)
    text = f"{units.count_text(cache.tokens, 'prompt token')} from {place}"
    saved = cache.saved_joules if cache.net_joules is None else cache.net_joules
    if saved is None:
        return text
    verb = "saved" if saved >= 0 else "at a loss of"
    return f"{text}, {verb} {units.about_joules(abs(saved))}"


def cache_lines(cache: CacheRecord) -> list[str]:
    """Format what a turn reused, one line each: what it saved, and what keeping it cost."""
    lines = [cache_text(cache)]
    if cache.tokens and cache.saved_joules is not None:
        saved = units.energy_text(cache.saved_joules, cache.saved_uncertainty, units.ESTIMATE)
        lines.append(f"to compute them: {units.marked(saved)} by the {_short(cache.source)}")
    elif cache.tokens:
        lines.append("the joules of computing them are unknown: `etui calibrate` measures them")
    if cache.restore_seconds:
        size = units.bytes_text(cache.size_bytes)
        lines.append(f"brought back in {units.seconds_text(cache.restore_seconds)}, {size}")
    if cache.keep_seconds:
        lines.append(f"saving caches took {units.seconds_text(cache.keep_seconds)}")
    if (cache.restore_seconds or cache.keep_seconds) and cache.cost_joules is not None:
        lines.append(f"both cost {units.about_joules(cache.cost_joules)}, which is taken off")
    return [line for line in lines if line]


def _short(source: str) -> str:
    return source.removeprefix("the ")


def price_facts(record: TurnRecord) -> list[str]:
    """List what one reads of an answer at a glance: joules, how it ended, speed, seconds, tokens.

    An end is listed only if the model did not choose it. The details of an answer have the rest.
    """
    energy = record.energy
    joules = units.spread_energy_text(energy.joules, energy.uncertainty, energy.kind)
    joules = bound_text(joules, record.status)
    ending = ending_text(record)
    if record.ended in _LOOPS and record.status == "complete":
        ending = "■ ended: it repeats itself"
    elif record.status == "complete" and not record.answer.strip():
        ending = "■ empty answer"
    speed = record.tokens_per_second
    parts = [
        f"energy {joules}" if energy.joules is None else joules,
        ending,
        "" if speed is None else units.short_rate_text(speed),
        units.seconds_text(record.seconds.total),
        units.tok_text(record.tokens.output) if record.tokens.output else "",
    ]
    return [part for part in parts if part]


def can_continue(record: TurnRecord) -> bool:
    """Return whether an answer was cut off before its end, so that it can go on."""
    return record.status in ("truncated", "stopped", "interrupted") and bool(record.answer.strip())
