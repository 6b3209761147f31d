"""Decide which arm answers a query under a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError, UsageError
from etui.routing.decision import (
    NO_RULE_MATCHED,
    Agreement,
    Cascade,
    Decision,
    Deferred,
    Fallbacks,
    PredictedAgreement,
    PredictedJoules,
    Predictor,
    RuleTried,
    Shadow,
    SignalValue,
)
from etui.routing.objective import ObjectiveResult, weigh
from etui.routing.policy import (
    ArmPlan,
    Available,
    CascadePlan,
    Objective,
    Policy,
    Rule,
    build_availability_test,
    build_unavailable_error,
    choose_served_arm,
    format_absent,
    format_substitute,
    list_served_places,
)
from etui.routing.signals import HostState, Situation, first_failed, reasons_for
from etui.routing.similarity import Neighbours
from etui.routing.text_measures import TextFacts
from etui.text import SEPARATOR, suggest
from etui.units import percent_text

_UNKNOWN = HostState()


def decide(
    query: Query,
    policy: Policy,
    *,
    available: Available,
    host: HostState | None = None,
    predictor: Predictor | None = None,
    neighbours: Neighbours | None = None,
    every_signal: bool = False,
) -> Decision:
    """Choose the arm that answers a query.

    Rules are tried by priority, highest first, then in the order of the file. A rule that matches
    but cannot be carried out (no model of it is on this machine, no candidate qualifies) falls
    through to the next one, and the trace records why.

    Args:
        neighbours: Earlier questions, for ``nearest`` signals; None for no earlier questions.

    Raises:
        ModelUnavailable: No model of any matching rule is on this machine; the fix names one to
            pull.
        EtuiError: A rule needs a prediction that was not fitted; the fix says how to fit it.
    """
    state = host or _UNKNOWN
    situation = Situation(policy.signals, TextFacts(query), state, neighbours)
    if every_signal:
        for name in situation:
            situation.holds(name)
    is_available = build_availability_test(available)
    fell_through: dict[int, str] = {}
    unserved: list[ArmPlan] = []
    for index, rule in enumerate(policy.rules):
        if rule.when is not None and not rule.when.holds(situation.holds):
            continue
        end = _resolve_rule(
            rule, policy, query, is_available, predictor=predictor, resident=state.resident
        )
        if isinstance(end, FallsThrough):
            fell_through[index] = end.why
            unserved += end.unserved
            continue
        why = _format_why(rule, end, situation, unserved)
        return _build_decision(
            policy, rule, end, why, _Trace(policy, situation, index, fell_through), is_available
        )
    if unserved:
        raise build_unavailable_error(policy.name, unserved)
    raise EtuiError(
        f"policy {policy.name!r} found no arm for this query: {fell_through[max(fell_through)]}",
        "relax the bounds of its objective, or add `otherwise: ARM` to the rule",
    )


def decide_arm(
    policy: Policy,
    name: str,
    *,
    available: Available,
    query: Query | None = None,
    predictor: Predictor | None = None,
) -> Decision:
    """Build the decision for an arm requested by name; the policy's budgets apply to it too.

    Raises:
        UsageError: The policy has no such arm.
        ModelUnavailable: None of its models is on this machine.
    """
    plan = policy.arms.get(name)
    if plan is None:
        raise UsageError(
            f"policy {policy.name!r} has no arm {name!r}",
            suggest(name, policy.arms) or f"known arms: {', '.join(policy.arms)}",
        )
    is_available = build_availability_test(available)
    arm = choose_served_arm(plan, is_available)
    if arm is None:
        raise build_unavailable_error(policy.name, [plan])
    joules = predictor.joules(arm, query) if predictor is not None and query is not None else None
    end = _resolve(arm, joules=None if joules is None else joules.total)
    why = f"arm {name} was requested{format_substitute(plan, arm)}"
    return _build_decision(policy, None, end, why, None, is_available)


class _Trace:
    """Signals and rules evaluated up to a decision, formatted only when they are read."""

    def __init__(
        self, policy: Policy, situation: Situation, matched: int, fell_through: Mapping[int, str]
    ) -> None:
        self.policy = policy
        self.situation = situation
        self.matched = matched
        self.fell_through = fell_through
        self.looked_at = situation.looked_at()

    def signals(self) -> tuple[SignalValue, ...]:
        """Return the signals that were evaluated."""
        return tuple(self.situation[name] for name in self.looked_at)

    def rules(self) -> tuple[RuleTried, ...]:
        """Return the rules up to the one that matched."""
        tried = self.policy.rules[: self.matched + 1]
        return tuple(self._trace_rule(index, rule) for index, rule in enumerate(tried))

    def _trace_rule(self, index: int, rule: Rule) -> RuleTried:
        failed = self.fell_through.get(index)
        if failed is None and rule.when is not None:
            failed = first_failed(rule.when, self.situation)
        return RuleTried(rule.name, rule.priority, index == self.matched, failed)


def _build_decision(
    policy: Policy,
    rule: Rule | None,
    end: Decision,
    why: str,
    trace: _Trace | None,
    is_available: Callable[[str], bool],
) -> Decision:
    planned = policy.fallbacks
    load_failed = policy.arms[planned.load_failed] if planned.load_failed is not None else None
    return replace(
        end,
        policy=policy.name,
        rule=rule.name if rule is not None else None,
        why=why,
        signals=() if trace is None else Deferred(trace.signals),
        rules=() if trace is None else Deferred(trace.rules),
        budget=policy.budget,
        fallbacks=Fallbacks(
            choose_served_arm(load_failed, is_available) if load_failed is not None else None,
            planned.context_overflow,
            planned.no_answer,
            _list_other_places(policy, end, is_available),
        ),
    )


def _list_other_places(
    policy: Policy, end: Decision, is_available: Callable[[str], bool]
) -> dict[str, tuple[str, ...]]:
    """List the other places of the arms of a decision, of those arms that have any."""
    arms = end.cascade.arms if end.cascade is not None else (end.arm,)
    others = {
        arm.name: tuple(
            other.model
            for other in list_served_places(policy.arms[arm.name], is_available)
            if other.model != arm.model
        )
        for arm in arms
        if policy.arms[arm.name].places
    }
    return {name: models for name, models in others.items() if models}


def _format_why(rule: Rule, end: Decision, situation: Situation, unserved: list[ArmPlan]) -> str:
    if rule.when is not None:
        reason = ", ".join(reasons_for(rule.when, situation) or ())
    elif unserved:
        reason = f"no model of arm {unserved[0].name} is on this machine"
    elif end.why and not isinstance(rule.then, str):
        reason = ""  # the outcome explains itself, and no earlier rule matched
    else:
        reason = NO_RULE_MATCHED
    return f"{rule.name}: " + SEPARATOR.join(filter(None, (reason, end.why)))


def cheapest_arm(
    policy: Policy, query: Query, predictor: Predictor | None, available: Available
) -> Arm:
    """Choose the arm that answers once the hourly or daily budget of a policy is spent.

    The choice is the arm that ``budgets: {degrade_to: ARM}`` names; else the one expected to take
    the fewest joules on this query; else, without predictions, the arm for a failed load, the last
    rule's ``otherwise`` or arm, or the first arm of the file. Arms without an available model are
    skipped. Of the places of an arm, the one expected to take the fewest joules answers.

    Raises:
        ModelUnavailable: No arm has a model on this machine.
    """
    is_available = build_availability_test(available)
    places = {
        name: served
        for name, plan in policy.arms.items()
        if (served := list_served_places(plan, is_available))
    }
    if not places:
        raise build_unavailable_error(policy.name, list(policy.arms.values()))
    arms = {name: served[0] for name, served in places.items()}
    if policy.degrade_to in arms:
        return (
            _choose_cheapest(places[policy.degrade_to], query, predictor) or arms[policy.degrade_to]
        )
    everywhere = [arm for served in places.values() for arm in served]
    cheapest = _choose_cheapest(everywhere, query, predictor)
    if cheapest is not None:
        return cheapest
    last = policy.rules[-1]
    otherwise = last.then.otherwise if isinstance(last.then, Objective) else None
    for name in (policy.fallbacks.load_failed, otherwise, *last.arms):
        if name in arms:
            return arms[name]
    return next(iter(arms.values()))


def replace_by_cheapest(
    decision: Decision,
    policy: Policy,
    query: Query,
    predictor: Predictor,
    available: Callable[[str], bool],
    why: str,
) -> Decision:
    """Replace the arm of a decision by the cheapest one, with a notice.

    Raises:
        ModelUnavailable: As in :func:`cheapest_arm`.
    """
    arm = cheapest_arm(policy, query, predictor, available)
    joules = predictor.joules(arm, query)
    instead = f" instead of {decision.arm.name}" if decision.arm.name != arm.name else ""
    return replace(
        decision,
        arm=arm,
        cascade=None,
        why=f"a budget is spent, so {arm.name} answers{instead} ({decision.why})",
        predicted_joules=None if joules is None else joules.total,
        predicted_accuracy=None,
        margin_joules=None,
        notices=(*decision.notices, f"{why}: the cheapest arm, {arm.name}, answers"),
    )


def _choose_cheapest(arms: Sequence[Arm], query: Query, predictor: Predictor | None) -> Arm | None:
    """Return the arm expected to take the fewest joules; None if those of all are unknown."""
    if predictor is None:
        return None
    known = [
        (joules.total, index)
        for index, arm in enumerate(arms)
        if (joules := predictor.joules(arm, query)) is not None
    ]
    return arms[min(known)[1]] if known else None


LookAhead = Callable[[Policy], tuple[Predictor | None, Neighbours | None]]
"""A function from a policy to the predictions and the earlier questions that it uses."""


def add_shadow(
    decision: Decision,
    policy: Policy,
    query: Query,
    *,
    available: Available,
    host: HostState | None,
    load: Callable[[str], Policy],
    look_ahead: LookAhead | None = None,
) -> Decision:
    """Add the decision of the policy's shadow; a policy without a shadow leaves it unchanged.

    A shadow that cannot decide records why and never stops the turn.

    Args:
        look_ahead: Provides the shadow's predictions and earlier questions; None provides none.
    """
    if policy.shadow is None:
        return decision
    try:
        other = load(policy.shadow)
        predictor, neighbours = look_ahead(other) if look_ahead is not None else (None, None)
        tried = decide(
            query,
            other,
            available=available,
            host=host,
            predictor=predictor,
            neighbours=neighbours,
        )
    except EtuiError as error:
        reason = error.what.splitlines()[0]
        return replace(decision, shadow=Shadow(policy.shadow, None, None, reason))
    predicted = predictor.joules(tried.arm, query) if predictor is not None else None
    joules = None if predicted is None else predicted.answer
    shadow = Shadow(policy.shadow, tried.arm, tried.rule, tried.why, joules)
    return replace(decision, shadow=shadow)


@dataclass(frozen=True, slots=True)
class FallsThrough:
    """A rule that cannot be carried out on this machine, so the next rule is tried."""

    why: str
    unserved: tuple[ArmPlan, ...] = ()  # Arms of the rule without a model on this machine


def _resolve_rule(
    rule: Rule,
    policy: Policy,
    query: Query,
    is_available: Callable[[str], bool],
    *,
    predictor: Predictor | None,
    resident: str | None,
) -> Decision | FallsThrough:
    """Resolve what a matching rule leads to."""
    if isinstance(rule.then, str):
        return _resolve_arm(policy.arms[rule.then], query, is_available, predictor)
    if isinstance(rule.then, CascadePlan):
        return _resolve_cascade(rule.then, policy, query, is_available, predictor)
    weighed = weigh(
        rule.then, policy.arms, query, is_available, predictor=predictor, resident=resident
    )
    return _resolve_objective(rule, rule.then, weighed, policy, query, is_available, predictor)


def _resolve(arm: Arm, why: str = "", joules: float | None = None, **known: Any) -> Decision:
    """Return a decision without its policy and trace; ``why`` adds to the rule's condition."""
    return Decision(arm, None, None, why, predicted_joules=joules, **known)


def _resolve_arm(
    plan: ArmPlan, query: Query, is_available: Callable[[str], bool], predictor: Predictor | None
) -> Decision | FallsThrough:
    arm = choose_served_arm(plan, is_available)
    if arm is None:
        return FallsThrough(format_absent(plan), (plan,))
    why = format_substitute(plan, arm).removeprefix(SEPARATOR)
    return _resolve(arm, why, _predict_joules(predictor, arm, query))


def _predict_joules(predictor: Predictor | None, arm: Arm, query: Query) -> float | None:
    joules: PredictedJoules | None = predictor.joules(arm, query) if predictor is not None else None
    return None if joules is None else joules.total


def _resolve_cascade(
    plan: CascadePlan,
    policy: Policy,
    query: Query,
    is_available: Callable[[str], bool],
    predictor: Predictor | None,
) -> Decision | FallsThrough:
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
        return FallsThrough(format_absent(*absent), tuple(absent))
    if len(ready) == 1:
        return _resolve_alone(ready[0], skipped, query, predictor)
    kept, dissolved = _keep_agreements(plan.agreements, ready)
    agreements = tuple(replace(step, odds=_predict_odds(predictor, step, ready)) for step in kept)
    in_vain = _find_in_vain(plan, agreements, len(ready))
    if in_vain:
        unasked = {name for step in in_vain for name in step.arms}
        ready = [arm for arm in ready if arm.name not in unasked]
        agreements = tuple(step for step in agreements if step not in in_vain)
        skipped += map(_describe_in_vain, in_vain)
        if len(ready) == 1:
            return _resolve_alone(ready[0], [*skipped, *dissolved], query, predictor)
    hops = min(plan.max_hops, len(ready))
    cascade = Cascade(tuple(ready), plan.accept_at, hops, plan.max_joules, agreements)
    why = _describe_cascade(cascade)
    return _resolve(ready[0], "; ".join([why, *skipped, *dissolved]), cascade=cascade)


def _resolve_alone(
    arm: Arm, notes: Sequence[str], query: Query, predictor: Predictor | None
) -> Decision:
    """Return the only arm that is left of a cascade."""
    why = "; ".join([f"only {arm.name}", *notes])
    return _resolve(arm, why, _predict_joules(predictor, arm, query))


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
    predictor: Predictor | None, step: Agreement, arms: Sequence[Arm]
) -> PredictedAgreement | None:
    members = [arm for arm in arms if arm.name in step.arms]
    return predictor.agreement(members) if predictor is not None else None


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
    predictor: Predictor | None,
) -> Decision | FallsThrough:
    winner = weighed.winner
    if winner is not None:
        return _resolve(
            winner.arm,
            weighed.why,
            winner.joules.total if winner.joules is not None else None,
            predicted_accuracy=winner.accuracy.p if winner.accuracy is not None else None,
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
        joules = _predict_joules(predictor, arm, query)
        return _resolve(arm, why, joules, candidates=weighed.candidates)
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
