"""The arm that takes over when a budget is spent."""

from __future__ import annotations

from etui.arm import Arm
from etui.query import Query
from etui.routing.outlook import Outlook
from etui.routing.policy import Objective, Policy
from etui.routing.serving import Available, as_test, nothing_serves, served


def cheapest_arm(
    policy: Policy, query: Query, outlook: Outlook | None, available: Available
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
