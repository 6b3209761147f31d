"""What a rule or a policy asks for beside an arm: cascades, objectives, budgets, fallbacks.

Frozen facts between the file, the decision and the turn that carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from etui.arm import Arm

if TYPE_CHECKING:
    from etui.routing.prediction import PredictedAccuracy, PredictedJoules


WhenSpent = Literal["degrade", "ask", "refuse"]


OnContextOverflow = Literal["truncate_thought", "drop_history", "fail"]


OnNoAnswer = Literal["ask_constrained", "next_arm", "keep"]


@dataclass(frozen=True, slots=True)
class Cascade:
    """Arms tried one after the other until an answer is sure enough.

    Attributes:
        arms: Cheapest first, at least two; each is ready to answer.
        accept_at: Calibrated probability of being right from which an answer is taken.
        max_hops: Arms that may answer at most.
        max_joules: No further arm is begun once the turn has spent, or is expected to spend, more.
    """

    arms: tuple[Arm, ...]
    accept_at: float
    max_hops: int
    max_joules: float | None = None


@dataclass(frozen=True, slots=True)
class TurnBudget:
    """The most one turn may spend; when it is spent the turn answers with what it has.

    None is no limit. ``tokens`` counts output tokens, ``seconds`` the load excluded.
    """

    joules: float | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PeriodBudget:
    """The most all turns of the last hour, or of the day, may spend together."""

    period: Literal["hour", "day"]
    joules: float
    when_exceeded: WhenSpent


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """What happens when an answer cannot be had as it was planned.

    Attributes:
        load_failed: Arm that answers when the model of another cannot be loaded; None fails.
        context_overflow: What gives way when question and thought do not fit.
        no_answer: What follows when a multiple choice or a vote came to no answer.
    """

    load_failed: Arm | None = None
    context_overflow: OnContextOverflow = "truncate_thought"
    no_answer: OnNoAnswer = "keep"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One arm an objective weighed; ``failed`` says what it did not meet, None if it qualified."""

    arm: Arm
    joules: PredictedJoules | None
    accuracy: PredictedAccuracy | None
    failed: str | None
