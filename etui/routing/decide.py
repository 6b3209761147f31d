"""Decide which arm answers a query under a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError, UsageError
from etui.routing.availability import (
    Available,
    build_availability_test,
    build_unavailable_error,
    choose_served_arm,
    format_substitute,
    list_served_places,
)
from etui.routing.conditions import first_failed, reasons_for
from etui.routing.decision import NO_RULE_MATCHED, Decision, Deferred, RuleTried, SignalValue
from etui.routing.limits import Fallbacks
from etui.routing.policy import ArmPlan, Objective, Policy, Rule
from etui.routing.prediction import Predictor
from etui.routing.resolve import FallsThrough, Resolved, resolve_rule
from etui.routing.signals.host_state import HostState
from etui.routing.signals.kinds import Situation
from etui.routing.signals.similarity import Neighbours
from etui.routing.signals.text_measures import TextFacts
from etui.text import SEPARATOR, suggest

_UNKNOWN = HostState()


def decide(
    query: Query,
    policy: Policy,
    *,
    available: Available,
    host: HostState | None = None,
    outlook: Predictor | None = None,
    neighbours: Neighbours | None = None,
    every_signal: bool = False,
) -> Decision:
    """Choose the arm that answers a query.

    Rules are tried by priority, highest first, then in the order of the file. A rule that matches
    but cannot be carried out (no model of it is on this machine, no candidate qualifies) falls
    through to the next one, and the trace records why.

    Args:
        available: Which models are on this machine.
        host: State of the machine; None leaves it unknown.
        outlook: Expected joules and accuracy of the arms; None leaves them unknown.
        neighbours: Earlier questions, for ``nearest`` signals; None for no earlier questions.
        every_signal: Evaluate every signal, not only those that the rules ask for.

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
        end = resolve_rule(
            rule, policy, query, is_available, outlook=outlook, resident=state.resident
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
    outlook: Predictor | None = None,
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
    joules = outlook.joules(arm, query) if outlook is not None and query is not None else None
    end = Resolved(arm, joules=None if joules is None else joules.total)
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
    end: Resolved,
    why: str,
    trace: _Trace | None,
    is_available: Callable[[str], bool],
) -> Decision:
    planned = policy.fallbacks
    load_failed = policy.arms[planned.load_failed] if planned.load_failed is not None else None
    return Decision(
        arm=end.arm,
        policy=policy.name,
        rule=rule.name if rule is not None else None,
        why=why,
        signals=() if trace is None else Deferred(trace.signals),
        rules=() if trace is None else Deferred(trace.rules),
        predicted_joules=end.joules,
        predicted_accuracy=end.accuracy,
        cascade=end.cascade,
        candidates=end.candidates,
        margin_joules=end.margin_joules,
        budget=policy.budget,
        fallbacks=Fallbacks(
            choose_served_arm(load_failed, is_available) if load_failed is not None else None,
            planned.context_overflow,
            planned.no_answer,
            _list_other_places(policy, end, is_available),
        ),
    )


def _list_other_places(
    policy: Policy, end: Resolved, is_available: Callable[[str], bool]
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


def _format_why(rule: Rule, end: Resolved, situation: Situation, unserved: list[ArmPlan]) -> str:
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
    policy: Policy, query: Query, outlook: Predictor | None, available: Available
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
            _choose_cheapest(places[policy.degrade_to], query, outlook) or arms[policy.degrade_to]
        )
    everywhere = [arm for served in places.values() for arm in served]
    cheapest = _choose_cheapest(everywhere, query, outlook)
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
    outlook: Predictor,
    available: Callable[[str], bool],
    why: str,
) -> Decision:
    """Replace the arm of a decision by the cheapest one, with a notice.

    Args:
        decision: What the rules decided.
        outlook: Predicts the joules of the arms.
        available: Returns whether a model can answer.
        why: Which budget is spent.

    Raises:
        ModelUnavailable: As in :func:`cheapest_arm`.
    """
    arm = cheapest_arm(policy, query, outlook, available)
    joules = outlook.joules(arm, query)
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


def _choose_cheapest(arms: Sequence[Arm], query: Query, outlook: Predictor | None) -> Arm | None:
    """Return the arm expected to take the fewest joules; None if those of all are unknown."""
    if outlook is None:
        return None
    known = [
        (joules.total, index)
        for index, arm in enumerate(arms)
        if (joules := outlook.joules(arm, query)) is not None
    ]
    return arms[min(known)[1]] if known else None
