"""What a rule or a policy asks for beside an arm: cascades, objectives, budgets, fallbacks.

Frozen facts between the file, the decision and the turn that carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from etui.arm import Arm

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
class PredictedJoules:
    """What an arm is expected to spend on a query, gross joules by phase.

    Attributes:
        load: Joules of bringing its model into memory; 0.0 only where it is there already.
        prefill, decode: Joules of the two phases.
        uncertainty: Half width; None where it is not known.
        seconds: Expected duration, load included; None where it is not known.
        source: Where it is from, in words: ``operating curve``, or ``uncalibrated: 38 tok/s at 45
            W``.
    """

    load: float
    prefill: float
    decode: float
    uncertainty: float | None = None
    seconds: float | None = None
    source: str = ""

    @property
    def total(self) -> float:
        """Joules of the whole turn and its load."""
        return self.load + self.prefill + self.decode


@dataclass(frozen=True, slots=True)
class PredictedAccuracy:
    """How likely an arm is right on a query.

    Attributes:
        p: Probability of a correct answer.
        low: What it is at least, one-sided, at ``confidence``.
        confidence: Of the bound, 0..1.
        n: Graded answers behind it; 0 for a prior that nobody measured.
        source: ``fitted``, or ``prior``.
    """

    p: float
    low: float
    confidence: float
    n: int
    source: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One arm an objective weighed; ``failed`` says what it did not meet, None if it qualified."""

    arm: Arm
    joules: PredictedJoules | None
    accuracy: PredictedAccuracy | None
    failed: str | None
