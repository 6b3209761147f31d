"""A policy on trial decides beside the one in force; what it would have done goes into the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from etui.config import Config
from etui.errors import EtuiError
from etui.query import Query
from etui.routing.decide import Available, decide
from etui.routing.decision import Decision, Shadow
from etui.routing.host import HostState
from etui.routing.policies import load_policy
from etui.routing.policy import Policy


def with_shadow(
    decision: Decision,
    policy: Policy,
    query: Query,
    config: Config,
    models: Collection[str],
    *,
    available: Available,
    host: HostState | None,
) -> Decision:
    """The decision with what the policy's shadow would have done; the same without a shadow.

    A shadow that cannot decide says why and never stops the turn.

    Args:
        decision: What the policy in force decided.
        policy: The policy in force.
        query: What was asked.
        config: Where the user's own policies lie.
        models: Names of models.yaml.
        available: Which models are on this machine.
        host: State of the machine.
    """
    if policy.shadow is None:
        return decision
    try:
        other = load_policy(policy.shadow, config, models)
        tried = decide(query, other, available=available, host=host)
    except EtuiError as error:
        reason = error.what.splitlines()[0]
        return replace(decision, shadow=Shadow(policy.shadow, None, None, reason))
    return replace(decision, shadow=Shadow(policy.shadow, tried.arm, tried.rule, tried.why))
