"""Resolve a rule on this machine: to an arm, a cascade, or the winner of an objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.availability import (
    choose_served_arm,
    format_absent,
    format_all_absent,
    format_substitute,
)
from etui.routing.limits import Agreement, Candidate, Cascade
from etui.routing.objective import ObjectiveResult, weigh
from etui.routing.policy import ArmPlan, CascadePlan, Objective, Policy, Rule
from etui.routing.prediction import PredictedAgreement, PredictedJoules, Predictor
from etui.text import SEPARATOR
from etui.units import percent_text


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rule that can be carried out.

    Attributes:
        candidates, margin_joules: As in ``Decision``.
    """

    arm: Arm  # The arm that answers, or answers first
    why: str = ""  # The reason in addition to the rule's condition; may be empty
    joules: float | None = None  # Predicted joules of the arm; None if unknown, or for a cascade
    accuracy: float | None = None
    """Predicted probability of a right answer; None without an objective."""
    cascade: Cascade | None = None  # The available arms, at least two; None for a single arm
    candidates: tuple[Candidate, ...] = ()
    margin_joules: float | None = None


@dataclass(frozen=True, slots=True)
class FallsThrough:
    """A rule that cannot be carried out on this machine, so the next rule is tried."""

    why: str
    unserved: tuple[ArmPlan, ...] = ()  # Arms of the rule without a model on this machine


def resolve_rule(
    rule: Rule,
    policy: Policy,
    query: Query,
    is_available: Callable[[str], bool],
    *,
    outlook: Predictor | None,
    resident: str | None,
) -> Resolved | FallsThrough:
    """Resolve what a matching rule leads to.

    Args:
        is_available: Which models are on this machine.
        outlook: Expected joules and accuracy of the arms; None leaves them unknown.
        resident: The model in memory; None if there is none, or it is unknown.

    Raises:
        EtuiError: The objective needs a prediction that was not fitted, and the rule has no
            ``otherwise``; the fix says how to fit it.
    """
    if isinstance(rule.then, str):
        return _resolve_arm(policy.arms[rule.then], query, is_available, outlook)
    if isinstance(rule.then, CascadePlan):
        return _resolve_cascade(rule.then, policy, query, is_available, outlook)
    weighed = weigh(rule.then, policy.arms, query, is_available, outlook=outlook, resident=resident)
    return _resolve_objective(rule, rule.then, weighed, policy, query, is_available, outlook)


def _resolve_arm(
    plan: ArmPlan, query: Query, is_available: Callable[[str], bool], outlook: Predictor | None
) -> Resolved | FallsThrough:
    arm = choose_served_arm(plan, is_available)
    if arm is None:
        return FallsThrough(format_absent(plan), (plan,))
    why = format_substitute(plan, arm).removeprefix(SEPARATOR)
    return Resolved(arm, why, _predict_joules(outlook, arm, query))


def _predict_joules(outlook: Predictor | None, arm: Arm, query: Query) -> float | None:
    joules: PredictedJoules | None = outlook.joules(arm, query) if outlook is not None else None
    return None if joules is None else joules.total


def _resolve_cascade(
    plan: CascadePlan,
    policy: Policy,
    query: Query,
    is_available: Callable[[str], bool],
    outlook: Predictor | None,
) -> Resolved | FallsThrough:
    ready: list[Arm] = []
    skipped: list[str] = []
    absent: list[ArmPlan] = []
    for name in plan.arms:
        arm = choose_served_arm(policy.arms[name], is_available)
        if arm is None:
            absent.append(policy.arms[name])
            skipped.append(f"{name} is skipped: {format_absent(policy.arms[name])}")
            continue
        twin = next((other for other in ready if _gives_same_answer(arm, other)), None)
        if twin is not None:
            skipped.append(f"{name} is skipped: on this machine it is the same as {twin.name}")
            continue
        ready.append(arm)
    if not ready:
        return FallsThrough(format_all_absent(absent), tuple(absent))
    if len(ready) == 1:
        return _resolve_alone(ready[0], skipped, query, outlook)
    kept, dissolved = _keep_agreements(plan.agreements, ready)
    agreements = tuple(replace(step, odds=_predict_odds(outlook, step, ready)) for step in kept)
    in_vain = _find_in_vain(plan, agreements, len(ready))
    if in_vain:
        unasked = {name for step in in_vain for name in step.arms}
        ready = [arm for arm in ready if arm.name not in unasked]
        agreements = tuple(step for step in agreements if step not in in_vain)
        skipped += map(_describe_in_vain, in_vain)
        if len(ready) == 1:
            return _resolve_alone(ready[0], [*skipped, *dissolved], query, outlook)
    hops = min(plan.max_hops, len(ready))
    cascade = Cascade(tuple(ready), plan.accept_at, hops, plan.max_joules, agreements)
    why = _describe_cascade(cascade)
    return Resolved(ready[0], "; ".join([why, *skipped, *dissolved]), cascade=cascade)


def _resolve_alone(
    arm: Arm, notes: Sequence[str], query: Query, outlook: Predictor | None
) -> Resolved:
    """Return the only arm that is left of a cascade."""
    why = "; ".join([f"only {arm.name}", *notes])
    return Resolved(arm, why, _predict_joules(outlook, arm, query))


def _find_in_vain(
    plan: CascadePlan, agreements: Sequence[Agreement], arms: int
) -> tuple[Agreement, ...]:
    """Return the steps that need not be asked, since the fit never accepts what they agree on.

    Every question then goes on to the next arm anyway. Where a limit may forbid that arm, the
    answers of the step are what is left, so all of its arms are asked.
    """
    if plan.max_joules is not None or plan.max_hops < arms:
        return ()
    return tuple(step for step in agreements if step.is_in_vain)


def _describe_in_vain(step: Agreement) -> str:
    """Describe why a step is not asked: ``a and b are not asked: ...``."""
    assert step.odds is not None
    most, required = f"{100 * step.odds.at_most:.1f} %", f"{100 * step.accept_at:g} %"
    if len(step.arms) == 1:
        who, when = f"{step.arms[0]} is", "if all its votes agree"
    else:
        who, when = f"{' and '.join(step.arms)} are", "where they agree"
    return f"{who} not asked: {when} at most {most} are right, {required} required"


def _keep_agreements(
    agreements: Sequence[Agreement], ready: Sequence[Arm]
) -> tuple[tuple[Agreement, ...], list[str]]:
    """Return the steps that can be carried out here, and why each other one cannot.

    The arms of a step that cannot are tried one after the other, like any arm of the cascade.
    """
    names = [arm.name for arm in ready]
    kept: list[Agreement] = []
    why: list[str] = []
    for step in agreements:
        here = [name for name in step.arms if name in names]
        if not here:
            continue
        if len(here) < len(step.arms):
            why.append(f"{here[0]} has no arm left to agree with")
        elif here[-1] == names[-1]:
            why.append(f"{' and '.join(here)} need not agree: no arm follows")
        else:
            kept.append(step)
    return tuple(kept), why


def _predict_odds(
    outlook: Predictor | None, step: Agreement, arms: Sequence[Arm]
) -> PredictedAgreement | None:
    members = [arm for arm in arms if arm.name in step.arms]
    return outlook.agreement(members) if outlook is not None else None


def _describe_cascade(cascade: Cascade) -> str:
    """Describe the order: ``quick first; large if below 75 % sure``."""
    names = [arm.name for arm in cascade.arms]
    if not cascade.agreements:
        then = ", then ".join(names[1:])
        return f"{names[0]} first; {then} if below {percent_text(cascade.accept_at)} sure"
    parts: list[str] = []
    for name in names:
        step = cascade.find_agreement(name)
        if step is None:
            parts.append(name)
        elif len(step.arms) == 1:
            parts.append(f"the votes of {name}")
        elif name == step.arms[0]:
            parts.append(" and ".join(step.arms))
    return f"{parts[0]} first; {', then '.join(parts[1:])} if they differ or are not sure enough"


def _gives_same_answer(arm: Arm, other: Arm) -> bool:
    """Check whether two arms would only repeat each other's answer."""
    plain = {"name": "", "max_tokens": 1, "max_joules": None, "speculate": "off"}
    return replace(arm, **plain) == replace(other, **plain)  # type: ignore[arg-type]


def _resolve_objective(
    rule: Rule,
    objective: Objective,
    weighed: ObjectiveResult,
    policy: Policy,
    query: Query,
    is_available: Callable[[str], bool],
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
    unfitted = _UNFITTED[weighed.unfitted] if weighed.unfitted is not None else None
    why = weighed.why if unfitted is None else unfitted.what
    if objective.otherwise is not None:
        plan = policy.arms[objective.otherwise]
        arm = choose_served_arm(plan, is_available)
        if arm is None:
            return FallsThrough(f"{why}; {format_absent(plan)}", (plan,))
        short = weighed.why if unfitted is None else unfitted.short
        why = f"default arm ({short}){format_substitute(plan, arm)}"
        joules = _predict_joules(outlook, arm, query)
        return Resolved(arm, why, joules, candidates=weighed.candidates)
    if unfitted is not None:
        fix = unfitted.fix.format(policy=policy.name, arm=objective.arms[0])
        raise EtuiError(f"rule {rule.name!r} of policy {policy.name!r} cannot choose: {why}", fix)
    plans = [policy.arms[name] for name in objective.arms]
    return FallsThrough(
        why, tuple(plan for plan in plans if choose_served_arm(plan, is_available) is None)
    )


@dataclass(frozen=True, slots=True)
class _Unfitted:
    """A prediction that is missing for all arms: as a sentence, in a few words, and its fix."""

    what: str
    short: str
    fix: str


_UNFITTED = {
    "accuracy": _Unfitted(
        "no accuracy was fitted for any of its arms",
        "no accuracy data yet",
        "fit it with `etui policy fit {policy} --outcomes FILE`, add a prior to the objective, as "
        "in prior: {{{arm}: 0.6}}, or add `otherwise: {arm}` to the rule",
    ),
    "joules": _Unfitted(
        "the joules of all of its arms are unknown",
        "no joules data yet",
        "measure the models with `etui calibrate MODEL`, or add `otherwise: {arm}` to the rule",
    ),
}
"""The prediction that is missing -> how to say so."""
