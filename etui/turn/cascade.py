"""Decide what follows a hop of a turn: whether its answer is accepted, and which arm is next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.errors import EngineFailed, EtuiError, ModelUnavailable
from etui.multiple_choice import parse_options
from etui.routing.decision import Decision
from etui.turn.agreement import PredictAgreement, settle
from etui.turn.cascade_step import advance, find_best_outcome, is_sure
from etui.turn.hop import AskConstrained, Hop, Stop, has_output
from etui.turn.hop_text import format_barred, reason_to_continue


@dataclass(frozen=True, slots=True)
class Spent:
    """Spending of a turn before its next hop."""

    joules: float | None
    """Joules since its first answer began, loads between hops included; None if unmeasured."""
    budget: str | None = None  # Name of the turn's budget that is spent; None if none is


def settle_hops(decision: Decision, hops: Sequence[Hop], predict: PredictAgreement) -> list[Hop]:
    """Judge the step of the last hop by the answers of all of its arms (:func:`settle`)."""
    settled = settle(decision.cascade, [hop.outcome for hop in hops], predict)
    return [
        replace(
            hop,
            probability=outcome.probability,
            accepted=outcome.accepted,
            together=outcome.together,
        )
        for hop, outcome in zip(hops, settled, strict=True)
    ]


def is_accepted(decision: Decision, hop: Hop) -> bool:
    """Return whether an answer is accepted, so that no further arm is needed."""
    if hop.failure is not None or hop.end.status not in ("complete", "budget"):
        return decision.cascade is None and hop.failure is None
    if not hop.answered and decision.fallbacks.no_answer != "keep":
        return False
    if decision.cascade is None:
        return True
    return is_sure(decision.cascade, hop.end.confidence, hop.probability)


def next_step(
    question: str,
    decision: Decision,
    hops: Sequence[Hop],
    spent: Spent,
    predict: Callable[[Arm], float | None],
) -> AskConstrained | Stop:
    """Decide what follows the last hop.

    Args:
        decision: The arm, the cascade, the fallbacks.
        hops: The completed hops, in order; at least one.
        spent: Spending of the turn.
        predict: Predicts the joules of an arm; returns None if unknown.
    """
    last = hops[-1]
    if last.stopped:
        return Stop()
    if last.failure is not None:
        return _after_failure(decision, hops, last)
    if spent.budget is not None:
        reason = f"no further arm: {spent.budget} is spent"
        return Stop("" if last.accepted else reason)
    constrained = _ask_for_letter(question, decision, hops, last)
    if constrained is not None:
        return constrained
    if last.accepted or decision.cascade is None:
        return Stop()
    outcomes = [hop.outcome for hop in hops]
    step = advance(decision.cascade, outcomes, spent.joules, predict)
    if step.arm is None:
        return Stop()
    if step.barred is not None:
        return Stop(format_barred(decision.cascade, step.arm, step, spent.joules or 0.0))
    return AskConstrained(step.arm, reason_to_continue(decision.cascade, last))


def find_best(hops: Sequence[Hop]) -> Hop | None:
    """Return the hop with the answer of a turn that was not stopped; None without any answer."""
    index = find_best_outcome([hop.outcome for hop in hops])
    return None if index is None else hops[index]


def choose_hop(hops: Sequence[Hop]) -> Hop:
    """Choose the hop whose answer is the turn's.

    In a stopped turn this is the running hop if it has any text. Without any answer it is the last
    hop.
    """
    last = hops[-1]
    if last.stopped and has_output(last.end):
        return last
    return find_best(hops) or last


def _after_failure(decision: Decision, hops: Sequence[Hop], last: Hop) -> AskConstrained | Stop:
    if find_best(hops) is not None:
        return Stop()
    reason = f"{last.arm.name} failed"
    fallback = _find_fallback(decision, hops)
    if last.at_load and fallback is not None:
        return fallback
    if decision.cascade is None:
        return Stop()
    step = advance(decision.cascade, [hop.outcome for hop in hops], None, lambda arm: None)
    return Stop() if step.arm is None else AskConstrained(step.arm, reason)


def _find_fallback(decision: Decision, hops: Sequence[Hop]) -> AskConstrained | None:
    """Find the arm that follows a model that could not answer; None if all were asked.

    The other places of the model come first, then the models that its backend names for this case,
    then the policy's arm, which is for any model.
    """
    last = hops[-1]
    for model in decision.fallbacks.places.get(last.arm.name, ()):
        place = replace(last.arm, model=model)
        if not _asked(hops, place):
            return AskConstrained(place, f"{last.arm.model} cannot answer, {model} can")
    for arm in [arm for hop in reversed(hops) for arm in hop.fallbacks]:
        if not _asked(hops, arm):
            return AskConstrained(arm, f"{last.arm.model} could not answer")
    policy = decision.fallbacks.load_failed
    if policy is not None and not _asked(hops, policy):
        verb = "answer" if last.fallbacks else "be loaded"
        return AskConstrained(policy, f"{last.arm.model} could not {verb}")
    return None


def _asked(hops: Sequence[Hop], arm: Arm) -> bool:
    return any(hop.arm.name == arm.name and hop.arm.model == arm.model for hop in hops)


def _ask_for_letter(
    question: str, decision: Decision, hops: Sequence[Hop], last: Hop
) -> AskConstrained | None:
    """Ask the same model for the letter only, if a multiple choice ended without one."""
    enabled = decision.fallbacks.no_answer == "ask_constrained"
    if last.answered or not enabled or last.arm.readout == "choices" or not parse_options(question):
        return None
    arm = replace(last.arm, reasoning="direct", readout="choices")
    return AskConstrained(arm, f"{last.arm.name} named no option")


def failed_at_load(failure: EtuiError, *, began: bool) -> bool:
    """Return whether a failure means that the model could not be loaded."""
    return not began and isinstance(failure, ModelUnavailable | EngineFailed)
