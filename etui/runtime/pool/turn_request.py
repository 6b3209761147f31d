"""A turn that a client of ``etui serve`` asks for, and the status of the pool that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from etui.chat import Query
from etui.errors import EtuiError
from etui.runtime.overrides import Overrides
from etui.turn.events import TurnEvent


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A turn to run.

    Attributes:
        query: The question with its conversation, the options of its output, and its owner.
        overrides: The model, policy or arm that the client names, and its options.
        endpoint: Path of the HTTP request.
        key: Name of the client's key; empty without keys.
        request_id: Id of the HTTP request.
        effort: Depth that the client asks for (``none`` ... ``max``); None leaves it to the policy.
        metadata: Facts of the client, which policies can read as signals.
    """

    query: Query
    overrides: Overrides
    endpoint: str = ""
    key: str = ""
    request_id: str = ""
    effort: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """The last event of a turn that ended with an error, after its record if it was saved."""

    error: EtuiError


PoolEvent = TurnEvent | TurnFailed
"""``Decided`` first, then the events of the turn; ``TurnFinished`` or ``TurnFailed`` is last."""


class RunningTurn(Protocol):
    """A turn that waits or runs."""

    @property
    def turn_id(self) -> str:
        """Id of the turn, which the log uses too; known before it begins."""

    def cancel(self) -> None:
        """End it within one batch, wherever it is; safe from any thread, and repeatable."""


@dataclass(frozen=True, slots=True)
class EnergyBooks:
    """Joules since the start of the pool, and whose they are; None where unmeasured.

    ``turns`` + ``loads`` + ``idle`` + ``audits`` = ``total``.

    Attributes:
        total: Joules of the machine's meter.
        turns: Those of turns.
        loads: Those of loads and unloads.
        idle: Those of the time in which nothing ran.
        uncertainty: Half width of ``total``.
        turns_by_model: Those of turns, by model.
        kind: The weakest kind of the readings.
        audits: Those of audits and the loads for them.
    """

    total: float | None
    turns: float | None
    loads: float | None
    idle: float | None
    uncertainty: float | None = None
    turns_by_model: Mapping[str, float] = field(default_factory=dict)
    kind: str | None = None
    audits: float | None = 0.0


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What the pool is doing now.

    Attributes:
        running, queued: Turns that run, and that wait.
        parallel, queue_limit: Most of each.
        finished, failed, cancelled: Turns since the start, by their end.
        residents: Models in memory.
        loading: Name of the model that is being loaded; None for none.
        watts: Power now; None if unknown.
        books: Joules since the start.
        accepting: False while the pool shuts down.
    """

    running: int
    queued: int
    parallel: int
    queue_limit: int
    finished: int
    failed: int
    cancelled: int
    residents: tuple[str, ...]
    loading: str | None
    watts: float | None
    books: EnergyBooks
    accepting: bool = True
