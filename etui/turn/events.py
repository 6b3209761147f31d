"""Events of a turn, which enclose the events of its answers."""

from __future__ import annotations

from dataclasses import dataclass

from etui.events import Event
from etui.routing.decision import Decision
from etui.turn.record import TurnRecord


@dataclass(frozen=True, slots=True)
class Decided:
    """The routing decision: which arm answers, and why."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The last event of a turn, with the record that was logged."""

    record: TurnRecord


@dataclass(frozen=True, slots=True)
class HopStarted:
    """An arm starts to answer in a turn that may have several.

    A turn of a single arm has none of these events, unless a fallback adds another arm: then the
    first hop has only a ``HopEnded``.

    Attributes:
        number: Number of the hop, from 1.
        arm, model, reasoning: The arm that answers.
        why: Why this arm follows; empty for the first.
    """

    number: int
    arm: str
    model: str
    reasoning: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class HopEnded:
    """An arm has answered or failed. Its text is replaced unless it is ``taken``.

    Attributes:
        number: Number of the hop, from 1, as in ``HopStarted``.
        arm, model: The arm that answered.
        confidence: Raw confidence, 0..1; None if the answer has none.
        probability: Calibrated probability of being right; None without a fit.
        accepted: Whether the answer was sure enough.
        joules: Preliminary gross joules of the hop, its load excluded; None if unmeasured. The
            record has the final value.
        why: The result, in words.
        taken: Whether this is the answer of the turn. After the last hop it may be an earlier one.
        kind: How the joules were obtained; None if unmeasured.
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
    kind: str | None = None


TurnEvent = Decided | HopStarted | Event | HopEnded | TurnFinished
