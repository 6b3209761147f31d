"""Events of a turn."""

from __future__ import annotations

from dataclasses import dataclass

from etui.events import Event
from etui.routing.decision import Decision
from etui.turn.record import TurnRecord


@dataclass(frozen=True, slots=True)
class Decided:
    """Which arm answers, and why."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The last event of a turn: what went into the log."""

    record: TurnRecord


@dataclass(frozen=True, slots=True)
class HopStarted:
    """An arm begins to answer in a turn that may have several.

    A turn of a single arm has none of these, unless another arm has to follow after all: then the
    first hop is told by its ``HopEnded`` alone.

    Attributes:
        number: From 1.
        arm, model, reasoning: What answers.
        why: Why it is asked; empty for the first.
    """

    number: int
    arm: str
    model: str
    reasoning: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class HopEnded:
    """An arm has answered, or failed to. Its text is replaced unless it is ``taken``.

    Attributes:
        number: From 1, as in ``HopStarted``.
        arm, model: What answered.
        confidence: Raw, 0..1; None where the answer carries none.
        probability: Calibrated probability of being right; None where nothing was fitted.
        accepted: The answer was sure enough.
        joules: Gross joules of the hop as far as they are read by now, its load excluded; None when
            unmeasured. The record has the last word.
        why: What came of it, in words.
        taken: The answer is the turn's. An earlier one may be, if this was the last hop.
    """

    number: int
    arm: str
    model: str
    confidence: float | None
    probability: float | None
    accepted: bool
    joules: float | None
    why: str
    taken: bool = False


TurnEvent = Decided | HopStarted | Event | HopEnded | TurnFinished
