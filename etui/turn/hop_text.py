"""Describe the hops of a turn in words: how sure an answer is, and why another arm follows."""

from __future__ import annotations

from collections.abc import Sequence

from etui.arm import Arm
from etui.routing.decision import Decision
from etui.routing.limits import Cascade
from etui.turn.agreement import describe_agreement
from etui.turn.cascade_step import CascadeStep
from etui.turn.hop import AskConstrained, Hop, Stop
from etui.units import count_text, energy_text, percent_text


def sure_text(hop: Hop) -> str:
    """Format ``82 % sure``, ``82 % confident (uncalibrated)``, or what is missing."""
    if not hop.answered:
        return "without an answer"
    if hop.end.status == "truncated":
        return "cut off"
    if hop.probability is not None:
        return f"{percent_text(hop.probability)} sure"
    if hop.end.confidence is not None:
        return f"{percent_text(hop.end.confidence)} confident (uncalibrated)"
    return "without a confidence"


def describe_hop(decision: Decision, hop: Hop, step: AskConstrained | Stop) -> str:
    """Describe the result of a hop."""
    if hop.failure is not None:
        return f"failed: {hop.failure.what.splitlines()[0]}"
    if hop.stopped:
        return "stopped"
    words = _describe_certainty(decision.cascade, hop)
    if isinstance(step, AskConstrained) and step.arm.name == hop.arm.name:
        words.append("asked again for the letter only")
    elif isinstance(step, AskConstrained):
        words.append(f"continuing with {step.arm.name}")
    elif step.why:
        words.append(step.why)
    return ", ".join(words)


def _describe_certainty(cascade: Cascade | None, hop: Hop) -> list[str]:
    """Return how sure an answer is, and what is required; of a step, also whether it agrees."""
    if cascade is None:
        return [sure_text(hop)]
    step = cascade.find_agreement(hop.arm.name) if hop.together is not None else None
    if step is None:
        return [sure_text(hop), f"{percent_text(cascade.accept_at)} required"]
    if hop.together == "agreed":
        required = f"{percent_text(step.accept_at)} required"
        return [describe_agreement(step, hop.outcome), sure_text(hop), required]
    return [describe_agreement(step, hop.outcome) or sure_text(hop)]


def reason_to_continue(cascade: Cascade, last: Hop) -> str:
    """Describe why the arm after a hop is asked."""
    step = cascade.find_agreement(last.arm.name)
    if step is None or last.together is None:
        return f"{last.arm.name} was {sure_text(last)}"
    if last.together == "open":
        return f"to see whether it agrees with {last.arm.name}"
    if last.together == "agreed":
        return f"{' and '.join(step.arms)} agree, but are only {sure_text(last)}"
    if len(step.arms) == 1:
        return f"the votes of {last.arm.name} differ"
    return f"{' and '.join(step.arms)} do not agree"


def describe_hops(decision: Decision, hops: Sequence[Hop], chosen: Hop) -> str:
    """Describe the hops of a cascade or of a turn with several; empty for a plain turn."""
    if decision.cascade is None and len(hops) == 1:
        return ""
    parts = [f"{hop.arm.name} {hop.why}" for hop in hops]
    if chosen is not hops[-1]:
        parts.append(f"the answer of {chosen.arm.name} is used")
    return "; ".join(parts)


def format_barred(cascade: Cascade, arm: Arm, step: CascadeStep, spent: float) -> str:
    """Describe the limit that keeps a cascade from its next arm.

    Args:
        arm: The arm that is not asked.
        spent: Joules so far.
    """
    if step.barred == "hops":
        most = count_text(cascade.max_hops, "hop")
        return f"{arm.name} skipped: the cascade is limited to {most}"
    assert cascade.max_joules is not None
    limit = energy_text(cascade.max_joules)
    if step.predicted is None:
        return f"{arm.name} skipped: the cascade's {limit} are spent"
    estimate = energy_text(step.predicted, kind="estimate").removesuffix(" (estimate)")
    left = energy_text(cascade.max_joules - spent)
    return f"{arm.name} skipped: it would cost {estimate}, but only {left} of {limit} is left"
