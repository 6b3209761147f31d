"""The two lines around an answer, the same in the app and on the command line."""

from __future__ import annotations

from etui import units
from etui.engine.events import Vote
from etui.log.records import TurnEnergy, TurnRecord
from etui.routing.decision import Decision

SEPARATOR = " · "

_ENDINGS = {
    "stopped": "■ stopped",
    "truncated": "■ cut off: the answer used up its tokens",
    "budget": "■ ended by its budget",
    "error": "✗ failed",
}
"""How an answer ended, where it did not end by itself."""

_VOTE_STATUS = {
    "no_answer": "no answer",
    "truncated": "cut off before an answer",
    "uncounted": "not counted",
    "abandoned": "dropped under way",
}


def why_line(decision: Decision) -> str:
    """Why this model: policy, rule, arm and model, then the reason in words."""
    arm = decision.arm
    way = arm.name if arm.name == arm.reasoning else f"{arm.name} ({arm.reasoning})"
    chosen_by = [part for part in (decision.policy, decision.rule) if part]
    route = " › ".join([*chosen_by, way, arm.model])
    reason = decision.why.removeprefix(f"{decision.rule}: ") if decision.rule else decision.why
    return SEPARATOR.join(part for part in (route, reason) if part)


def vote_line(vote: Vote) -> str:
    """A vote that is in: its number, what it counts for, its tokens."""
    said = _VOTE_STATUS.get(vote.status, vote.choice or "")
    return SEPARATOR.join([f"vote {vote.index + 1}: {said}", units.tokens_text(vote.tokens)])


def shared_text(energy: TurnEnergy) -> str:
    """That others used the GPU, and what is etui's own of the joules: their sum is the board's."""
    if energy.own_joules is None:
        return "shared GPU"
    kind = energy.kind if energy.kind == units.ESTIMATE else None
    return f"shared GPU, own share {units.energy_text(energy.own_joules, None, kind)}"


def energy_line(record: TurnRecord) -> str:
    """What an answer took: tokens, tok/s, TTFT, joules ± with kind, J/token, watts, sharing."""
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
        if energy.mean_watts is not None:
            parts.append(f"{units.watts_text(energy.mean_watts, energy.kind)} mean")
        if energy.shared:
            parts.append(shared_text(energy))
    ending = _ENDINGS.get(record.status)
    return SEPARATOR.join([ending, *parts] if ending else parts)
