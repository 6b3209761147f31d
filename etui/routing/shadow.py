"""Shadow policies: each decides every query too, and its decision is only logged."""

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
"""A function from a policy to the predictions and the earlier questions that it uses."""


def add_shadow(
    decision: Decision,
    policy: Policy,
    query: Query,
    config: Config,
    models: Collection[str],
    *,
    available: Available,
    host: HostState | None,
    look_ahead: LookAhead | None = None,
    load: Callable[[str], Policy] | None = None,
) -> Decision:
    """Add the decision of the policy's shadow; a policy without a shadow leaves it unchanged.

    A shadow that cannot decide records why and never stops the turn.

    Args:
        decision: The decision of the active policy.
        config: Holds the folder of the user's own policies.
        available: Which models are on this machine.
        host: State of the machine; None leaves it unknown.
        look_ahead: Provides the shadow's predictions and earlier questions; None provides none.
        load: Loads a policy by name; None reads its file.
    """
    if policy.shadow is None:
        return decision
    try:
        name = policy.shadow
        other = load(name) if load is not None else load_policy(name, config, models)
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
    predicted = outlook.joules(tried.arm, query) if outlook is not None else None
    joules = None if predicted is None else predicted.answer
    shadow = Shadow(policy.shadow, tried.arm, tried.rule, tried.why, joules)
    return replace(decision, shadow=shadow)
