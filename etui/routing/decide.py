"""A query and a policy give a decision: which arm answers, on which model, and why."""

from __future__ import annotations

from collections.abc import Callable

from etui.arm import Arm
from etui.errors import UsageError
from etui.query import Query
from etui.routing.conditions import first_failed, reasons_for
from etui.routing.decision import Decision, RuleTried, SignalValue
from etui.routing.features import TextFacts
from etui.routing.host import HostState
from etui.routing.policy import ArmPlan, Policy, Rule
from etui.routing.serving import Available, as_test, named, nothing_serves, served, stand_in
from etui.routing.signals import Situation

__all__ = ["Available", "decide", "decide_arm", "see_signals", "usual_model"]


def decide(
    query: Query,
    policy: Policy,
    *,
    available: Available,
    host: HostState | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> Decision:
    """The arm for a query.

    Rules are tried by priority, highest first, then in the order of the file. A rule that matches
    and whose arm has no model on this machine gives way to the next one, and says so in the trace.

    Args:
        query: What was asked.
        policy: The rules.
        available: Which models are on this machine.
        host: State of the machine; None knows nothing of it.
        count_tokens: A tokenizer's length of a text; None estimates it.

    Raises:
        ModelUnavailable: No model of any matching rule is on this machine; says what to pull.
    """
    seen = see_signals(query, policy, host=host, count_tokens=count_tokens)
    here = as_test(available)
    tried: list[RuleTried] = []
    unserved: list[ArmPlan] = []
    for rule in policy.rules:
        failed = first_failed(rule.when, seen) if rule.when is not None else None
        plan = policy.arms[rule.arms[0]]
        arm = None
        if failed is None:
            arm = served(plan, here)
            if arm is None:
                unserved.append(plan)
                failed = f"{named(plan.models)} not on this machine"
        tried.append(RuleTried(rule.name, rule.priority, failed is None, failed))
        if arm is not None:
            why = _why(rule, plan, arm, seen, unserved)
            return Decision(arm, policy.name, rule.name, why, tuple(seen.values()), tuple(tried))
    raise nothing_serves(policy.name, unserved)


def decide_arm(policy: Policy, name: str, *, available: Available) -> Decision:
    """The decision for an arm that was asked for by name.

    Raises:
        UsageError: The policy has no such arm.
        ModelUnavailable: None of its models is on this machine.
    """
    plan = policy.arms.get(name)
    if plan is None:
        from difflib import get_close_matches

        near = get_close_matches(name, policy.arms, n=1)
        raise UsageError(
            f"policy {policy.name!r} has no arm {name!r}",
            f"did you mean {near[0]!r}?" if near else f"its arms: {', '.join(policy.arms)}",
        )
    arm = served(plan, as_test(available))
    if arm is None:
        raise nothing_serves(policy.name, [plan])
    return Decision(arm, policy.name, None, f"arm {name} was asked for{stand_in(plan, arm)}")


def usual_model(policy: Policy, *, available: Available) -> str | None:
    """The model that answers when no condition holds, worth loading ahead; None if none can."""
    arm = served(policy.arms[policy.rules[-1].arms[0]], as_test(available))
    return None if arm is None else arm.model


def see_signals(
    query: Query,
    policy: Policy,
    *,
    host: HostState | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> dict[str, SignalValue]:
    """Every signal of the policy for this query, by name."""
    situation = Situation(TextFacts(query, count_tokens), host or HostState())
    for signal in policy.signals:
        situation.seen[signal.name] = signal.look(situation)
    return situation.seen


def _why(
    rule: Rule,
    plan: ArmPlan,
    arm: Arm,
    seen: dict[str, SignalValue],
    unserved: list[ArmPlan],
) -> str:
    if rule.when is not None:
        reason = ", ".join(reasons_for(rule.when, seen) or ())
    elif unserved:
        reason = f"no model of arm {unserved[0].name} is on this machine"
    else:
        reason = "no rule before it matched"
    return f"{rule.name}: {reason}{stand_in(plan, arm)}"
