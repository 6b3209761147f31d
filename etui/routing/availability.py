"""Choose the model of an arm on this machine, and report when there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from etui.arm import Arm
from etui.errors import ModelUnavailable
from etui.routing.policy import ArmPlan

Available = Callable[[str], bool] | Collection[str]
"""The models on this machine: a test of a name, or the names."""


def build_availability_test(available: Available) -> Callable[[str], bool]:
    """Return a test that says whether the model of a name is on this machine."""
    return available if callable(available) else frozenset(available).__contains__


def choose_served_arm(plan: ArmPlan, is_available: Callable[[str], bool]) -> Arm | None:
    """Return the arm with the first of its models that is available; None if none is."""
    for arm in plan.arms:
        if is_available(arm.model):
            return arm
    return None


def format_substitute(plan: ArmPlan, arm: Arm) -> str:
    """Write a note if the arm does not run on its first model; else return an empty text."""
    if arm.model == plan.models[0]:
        return ""
    return f"; using {arm.model}: {plan.models[0]} is not on this machine"


def join_with_verb(models: Sequence[str]) -> str:
    """Join names as the subject of a sentence: ``a is``, ``a and b are``."""
    if len(models) == 1:
        return f"{models[0]} is"
    return f"{', '.join(models[:-1])} and {models[-1]} are"


def build_unavailable_error(policy: str, unserved: Sequence[ArmPlan]) -> ModelUnavailable:
    """Build the error for arms without a model on this machine; its fix names what to pull."""
    first, last = unserved[0], unserved[-1]
    # A role lists its models from best to smallest, so the last one is the quickest to download.
    quickest = last.models[-1]
    best = first.models[0]
    more = f" (or the first choice: `etui models pull {best}`)" if best != quickest else ""
    return ModelUnavailable(
        f"policy {policy!r} chose arm {first.name!r}, but none of its models is on this machine: "
        + ", ".join(first.models),
        f"run `etui models pull {quickest}`{more}, or choose another model with --model",
    )
