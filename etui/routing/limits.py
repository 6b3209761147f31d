"""Cascades, budgets, fallbacks and candidates: what a decision carries in addition to an arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from etui.arm import Arm

if TYPE_CHECKING:
    from etui.routing.prediction import PredictedAccuracy, PredictedAgreement, PredictedJoules


EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Reasoning efforts that a client can ask for, as the OpenAI SDK names them."""

WhenSpent = Literal["degrade", "ask", "refuse"]


OnContextOverflow = Literal["truncate_thought", "drop_history", "fail"]


OnNoAnswer = Literal["ask_constrained", "next_arm", "keep"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """A step of a cascade whose answer is accepted if all of its arms give the same one."""

    arms: tuple[str, ...]
    """Names of the arms, neighbours in the cascade and in its order. A single one draws votes, all
    of which must be the same."""
    accept_at: float  # Probability of being right from which the common answer is accepted
    odds: PredictedAgreement | None = None
    """How likely a common answer is right, before it is known; None without a fit."""

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the fit accepts no common answer, whatever its margins."""
        return self.odds is not None and self.odds.at_most < self.accept_at

    @property
    def is_in_vain(self) -> bool:
        """Whether that is certain: it follows from enough answers, not from a lack of them.

        The answers have to be known, and the whole interval of the share that is right has to be
        below what is required. Of a fit of few answers, more of them may say something else.
        """
        odds = self.odds
        return (
            self.is_out_of_reach and odds is not None and odds.known and odds.high < self.accept_at
        )


@dataclass(frozen=True, slots=True)
class Cascade:
    """Arms tried one after the other until an answer is confident enough."""

    arms: tuple[Arm, ...]  # Cheapest first, at least two; each has a model on this machine
    accept_at: float  # Calibrated probability of being right from which an answer is accepted
    max_hops: int  # Maximum number of arms that answer
    max_joules: float | None = None
    """No further arm starts once the turn has spent, or is expected to spend, more."""
    agreements: tuple[Agreement, ...] = ()
    """The steps of several arms, in order; every other arm is a step of its own."""

    def find_agreement(self, name: str) -> Agreement | None:
        """Return the step of several answers that an arm belongs to; None for a plain arm."""
        return next((step for step in self.agreements if name in step.arms), None)

    def number_step(self, name: str) -> int | None:
        """Return the number, from 1, of the step that an arm belongs to; None for no arm of it."""
        steps: list[object] = []
        for arm in self.arms:
            step = self.find_agreement(arm.name) or arm.name
            if step not in steps:
                steps.append(step)
            if arm.name == name:
                return steps.index(step) + 1
        return None


@dataclass(frozen=True, slots=True)
class TurnBudget:
    """The most one turn may spend; at the limit the turn answers with what it has.

    None is no limit. ``tokens`` counts output tokens; ``seconds`` excludes the load.
    """

    joules: float | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PeriodBudget:
    """The most that all turns of the last hour, or of the day, may spend together."""

    period: Literal["hour", "day"]
    joules: float
    when_exceeded: WhenSpent


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """What to do when an answer cannot be produced as planned."""

    load_failed: Arm | None = None
    """Arm that answers when the model of another cannot be loaded; None raises the error."""
    context_overflow: OnContextOverflow = "truncate_thought"
    """What to cut when question and thinking do not fit into the context."""
    no_answer: OnNoAnswer = "keep"  # What to do when a multiple choice or a vote yields no answer
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arm -> its models at other machines (the same weights) that are available, in the order they
    are tried when the place of the arm cannot answer."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One arm an objective considered, at one of the machines that serve its model."""

    arm: Arm  # The arm, with the model of that place
    joules: PredictedJoules | None  # Its predicted joules; None if unknown
    accuracy: PredictedAccuracy | None
    """Its predicted accuracy, which is the same at every place; None if unknown."""
    failed: str | None  # The bound it misses; None if it qualifies
    backend: str | None = None  # Name of the backend that would answer; None for this machine
    seconds: float | None = None  # Expected duration, load included; None if unknown
