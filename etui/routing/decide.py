"""Decide which arm answers a query under a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError, UsageError
from etui.routing.availability import Available, as_test, nothing_serves, served, stand_in
from etui.routing.conditions import first_failed, reasons_for
from etui.routing.decision import Decision, Deferred, RuleTried, SignalValue
from etui.routing.limits import Fallbacks
from etui.routing.policy import ArmPlan, Objective, Policy, Rule
from etui.routing.prediction import Predictor
from etui.routing.resolve import FallsThrough, Resolved, carry_out
from etui.routing.signals.host_state import HostState
from etui.routing.signals.kinds import Situation
from etui.routing.signals.similarity import Neighbours
from etui.routing.signals.text_measures import TextFacts
from etui.text.suggest import suggest


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
    """The arm for a query.

    Rules are tried by priority, highest first, then in the order of the file. A rule that matches
    and cannot be carried out (no model of it is on this machine, no candidate qualifies) gives way
    to the next one, and says so in the trace.

    Args:
        query: What was asked.
        policy: The rules.
        available: Which models are on this machine.
        host: State of the machine; None knows nothing of it.
        outlook: What the arms are expected to spend and to get right; None knows nothing.
        neighbours: Earlier questions, for ``nearest``; None knows none.
        every_signal: Look at every signal, not only at those that the rules ask for.

    Raises:
        ModelUnavailable: No model of any matching rule is on this machine; says what to pull.
        EtuiError: A rule needs what was not fitted; says how to fit.
    """
    state = host or HostState()
    seen = Situation(policy.signals, TextFacts(query), state, neighbours)
    if every_signal:
        for name in seen:
            seen.holds(name)
    here = as_test(available)
    gave_way: dict[int, str] = {}
    unserved: list[ArmPlan] = []
    for index, rule in enumerate(policy.rules):
        if rule.when is not None and not rule.when.holds(seen.holds):
            continue
        end = carry_out(rule, policy, query, here, outlook=outlook, resident=state.resident)
        if isinstance(end, FallsThrough):
            gave_way[index] = end.why
            unserved += end.unserved
            continue
        why = _why(rule, end, seen, unserved)
        return _decided(policy, rule, end, why, _Trace(policy, seen, index, gave_way), here)
    if unserved:
        raise nothing_serves(policy.name, unserved)
    raise EtuiError(
        f"policy {policy.name!r} has no arm for this: {gave_way[max(gave_way)]}",
        "lower the bounds of its objective, or give the rule `otherwise: ARM`",
    )


def decide_arm(
    policy: Policy,
    name: str,
    *,
    available: Available,
    query: Query | None = None,
    outlook: Predictor | None = None,
) -> Decision:
    """The decision for an arm that was asked for by name; the policy's budgets hold for it too.

    Raises:
        UsageError: The policy has no such arm.
        ModelUnavailable: None of its models is on this machine.
    """
    plan = policy.arms.get(name)
    if plan is None:
        raise UsageError(
            f"policy {policy.name!r} has no arm {name!r}",
            suggest(name, policy.arms) or f"its arms: {', '.join(policy.arms)}",
        )
    here = as_test(available)
    arm = served(plan, here)
    if arm is None:
        raise nothing_serves(policy.name, [plan])
    joules = outlook.joules(arm, query) if outlook is not None and query is not None else None
    end = Resolved(arm, joules=None if joules is None else joules.total)
    return _decided(policy, None, end, f"arm {name} was asked for{stand_in(plan, arm)}", None, here)


class _Trace:
    """What was looked at and tried up to a decision, put into words when somebody reads it."""

    def __init__(
        self, policy: Policy, seen: Situation, matched: int, gave_way: Mapping[int, str]
    ) -> None:
        self.policy = policy
        self.seen = seen
        self.matched = matched
        self.gave_way = gave_way
        self.looked_at = seen.looked_at()

    def signals(self) -> tuple[SignalValue, ...]:
        return tuple(self.seen[name] for name in self.looked_at)

    def rules(self) -> tuple[RuleTried, ...]:
        tried = self.policy.rules[: self.matched + 1]
        return tuple(self._tried(index, rule) for index, rule in enumerate(tried))

    def _tried(self, index: int, rule: Rule) -> RuleTried:
        failed = self.gave_way.get(index)
        if failed is None and rule.when is not None:
            failed = first_failed(rule.when, self.seen)
        return RuleTried(rule.name, rule.priority, index == self.matched, failed)


def _decided(
    policy: Policy,
    rule: Rule | None,
    end: Resolved,
    why: str,
    trace: _Trace | None,
    here: Callable[[str], bool],
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
            served(load_failed, here) if load_failed is not None else None,
            planned.context_overflow,
            planned.no_answer,
        ),
    )


def _why(rule: Rule, end: Resolved, seen: Situation, unserved: list[ArmPlan]) -> str:
    if rule.when is not None:
        reason = ", ".join(reasons_for(rule.when, seen) or ())
    elif unserved:
        reason = f"no model of arm {unserved[0].name} is on this machine"
    elif end.why and not isinstance(rule.then, str):
        reason = ""  # it says enough, and no rule before it matched
    else:
        reason = "no rule before it matched"
    return f"{rule.name}: " + "; ".join(filter(None, (reason, end.why)))


def cheapest_arm(
    policy: Policy, query: Query, outlook: Predictor | None, available: Available
) -> Arm:
    """The arm of a policy that answers once its hour or day is spent.

    The one that ``budgets: {degrade_to: ARM}`` names; else the one expected to take the fewest
    joules on this query; else, where nothing is known of them, the arm for a failed load, the last
    rule's ``otherwise`` or arm, or the first of the file. Arms without a model here are left out.

    Raises:
        ModelUnavailable: No arm has a model on this machine.
    """
    here = as_test(available)
    arms = {name: arm for name, plan in policy.arms.items() if (arm := served(plan, here))}
    if not arms:
        raise nothing_serves(policy.name, list(policy.arms.values()))
    if policy.degrade_to in arms:
        return arms[policy.degrade_to]
    if outlook is not None:
        known = {
            name: joules.total
            for name, arm in arms.items()
            if (joules := outlook.joules(arm, query)) is not None
        }
        if known:
            return arms[min(known, key=known.__getitem__)]
    last = policy.rules[-1]
    otherwise = last.then.otherwise if isinstance(last.then, Objective) else None
    for name in (policy.fallbacks.load_failed, otherwise, *last.arms):
        if name in arms:
            return arms[name]
    return next(iter(arms.values()))
