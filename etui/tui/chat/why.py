"""Say why a model answers: in full before it does, and afterwards only where it matters.

Afterwards the price is what one reads, and the details of an answer have the whole reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from etui import units
from etui.routing.decision import Decision
from etui.text import SEPARATOR, sanitize
from etui.turn.events import HopEnded, HopStarted
from etui.turn.record import HopRecord, TurnRecord
from etui.turn.text import route_parts

_BETWEEN = re.compile(rf"{re.escape(SEPARATOR)}|; ")
_STANDS_IN = (" stands in for ", "no model of arm ", "a budget is spent")
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
    """Return what the user must know about the choice in one line; empty for a usual one.

    Args:
        hop: The arm that answers after another one; None for the first.
    """
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
    found = [part for part in parts if any(sign in part for sign in _STANDS_IN)]
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
