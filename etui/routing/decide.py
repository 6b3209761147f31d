"""Decide which arm answers a query under a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
    Predictor,
    RuleTried,
    Shadow,
    SignalValue,
)
from etui.routing.objective import weigh
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
from etui.routing.similarity import EarlierQuestions
from etui.routing.text_measures import TextFacts
from etui.text import SEPARATOR, suggest
from etui.units import percent_text


def decide(
    query: Query,
    policy: Policy,
    *,
    available: Available,
    host: HostState | None = None,
    predictor: Predictor | None = None,
    neighbours: EarlierQuestions | None = None,
    every_signal: bool = False,
) -> Decision:
    """Choose the arm that answers a query.

    Rules are tried by priority, highest first, then in the order of the file. A rule that matches
    but cannot be carried out (no model of it is on this machine, no candidate qualifies) falls
    through to the next one, and the trace records why.

    ModelUnavailable if no model of any matching rule is on this machine, EtuiError if a rule needs
    a prediction that was not fitted; the fix says what to pull or how to fit it.
    """
    state = host or HostState()
    situation = Situation(policy.signals, TextFacts(query), state, neighbours)
    if every_signal:
        for name in situation:
            situation.holds(name)
    resolver = _Resolver(
        policy, query, build_availability_test(available), predictor, state.resident
    )
    fell_through: dict[int, str] = {}
    unserved: list[ArmPlan] = []
    for index, rule in enumerate(policy.rules):
        if rule.when is not None and not rule.when.holds(situation.holds):
            continue
        end = resolver.resolve(rule)
        if isinstance(end, _FallsThrough):
            fell_through[index] = end.why
            unserved += end.unserved
            continue
        why = _format_why(rule, end, situation, unserved)
        seen = situation.looked_at()
        return resolver.complete(
            end,
            rule=rule.name,
            why=why,
            signals=Deferred(partial(_trace_signals, situation, seen)),
            rules=Deferred(partial(_trace_rules, policy.rules, situation, index, fell_through)),
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

    UsageError if the policy has no such arm, ModelUnavailable without a model on this machine.
    """
    if name not in policy.arms:
        raise UsageError(
            f"policy {policy.name!r} has no arm {name!r}",
            suggest(name, policy.arms) or f"known arms: {', '.join(policy.arms)}",
        )
    resolver = _Resolver(policy, query, build_availability_test(available), predictor)
    end = resolver.resolve_arm(name, f"arm {name} was requested")
    if isinstance(end, _FallsThrough):
        raise build_unavailable_error(policy.name, end.unserved)
    return resolver.complete(end)


def _trace_signals(situation: Situation, names: Iterable[str]) -> tuple[SignalValue, ...]:
    return tuple(situation[name] for name in names)


def _trace_rules(
    rules: Sequence[Rule], situation: Situation, matched: int, fell_through: Mapping[int, str]
) -> tuple[RuleTried, ...]:
    """Return the rules up to the one that matched, with why each other one did not."""
    tried: list[RuleTried] = []
    for index, rule in enumerate(rules[: matched + 1]):
        failed = fell_through.get(index)
        if failed is None and rule.when is not None:
            failed = first_failed(rule.when, situation)
        tried.append(RuleTried(rule.name, rule.priority, index == matched, failed))
    return tuple(tried)


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
    skipped; ModelUnavailable if all are. Of the places of an arm, the cheapest one answers.
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
    """Replace the arm of a decision by the cheapest one, with a notice; as :func:`cheapest_arm`."""
    arm = cheapest_arm(policy, query, predictor, available)
    joules = predictor.joules(arm, query)
    instead = f" instead of {decision.arm.name}" if decision.arm.name != arm.name else ""
    return replace(
        decision,
        arm=arm,
        cascade=None,
        why=f"a budget is spent, so {arm.name} answers{instead} ({decision.why})",
        predicted_joules=None if joules is None else joules.total,
        predicted_range=None if joules is None else joules.range,
        predicted_accuracy=None,
        margin_joules=None,
        notices=(*decision.notices, f"{why}: the cheapest arm, {arm.name}, answers"),
    )


def _choose_cheapest(arms: Sequence[Arm], query: Query, predictor: Predictor | None) -> Arm | None:
    if predictor is None:
        return None
    known = [
        (joules.total, index)
        for index, arm in enumerate(arms)
        if (joules := predictor.joules(arm, query)) is not None
    ]
    return arms[min(known)[1]] if known else None


LookAhead = Callable[[Policy], tuple[Predictor | None, EarlierQuestions | None]]
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
    """Add the decision of the policy's shadow, if it has one.

    A shadow that cannot decide records why and never stops the turn.
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
class _FallsThrough:
    why: str
    unserved: tuple[ArmPlan, ...] = ()  # Arms of the rule without a model on this machine


@dataclass(frozen=True, slots=True)
class _Resolver:
    """Finds the arms that the rules of a policy lead to for one query on this machine."""

    policy: Policy
    query: Query | None
    is_available: Callable[[str], bool]
    predictor: Predictor | None
    resident: str | None = None  # The model in memory

    def resolve(self, rule: Rule) -> Decision | _FallsThrough:
        if isinstance(rule.then, str):
            return self.resolve_arm(rule.then)
        if isinstance(rule.then, CascadePlan):
            return self._resolve_cascade(rule.then)
        return self._resolve_objective(rule.name, rule.then)

    def complete(self, end: Decision, **trace: Any) -> Decision:
        planned = self.policy.fallbacks
        load_failed = None if planned.load_failed is None else self._serve(planned.load_failed)
        arms = end.cascade.arms if end.cascade is not None else (end.arm,)
        places = {arm.name: others for arm in arms if (others := self._list_other_models(arm))}
        return replace(
            end,
            policy=self.policy.name,
            budget=self.policy.budget,
            fallbacks=Fallbacks(load_failed, planned.context_overflow, planned.no_answer, places),
            **trace,
        )

    def _list_other_models(self, arm: Arm) -> tuple[str, ...]:
        plan = self.policy.arms[arm.name]
        if not plan.places:
            return ()
        served = list_served_places(plan, self.is_available)
        return tuple(other.model for other in served if other.model != arm.model)

    def _serve(self, name: str) -> Arm | None:
        return choose_served_arm(self.policy.arms[name], self.is_available)

    def resolve_arm(
        self, name: str, why: str = "", unfit: str = "", **known: Any
    ) -> Decision | _FallsThrough:
        """Resolve one arm; ``unfit`` says why its rule falls through as well, without a model."""
        plan = self.policy.arms[name]
        arm = self._serve(name)
        if arm is None:
            return _FallsThrough(unfit + format_absent(plan), (plan,))
        why = (why + format_substitute(plan, arm)).removeprefix(SEPARATOR)
        return self._choose(arm, why, **known)

    def _choose(self, arm: Arm, why: str, **known: Any) -> Decision:
        joules = (
            self.predictor.joules(arm, self.query)
            if self.predictor is not None and self.query is not None
            else None
        )
        if joules is not None:
            known |= {"predicted_joules": joules.total, "predicted_range": joules.range}
        return Decision(arm, None, None, why, **known)

    def _resolve_cascade(self, plan: CascadePlan) -> Decision | _FallsThrough:
        ready: list[Arm] = []
        notes: list[str] = []
        absent: list[ArmPlan] = []
        for name in plan.arms:
            arm = self._serve(name)
            if arm is None:
                absent.append(self.policy.arms[name])
                notes.append(f"{name} is skipped: {format_absent(absent[-1])}")
                continue
            twin = next((other for other in ready if _gives_same_answer(arm, other)), None)
            if twin is not None:
                notes.append(f"{name} is skipped: on this machine it is the same as {twin.name}")
                continue
            ready.append(arm)
        if not ready:
            return _FallsThrough(format_absent(*absent), tuple(absent))
        agreements, dissolved = self._keep_agreements(plan.agreements, ready)
        in_vain = _find_in_vain(plan, agreements, len(ready))
        if in_vain:
            unasked = {name for step in in_vain for name in step.arms}
            ready = [arm for arm in ready if arm.name not in unasked]
            agreements = tuple(step for step in agreements if step not in in_vain)
            notes += map(_describe_in_vain, in_vain)
        notes += dissolved
        if len(ready) == 1:
            return self._choose(ready[0], "; ".join([f"only {ready[0].name}", *notes]))
        hops = min(plan.max_hops, len(ready))
        cascade = Cascade(tuple(ready), plan.accept_at, hops, plan.max_joules, agreements)
        why = "; ".join([_describe_cascade(cascade), *notes])
        return Decision(ready[0], None, None, why, cascade=cascade)

    def _keep_agreements(
        self, agreements: Sequence[Agreement], ready: Sequence[Arm]
    ) -> tuple[tuple[Agreement, ...], list[str]]:
        """Return the steps that can be carried out here, and why others are single arms."""
        kept: list[Agreement] = []
        why: list[str] = []
        if len(ready) == 1:
            return (), why
        for step in agreements:
            here = [arm for arm in ready if arm.name in step.arms]
            if not here:
                continue
            if len(here) < len(step.arms):
                why.append(f"{here[0].name} has no arm left to agree with")
            elif here[-1] is ready[-1]:
                names = " and ".join(arm.name for arm in here)
                why.append(f"{names} need not agree: no arm follows")
            else:
                odds = None if self.predictor is None else self.predictor.agreement(here)
                kept.append(replace(step, odds=odds))
        return tuple(kept), why

    def _resolve_objective(self, rule: str, objective: Objective) -> Decision | _FallsThrough:
        policy, query = self.policy, self.query
        assert query is not None
        weighed = weigh(
            objective,
            policy.arms,
            query,
            self.is_available,
            predictor=self.predictor,
            resident=self.resident,
        )
        winner = weighed.winner
        if winner is not None:
            return Decision(
                winner.arm,
                None,
                None,
                weighed.why,
                predicted_joules=winner.joules.total if winner.joules is not None else None,
                predicted_range=winner.joules.range if winner.joules is not None else None,
                predicted_accuracy=winner.accuracy.p if winner.accuracy is not None else None,
                candidates=weighed.candidates,
                margin_joules=weighed.margin_joules,
            )
        missing = _UNFITTED.get(weighed.unfitted or "")
        why, short, fix = missing or (weighed.why, weighed.why, "")
        if objective.otherwise is not None:
            return self.resolve_arm(
                objective.otherwise,
                f"default arm ({short})",
                f"{why}; ",
                candidates=weighed.candidates,
            )
        if missing is not None:
            raise EtuiError(
                f"rule {rule!r} of policy {policy.name!r} cannot choose: {why}",
                fix.format(policy=policy.name, arm=objective.arms[0]),
            )
        unserved = [policy.arms[name] for name in objective.arms if self._serve(name) is None]
        return _FallsThrough(why, tuple(unserved))


def _find_in_vain(
    plan: CascadePlan, agreements: Sequence[Agreement], arms: int
) -> tuple[Agreement, ...]:
    """Return the steps that need not be asked, since the fit never accepts what they agree on.

    Where a limit may forbid the next arm, their answers are what is left.
    """
    if plan.max_joules is not None or plan.max_hops < arms:
        return ()
    return tuple(step for step in agreements if step.is_in_vain)


def _describe_in_vain(step: Agreement) -> str:
    assert step.odds is not None
    most, required = f"{100 * step.odds.at_most:.1f} %", f"{100 * step.accept_at:g} %"
    if len(step.arms) == 1:
        who, when = f"{step.arms[0]} is", "if all its votes agree"
    else:
        who, when = f"{' and '.join(step.arms)} are", "where they agree"
    return f"{who} not asked: {when} at most {most} are right, {required} required"


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


_UNFITTED = {
    "accuracy": (
        "no accuracy was fitted for any of its arms",
        "no accuracy data yet",
        "fit it with `etui policy fit {policy} --outcomes FILE`, add a prior to the objective, as "
        "in prior: {{{arm}: 0.6}}, or add `otherwise: {arm}` to the rule",
    ),
    "joules": (
        "the joules of all of its arms are unknown",
        "no joules data yet",
        "measure the models with `etui calibrate MODEL`, or add `otherwise: {arm}` to the rule",
    ),
}
"""The prediction that is missing for all arms -> a sentence, a few words, and the fix."""
