"""Events of a turn, which enclose the events of its answers."""

from __future__ import annotations

from dataclasses import dataclass

from etui.events import Event
from etui.routing.decision import Decision
from etui.turn.record import ToolCallRecord, TurnRecord


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


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool begins to run, after the user agreed to it where that was needed."""

    name: str
    arguments: str
    number: int  # Number of the call in the turn, from 1


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A tool has run, failed, or was refused; its joules are not measured yet."""

    call: ToolCallRecord


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """A further round of a turn that calls tools begins; the answer so far is none.

    The time since the round before it, from ``start_ns`` to ``end_ns``, belongs to no round.
    """

    number: int  # Number of the round, from 2
    start_ns: int
    end_ns: int
    predicted_joules: float | None  # Joules of this round, a load included; None if unknown
    spent_joules: float | None
    """Preliminary joules of the turn up to here, waits and loads included; None if unmeasured."""
    calls: int  # Calls so far
    most_calls: int
    most_joules: float | None
    kind: str | None = None  # How the joules were obtained; None if unmeasured


TurnEvent = (
    Decided | HopStarted | Event | HopEnded | ToolStarted | ToolEnded | RoundStarted | TurnFinished
)
