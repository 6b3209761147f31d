"""Everything that can answer the next questions: policies, arms and models, with their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from etui.errors import EtuiError, LogUnavailable
from etui.runtime.route import Route

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.policy import Policy

RouteKind = Literal["policy", "arm", "model"]


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """One policy, arm or model that may answer the next questions."""

    kind: RouteKind
    name: str
    route: Route  # How the next questions find it
    here: bool  # Whether a model on this machine can answer for it
    joules_per_token: float | None = None
    """Predicted joules of a decoded token of its model, or of the cheapest model of a policy; None
    if unknown."""
    details: str = ""
    """What else there is to say: description, model, size, or why it cannot be used."""


def list_route_choices(config: Config, route: Route) -> tuple[RouteChoice, ...]:
    """List the policies, the arms of the policy in use, and the models; read from disk each time.

    Args:
        route: The route in use, whose policy's arms are listed.

    Raises:
        EtuiError: models.yaml cannot be used.
    """
    from etui.log.queries import LogReader
    from etui.models.catalogue import load_catalogue
    from etui.models.files import recorded_sha256
    from etui.routing.library import list_policies
    from etui.runtime.serving import models_on_disk, read_token_cost

    catalogue = load_catalogue(config)
    on_disk = models_on_disk(config, catalogue)
    costs: dict[str, float] = {}
    with suppress(LogUnavailable), LogReader(config) as log:
        for spec in catalogue:
            if on_disk(spec.name):
                sha256 = spec.sha256 or recorded_sha256(spec, config)
                cost = read_token_cost(replace(spec, sha256=sha256), config, log)
                if cost is not None:
                    costs[spec.name] = cost.joules_per_token

    def choices() -> Iterator[RouteChoice]:
        used: Policy | None = None
        for place in list_policies(config):
            choice, policy = _describe_policy(place.name, config, catalogue, on_disk, costs)
            used = policy if place.name == route.policy else used
            yield choice
        if used is not None:
            yield from _list_arms(used, on_disk, costs)
        for spec in sorted(catalogue, key=lambda spec: not on_disk(spec.name)):
            yield RouteChoice(
                "model",
                spec.name,
                Route(route.policy, spec.name),
                on_disk(spec.name),
                costs.get(spec.name),
                spec.size,
            )

    return tuple(choices())


def _describe_policy(
    name: str,
    config: Config,
    catalogue: Catalogue,
    on_disk: Callable[[str], bool],
    costs: dict[str, float],
) -> tuple[RouteChoice, Policy | None]:
    from etui.routing.availability import choose_served_arm
    from etui.routing.library import load_policy

    route = Route(name)
    try:
        policy = load_policy(name, config, catalogue.models)
    except EtuiError:
        return RouteChoice("policy", name, route, False, None, "has errors: see F4"), None
    served = [
        arm
        for plan in policy.arms.values()
        if (arm := choose_served_arm(plan, on_disk)) is not None
    ]
    known = [costs[arm.model] for arm in served if arm.model in costs]
    return RouteChoice(
        "policy",
        name,
        route,
        bool(served),
        min(known, default=None),
        policy.description,
    ), policy


def _list_arms(
    policy: Policy, on_disk: Callable[[str], bool], costs: dict[str, float]
) -> Iterator[RouteChoice]:
    from etui.routing.availability import choose_served_arm

    for name, plan in policy.arms.items():
        arm = choose_served_arm(plan, on_disk)
        model = plan.models[0] if arm is None else arm.model
        way = plan.arm.reasoning
        yield RouteChoice(
            "arm",
            name,
            Route(policy.name, arm=name),
            arm is not None,
            costs.get(model),
            f"{model}, {way}",
        )
