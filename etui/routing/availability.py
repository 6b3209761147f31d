"""Choose the model of an arm on this machine, and report when there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from etui.arm import Arm
from etui.errors import ModelUnavailable
from etui.routing.places import Place
from etui.routing.policy import ArmPlan
from etui.text import SEPARATOR

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


def list_served_places(plan: ArmPlan, is_available: Callable[[str], bool]) -> tuple[Arm, ...]:
    """Return the arm at every available place of the weights that it would use, in order.

    Empty if no model is available. Other models of the arm have other weights, and with them
    another accuracy: they are only used if this one is nowhere available.
    """
    first = choose_served_arm(plan, is_available)
    if first is None:
        return ()
    if not plan.places:
        return (first,)
    weights = plan.find_place(first.model).weights
    return tuple(
        arm
        for arm, place in zip(plan.arms, plan.places, strict=True)
        if place.weights == weights and (arm is first or is_available(arm.model))
    )


def format_substitute(plan: ArmPlan, arm: Arm) -> str:
    """Write ``· small stands in for big`` if the arm runs on another model than its first."""
    if arm.model == plan.models[0]:
        return ""
    backend = plan.find_place(arm.model).backend
    where = f" on {backend}" if backend else ""
    return f"{SEPARATOR}{arm.model}{where} stands in for {plan.models[0]}"


def format_absent(plan: ArmPlan) -> str:
    """Say that none of the models of an arm is available."""
    return format_all_absent((plan,))


def format_place_absent(place: Place) -> str:
    """Say that a model is not available at a place."""
    return _format_unavailable((place,))


def format_all_absent(plans: Sequence[ArmPlan]) -> str:
    """Say that none of the models of some arms is available."""
    places = [plan.find_place(model) for plan in plans for model in plan.models]
    return _format_unavailable(tuple(dict.fromkeys(places)))


def _format_unavailable(places: Sequence[Place]) -> str:
    """Write ``a is not on this machine``, ``b on desk is not available``, or both."""
    here = [place.model for place in places if place.backend is None]
    there = [f"{place.model} on {place.backend}" for place in places if place.backend is not None]
    parts = [f"{join_with_verb(here)} not on this machine"] if here else []
    parts += [f"{join_with_verb(there)} not available"] if there else []
    return ", ".join(parts)


def join_with_verb(models: Sequence[str]) -> str:
    """Join names as the subject of a sentence: ``a is``, ``a and b are``."""
    if len(models) == 1:
        return f"{models[0]} is"
    return f"{', '.join(models[:-1])} and {models[-1]} are"


def build_unavailable_error(policy: str, unserved: Sequence[ArmPlan]) -> ModelUnavailable:
    """Build the error for arms without a model on this machine; its fix names what to pull."""
    first = unserved[0]
    local = [
        model for plan in unserved for model in plan.models if not plan.find_place(model).backend
    ]
    named = ", ".join(first.models)
    if len(local) < sum(len(plan.models) for plan in unserved):
        named = ", ".join(
            f"{model} on {backend}" if (backend := first.find_place(model).backend) else model
            for model in first.models
        )
    if not local:
        return ModelUnavailable(
            f"policy {policy!r} chose arm {first.name!r}, but none of its models is available: "
            + named,
            "check its backend with `etui doctor`, or choose another model with --model",
        )
    # A role lists its models from best to smallest, so the last one is the quickest to download.
    best, quickest = local[0], local[-1]
    more = f" (or the first choice: `etui models pull {best}`)" if best != quickest else ""
    return ModelUnavailable(
        f"policy {policy!r} chose arm {first.name!r}, but none of its models is on this machine: "
        + named,
        f"run `etui models pull {quickest}`{more}, or choose another model with --model",
    )
