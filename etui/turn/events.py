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
    """

    number: int  # Number of the hop, from 1
    arm: str
    model: str
    reasoning: str
    why: str = ""  # Why this arm follows; empty for the first


@dataclass(frozen=True, slots=True)
class HopEnded:
    """An arm has answered or failed. Its text is replaced unless it is ``taken``."""

    number: int  # Number of the hop, from 1, as in `HopStarted`
    arm: str
    model: str
    confidence: float | None  # Raw confidence, 0..1; None if the answer has none
    probability: float | None  # Calibrated probability of being right; None without a fit
    accepted: bool  # Whether the answer was sure enough
    joules: float | None
    """Preliminary gross joules of the hop, its load excluded; None if unmeasured. The record has
    the final value."""
    why: str  # The result, in words
    taken: bool = False
    """Whether this is the answer of the turn. After the last hop it may be an earlier one."""
    kind: str | None = None  # How the joules were obtained; None if unmeasured


TurnEvent = Decided | HopStarted | Event | HopEnded | TurnFinished
