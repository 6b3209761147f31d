"""Choose the next smaller or larger arm to answer a question again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from etui.arm import Arm
from etui.config.config import Config
from etui.runtime.route import Route
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.models.catalogue import Catalogue


Direction = Literal["smaller", "larger"]


_ANSWER_TOKENS = 128
"""Assumed length of an answer in tokens, whatever the limit of its arm."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to answer: its route, and its work in bytes of weights read."""

    route: Route
    work: float


def estimate_work(arm: Arm, size_bytes: int) -> float:
    """Estimate the bytes of weights that decoding an answer reads; its cost grows with them."""
    if arm.readout == "choices":
        return float(size_bytes)
    thinking = arm.think_tokens if arm.reasoning != "direct" else 0
    votes = arm.votes if arm.reasoning == "vote" else 1
    return float(size_bytes) * votes * (thinking + _ANSWER_TOKENS)


def estimate_turn_work(record: TurnRecord, size_bytes: int) -> float:
    """Estimate the work of an answered turn, from the arm settings in its record."""
    settings = record.settings
    arm = Arm(
        record.arm,
        record.model,
        "vote" if record.reasoning == "vote" else "cot" if record.reasoning == "cot" else "direct",
        think_tokens=int(settings.get("think_tokens") or 0),
        votes=max(1, int(settings.get("votes") or 1)),
        readout="choices" if settings.get("readout") == "choices" else "text",
    )
    return estimate_work(arm, size_bytes)


def choose_rung(rungs: Iterable[Rung], work: float, direction: Direction) -> Route | None:
    """Choose the route with the nearest work that is clearly less or more; None without one."""
    if direction == "larger":
        above = [rung for rung in rungs if rung.work > work * 1.001]
        return min(above, key=lambda rung: rung.work).route if above else None
    below = [rung for rung in rungs if rung.work < work * 0.999]
    return max(below, key=lambda rung: rung.work).route if below else None


def other_route(
    record: TurnRecord, route: Route, direction: Direction, config: Config, catalogue: Catalogue
) -> Route | None:
    """Find the next smaller or larger arm of the policy, or else a model without a policy.

    Returns:
        The other route; None if there is none.

    Raises:
        UsageError: The policy does not exist.
        InvalidFile: The policy is not valid.
    """
    from etui.arm import Arm
    from etui.models.files import model_path
    from etui.routing.availability import choose_served_arm
    from etui.routing.library import load_policy
    from etui.runtime.serving import models_on_disk

    # How much work a remote model is, its size, is not known here.
    on_disk = models_on_disk(config, catalogue, lambda _backend: False)

    def size(model: str) -> int:
        return model_path(catalogue.get(model), config).stat().st_size if on_disk(model) else 0

    policy = load_policy(route.policy, config, catalogue.models)
    arms = [
        arm
        for plan in policy.arms.values()
        if (arm := choose_served_arm(plan, on_disk)) is not None
    ]
    rungs = [
        Rung(Route(route.policy, arm=arm.name), estimate_work(arm, size(arm.model))) for arm in arms
    ]
    work = estimate_turn_work(record, size(record.model))
    found = choose_rung(rungs, work, direction)
    if found is not None:
        return found
    models = [spec.name for spec in catalogue if on_disk(spec.name)]
    rungs = [
        Rung(Route(route.policy, name), estimate_work(Arm("direct", name), size(name)))
        for name in models
    ]
    return choose_rung(rungs, work, direction)
