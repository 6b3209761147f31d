"""Choose the next smaller or larger arm to ask a question again."""

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
"""Tokens an answer is reckoned with, whatever its arm would allow it."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to ask: the route that leads to it, and the work it is, bytes read for the answer."""

    route: Route
    work: float


def work_of_arm(arm: Arm, size_bytes: int) -> float:
    """Bytes of weights that decoding reads: what an answer costs grows with it."""
    if arm.readout == "choices":
        return float(size_bytes)
    thought = arm.think_tokens if arm.reasoning != "direct" else 0
    votes = arm.votes if arm.reasoning == "vote" else 1
    return float(size_bytes) * votes * (thought + _ANSWER_TOKENS)


def work_of_record(record: TurnRecord, size_bytes: int) -> float:
    """The same of a turn that was answered, by what the log knows of its arm."""
    settings = record.settings
    arm = Arm(
        record.arm,
        record.model,
        "vote" if record.reasoning == "vote" else "cot" if record.reasoning == "cot" else "direct",
        think_tokens=int(settings.get("think_tokens") or 0),
        votes=max(1, int(settings.get("votes") or 1)),
        readout="choices" if settings.get("readout") == "choices" else "text",
    )
    return work_of_arm(arm, size_bytes)


def next_rung(rungs: Iterable[Rung], work: float, direction: Direction) -> Route | None:
    """The nearest way to ask with clearly less or more work; None where there is none."""
    if direction == "larger":
        above = [rung for rung in rungs if rung.work > work * 1.001]
        return min(above, key=lambda rung: rung.work).route if above else None
    below = [rung for rung in rungs if rung.work < work * 0.999]
    return max(below, key=lambda rung: rung.work).route if below else None


def other_route(
    record: TurnRecord, route: Route, direction: Direction, config: Config, catalogue: Catalogue
) -> Route | None:
    """The next smaller or larger arm of the policy, else a model of this machine by itself.

    Raises:
        UsageError: The policy does not exist.
        InvalidFile: It cannot be used.
    """
    from etui.arm import Arm
    from etui.models.files import model_path
    from etui.routing.availability import served
    from etui.routing.library import load_policy
    from etui.runtime.serving import models_on_disk

    here = models_on_disk(config, catalogue)

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
