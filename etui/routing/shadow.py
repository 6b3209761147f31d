"""A policy on trial decides beside the one in force; what it would have done goes into the log."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from etui.chat import Query
from etui.config.config import Config
from etui.errors import EtuiError
from etui.routing.availability import Available
from etui.routing.decide import decide
from etui.routing.decision import Decision, Shadow
from etui.routing.library import load_policy
from etui.routing.policy import Policy
from etui.routing.prediction import Predictor
from etui.routing.signals.host_state import HostState
from etui.routing.signals.similarity import Neighbours

LookAhead = Callable[[Policy], tuple[Predictor | None, Neighbours | None]]
"""A policy -> what its arms are expected to do, and the earlier questions it looks at."""


def with_shadow(
    decision: Decision,
    policy: Policy,
    query: Query,
    config: Config,
    models: Collection[str],
    *,
    available: Available,
    host: HostState | None,
    look_ahead: LookAhead | None = None,
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
        look_ahead: What the shadow may know beside the query; None lets it know nothing.
    """
    if policy.shadow is None:
        return decision
    try:
        other = load_policy(policy.shadow, config, models)
        outlook, neighbours = look_ahead(other) if look_ahead is not None else (None, None)
        tried = decide(
            query,
            other,
            available=available,
            host=host,
            outlook=outlook,
            neighbours=neighbours,
        )
    except EtuiError as error:
        reason = error.what.splitlines()[0]
        return replace(decision, shadow=Shadow(policy.shadow, None, None, reason))
    said = outlook.joules(tried.arm, query) if outlook is not None else None
    joules = None if said is None else said.prefill + said.decode
    shadow = Shadow(policy.shadow, tried.arm, tried.rule, tried.why, joules)
    return replace(decision, shadow=shadow)
