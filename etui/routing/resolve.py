"""What a rule leads to on this machine: an arm, a cascade, or the winner of an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.availability import named, served, stand_in
from etui.routing.limits import Candidate, Cascade
from etui.routing.objective import Weighed, weigh
from etui.routing.policy import ArmPlan, CascadePlan, Objective, Policy, Rule
from etui.routing.prediction import PredictedJoules, Predictor


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rule that can be carried out.

    Attributes:
        arm: What answers, or answers first.
        why: What there is to say of it beyond the rule's condition; may be empty.
        joules: What the arm is expected to spend; None where it is not known, or for a cascade.
        accuracy: How likely it is right; None without an objective.
        cascade: The arms that are ready, at least two; None for a single arm.
        candidates, margin_joules: As in ``Decision``.
    """

    arm: Arm
    why: str = ""
    joules: float | None = None
    accuracy: float | None = None
    cascade: Cascade | None = None
    candidates: tuple[Candidate, ...] = ()
    margin_joules: float | None = None


@dataclass(frozen=True, slots=True)
class FallsThrough:
    """A rule that cannot be carried out here; ``unserved`` are arms without a model."""

    why: str
    unserved: tuple[ArmPlan, ...] = ()


def carry_out(
    rule: Rule,
    policy: Policy,
    query: Query,
    here: Callable[[str], bool],
    *,
    outlook: Predictor | None,
    resident: str | None,
) -> Resolved | FallsThrough:
    """What a rule that matched leads to.

    Raises:
        EtuiError: Its objective needs what was not fitted, and it names no other arm; says how to
            fit.
    """
    if isinstance(rule.then, str):
        return _single(policy.arms[rule.then], query, here, outlook)
    if isinstance(rule.then, CascadePlan):
        return _cascade(rule.then, policy, query, here, outlook)
    weighed = weigh(rule.then, policy.arms, query, here, outlook=outlook, resident=resident)
    return _objective(rule, rule.then, weighed, policy, query, here, outlook)


def _single(
    plan: ArmPlan, query: Query, here: Callable[[str], bool], outlook: Predictor | None
) -> Resolved | FallsThrough:
    arm = served(plan, here)
    if arm is None:
        return FallsThrough(f"{named(plan.models)} not on this machine", (plan,))
    return Resolved(arm, stand_in(plan, arm).removeprefix("; "), _total(outlook, arm, query))


def _total(outlook: Predictor | None, arm: Arm, query: Query) -> float | None:
    joules: PredictedJoules | None = outlook.joules(arm, query) if outlook is not None else None
    return None if joules is None else joules.total


def _cascade(
    plan: CascadePlan,
    policy: Policy,
    query: Query,
    here: Callable[[str], bool],
    outlook: Predictor | None,
) -> Resolved | FallsThrough:
    ready: list[Arm] = []
    left_out: list[str] = []
    absent: list[ArmPlan] = []
    for name in plan.arms:
        arm = served(policy.arms[name], here)
        if arm is None:
            absent.append(policy.arms[name])
            left_out.append(f"{name} is left out, {named(policy.arms[name].models)} not here")
            continue
        twin = next((other for other in ready if _same_answer(arm, other)), None)
        if twin is not None:
            left_out.append(f"{name} is left out, on this machine it is the same as {twin.name}")
            continue
        ready.append(arm)
    if not ready:
        models = [model for arm in absent for model in arm.models]
        return FallsThrough(
            f"{named(tuple(dict.fromkeys(models)))} not on this machine", tuple(absent)
        )
    first = ready[0]
    if len(ready) == 1:
        why = "; ".join([f"{first.name} alone", *left_out])
        return Resolved(first, why, _total(outlook, first, query))
    hops = min(plan.max_hops, len(ready))
    cascade = Cascade(tuple(ready), plan.accept_at, hops, plan.max_joules)
    then = ", ".join(arm.name for arm in ready[1:])
    why = f"{first.name}, then {then} until one is right with {plan.accept_at:g}"
    return Resolved(first, "; ".join([why, *left_out]), cascade=cascade)


def _same_answer(arm: Arm, other: Arm) -> bool:
    """Whether asking the one after the other would only say the same again."""
    plain = {"name": "", "max_tokens": 1, "max_joules": None}
    return replace(arm, **plain) == replace(other, **plain)  # type: ignore[arg-type]


def _objective(
    rule: Rule,
    objective: Objective,
    weighed: Weighed,
    policy: Policy,
    query: Query,
    here: Callable[[str], bool],
    outlook: Predictor | None,
) -> Resolved | FallsThrough:
    winner = weighed.winner
    if winner is not None:
        return Resolved(
            winner.arm,
            weighed.why,
            winner.joules.total if winner.joules is not None else None,
            winner.accuracy.p if winner.accuracy is not None else None,
            candidates=weighed.candidates,
            margin_joules=weighed.margin_joules,
        )
    why = _UNFITTED[weighed.unfitted][0] if weighed.unfitted else weighed.why
    if objective.otherwise is not None:
        end = _single(policy.arms[objective.otherwise], query, here, outlook)
        if isinstance(end, FallsThrough):
            return replace(end, why=f"{why}; {end.why}")
        why = f"{objective.otherwise}, since {why}" + (f"; {end.why}" if end.why else "")
        return replace(end, why=why, candidates=weighed.candidates)
    if weighed.unfitted is not None:
        fix = _UNFITTED[weighed.unfitted][1].format(policy=policy.name, arm=objective.arms[0])
        raise EtuiError(f"rule {rule.name!r} of policy {policy.name!r} cannot choose: {why}", fix)
    plans = [policy.arms[name] for name in objective.arms]
    return FallsThrough(why, tuple(plan for plan in plans if served(plan, here) is None))


_UNFITTED = {
    "accuracy": (
        "no accuracy was fitted for any of its arms",
        "fit it with `etui policy fit {policy} --outcomes FILE`, state one in the objective, as in "
        "prior: {{{arm}: 0.6}}, or give the rule `otherwise: {arm}`",
    ),
    "joules": (
        "the joules of none of its arms are known",
        "measure the models with `etui calibrate MODEL`, or give the rule `otherwise: {arm}`",
    ),
}
"""What is missing -> what is said of it, and how to come by it."""
