"""Which model serves an arm on this machine, and what is said when none does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from etui.arm import Arm
from etui.errors import ModelUnavailable
from etui.routing.policy import ArmPlan

Available = Callable[[str], bool] | Collection[str]
"""The models on this machine: a test of a name, or the names."""


def as_test(available: Available) -> Callable[[str], bool]:
    """The test of a name."""
    return available if callable(available) else frozenset(available).__contains__


def served(plan: ArmPlan, here: Callable[[str], bool]) -> Arm | None:
    """The arm with the first of its models that is here; None if none is."""
    for model in plan.models:
        if here(model):
            return plan.arm if model == plan.arm.model else replace(plan.arm, model=model)
    return None


def stand_in(plan: ArmPlan, arm: Arm) -> str:
    """Says so when the model that serves is not the one the policy would like best."""
    if arm.model == plan.models[0]:
        return ""
    return f"; {arm.model} serves, {plan.models[0]} is not on this machine"


def named(models: Sequence[str]) -> str:
    """``a is``, ``a and b are``."""
    if len(models) == 1:
        return f"{models[0]} is"
    return f"{', '.join(models[:-1])} and {models[-1]} are"


def nothing_serves(policy: str, unserved: Sequence[ArmPlan]) -> ModelUnavailable:
    """No model of these arms is here; says what to pull."""
    first, last = unserved[0], unserved[-1]
    # A role goes from the best to the smallest, so its last one is the quickest to get.
    quickest = last.models[-1]
    best = first.models[0]
    more = f" (or the first choice: `etui models pull {best}`)" if best != quickest else ""
    return ModelUnavailable(
        f"policy {policy!r} chose arm {first.name!r}, and no model of it is on this machine: "
        + ", ".join(first.models),
        f"run `etui models pull {quickest}`{more}, or name a model of your own with --model",
    )
