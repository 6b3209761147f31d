"""Which arm is the next smaller or larger one, for a question that is asked again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from etui.arm import Arm
from etui.log.records import TurnRecord
from etui.tui.backend import Route

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
