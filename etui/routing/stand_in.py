"""Let the model that the user chose stand in for the models of a policy that are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from etui.routing.places import Place
from etui.routing.policy import ArmPlan, Policy


def add_stand_in(policy: Policy, model: str, is_available: Callable[[str], bool]) -> Policy:
    """Return the policy with a model as the last one of every direct arm that has no model.

    Arms that think are left alone: their rules fall through to the next one where no model trained
    to think is there. The policy stays as it is if the model itself is missing.

    Args:
        is_available: Tests whether a named model can answer from this machine.
    """
    if not is_available(model):
        return policy
    arms = {
        name: _extend(plan, model) if _needs_one(plan, is_available) else plan
        for name, plan in policy.arms.items()
    }
    return policy if arms == policy.arms else replace(policy, arms=arms)


def _needs_one(plan: ArmPlan, is_available: Callable[[str], bool]) -> bool:
    return plan.arm.reasoning == "direct" and not any(map(is_available, plan.models))


def _extend(plan: ArmPlan, model: str) -> ArmPlan:
    return replace(
        plan,
        models=(*plan.models, model),
        speculate=(*plan.speculate, "off") if plan.speculate else (),
        places=(*plan.places, Place(model, model, stated=False)) if plan.places else (),
    )
