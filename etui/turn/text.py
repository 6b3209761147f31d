"""Format the lines around an answer, the same in the app and on the command line."""

from __future__ import annotations

from typing import Protocol

from etui import units
from etui.energy.scopes import family
from etui.events import Vote
from etui.routing.decision import Decision
from etui.text.tables import SEPARATOR
from etui.turn.events import HopEnded
from etui.turn.record import HopRecord, TurnEnergy, TurnRecord

_ENDINGS = {
    "stopped": "■ stopped",
    "truncated": "■ cut off: the answer used up its tokens",
    "budget": "■ ended by its budget",
    "error": "✗ failed",
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
    arm = decision.arm
    parts = route_parts(
        decision.policy, decision.rule, arm.name, arm.reasoning, arm.model, decision.why
    )
    if decision.predicted_joules is not None and decision.cascade is None:
        parts.append(f"predicted {about_joules(decision.predicted_joules)}")
    return SEPARATOR.join(part for part in parts if part)


def route_parts(
    policy: str | None, rule: str | None, arm: str, reasoning: str, model: str, why: str
) -> list[str]:
    """Format the route, ``balanced › rest › quick (direct) › smollm2-135m``, and its reason."""
    way = arm if arm == reasoning else f"{arm} ({reasoning})"
    chosen_by = [part for part in (policy, rule) if part]
    reason = why.removeprefix(f"{rule}: ") if rule else why
    return [" › ".join([*chosen_by, way, model]), reason]


def about_joules(joules: float) -> str:
    """Format estimated joules without the kind: ``≈21 J``."""
    return units.energy_text(joules, kind=units.ESTIMATE).removesuffix(f" ({units.ESTIMATE})")


def hop_line(hop: HopEnded) -> str:
    """Format the result of a hop: ``quick on smollm2-135m: 41 % sure, 75 % required``."""
    return f"{hop.arm} on {hop.model}: {hop.why}"


def vote_line(vote: Vote) -> str:
    """Format a completed vote: its number, its choice, its tokens."""
    result = _VOTE_STATUS.get(vote.status, vote.choice or "")
    return SEPARATOR.join([f"vote {vote.index + 1}: {result}", units.tokens_text(vote.tokens)])


def shared_text(energy: TurnEnergy) -> str:
    """Format the notice of shared hardware, with etui's own share of the joules if known."""
    shared = f"shared {_name_shared(energy)}"
    if energy.own_joules is None:
        return shared
    kind = energy.kind if energy.kind == units.ESTIMATE else None
    return f"{shared}, own share {units.energy_text(energy.own_joules, None, kind)}"


def _name_shared(energy: TurnEnergy) -> str:
    """Name what can be shared: the CPU of an estimate, the GPUs, or both."""
    names = [channel.rpartition("/")[2] for channel in energy.channels]  # after a backend's name
    families = {family(name) for name in names}
    if "estimate" not in families:
        return "GPU"
    return "CPU" if families == {"estimate"} else "GPU or CPU"


def hops_text(record: TurnRecord) -> str:
    """Format the joules of each hop: ``2 hops: quick 12.0 J, large 40.1 J``."""
    each = [
        f"{hop.arm} {units.energy_text(hop.joules, None, kind_of_hop(hop, record.energy))}"
        for hop in record.hops
    ]
    return f"{units.count_text(len(record.hops), 'hop')}: {', '.join(each)}"


def kind_of_hop(hop: HopRecord, energy: TurnEnergy) -> str | None:
    """Return that the joules of a hop are an estimate; None if not.

    The turn has no kind if another of its hops was not measured.
    """
    return units.ESTIMATE if (hop.kind or energy.kind) == units.ESTIMATE else None


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
    """Format ``drafted 120, accepted 96 (80 %), 0.21 J per accepted token``.

    Args:
        speculation: The drafted tokens.
        kind: Kind of the energy; an estimate is marked with ``~``.
    """
    share = units.percent_text(speculation.accepted / speculation.drafted)
    parts = [f"drafted {speculation.drafted:,}", f"accepted {speculation.accepted:,} ({share})"]
    each = speculation.joules_per_accepted_token
    if each is not None:
        joules = about_joules(each) if kind == units.ESTIMATE else units.energy_text(each)
        parts.append(f"{joules} per accepted token")
    return ", ".join(parts)


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
        return f"{_ENDINGS.get(record.status, record.status)}; {what}"
    return f"■ ended: {what}{saved_text(record)}"


def saved_text(record: TurnRecord) -> str:
    """Format the cost that ending a repetition saved: `` (saved ≈40 J, estimate)``."""
    loop = record.loop
    if loop is None or not loop.saved_tokens:
        return ""
    if loop.saved_joules is None:
        return f" (saved up to {units.tokens_text(loop.saved_tokens)})"
    return f" (saved up to {about_joules(loop.saved_joules)}, estimate)"


def energy_line(record: TurnRecord) -> str:
    """Format the cost of an answer: tokens, tok/s, TTFT, joules ± kind, J/token, watts, sharing."""
    energy, tokens, seconds = record.energy, record.tokens, record.seconds
    parts = [units.tokens_text(tokens.output)]
    if tokens.output and seconds.decode > 0:
        parts.append(units.rate_text(tokens.output, seconds.decode))
    if seconds.ttft is not None:
        parts.append(f"TTFT {units.seconds_text(seconds.ttft)}")
    if energy.joules is None:
        parts.append(f"energy {units.UNMEASURED}")
    else:
        parts.append(units.energy_text(energy.joules, energy.uncertainty, energy.kind, spread=True))
        if energy.joules_per_token is not None:
            parts.append(units.per_token_text(energy.joules_per_token, energy.kind))
        if record.predicted_joules is not None:
            parts.append(f"predicted {about_joules(record.predicted_joules)}")
        if energy.mean_watts is not None:
            parts.append(f"{units.watts_text(energy.mean_watts, energy.kind)} mean")
        if energy.shared:
            parts.append(shared_text(energy))
    if record.speculation is not None:
        parts.append(speculation_text(record.speculation, energy.kind))
    elif undrafted(record) not in ("", "auto"):  # ``auto`` is expected to draft nothing at times
        parts.append("nothing drafted")
    if len(record.hops) > 1:
        parts.append(hops_text(record))
    ending = loop_text(record) or _ENDINGS.get(record.status)
    return SEPARATOR.join([ending, *parts] if ending else parts)
