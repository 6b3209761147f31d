"""Every way a question can be asked on this machine, by the work it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.config import Config
from etui.log.records import TurnRecord
from etui.tui.backend import Route
from etui.tui.ladder import Direction, Rung, next_rung, work_of_arm, work_of_record

if TYPE_CHECKING:
    from etui.models import Catalogue


def other_route(
    record: TurnRecord, route: Route, direction: Direction, config: Config, catalogue: Catalogue
) -> Route | None:
    """The next smaller or larger arm of the policy, else a model of this machine by itself.

    Raises:
        UsageError: The policy does not exist.
        InvalidFile: It cannot be used.
    """
    from etui.arm import Arm
    from etui.choice import on_this_machine
    from etui.models import model_path
    from etui.routing.policies import load_policy
    from etui.routing.serving import served

    here = on_this_machine(config, catalogue)

    def size(model: str) -> int:
        return model_path(catalogue.get(model), config).stat().st_size if here(model) else 0

    policy = load_policy(route.policy, config, catalogue.models)
    arms = [arm for plan in policy.arms.values() if (arm := served(plan, here)) is not None]
    rungs = [
        Rung(Route(route.policy, arm=arm.name), work_of_arm(arm, size(arm.model))) for arm in arms
    ]
    work = work_of_record(record, size(record.model))
    found = next_rung(rungs, work, direction)
    if found is not None:
        return found
    alone = [
        Rung(Route(route.policy, spec.name), work_of_arm(Arm("direct", spec.name), size(spec.name)))
        for spec in catalogue
        if here(spec.name)
    ]
    return next_rung(alone, work, direction)
