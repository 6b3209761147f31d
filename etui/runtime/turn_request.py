"""A turn that a client of ``etui serve`` asks for, and the status of the pool that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from etui.chat import Query
from etui.errors import EtuiError
from etui.runtime.decide import Confirm, Overrides
from etui.turn.events import TurnEvent


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A turn to run."""

    query: Query  # The question with its conversation, the options of its output, and its owner
    overrides: Overrides  # The model, policy or arm that the client names, and its options
    endpoint: str = ""  # Path of the HTTP request
    key: str = ""  # Name of the client's key; empty without keys
    request_id: str = ""
    effort: str | None = None
    """Depth that the client asks for (``none`` ... ``max``); None leaves it to the policy."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts of the client, which policies can read as signals."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings of the turn: what it replaces, or its saved prompt."""
    confirm: Confirm | None = None
    """Asks the user whether to exceed a budget; None if there is no one to ask."""


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
    """

    total: float | None  # Joules of the machine's meter
    turns: float | None
    loads: float | None  # Those of loads and unloads
    idle: float | None  # Those of the time in which nothing ran
    uncertainty: float | None = None  # Half width of `total`
    turns_by_model: Mapping[str, float] = field(default_factory=dict)
    kind: str | None = None  # The weakest kind of the readings
    audits: float | None = 0.0  # Those of audits and the loads for them


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What the pool is doing now.

    Attributes:
        running, queued: Turns that run, and that wait.
        finished, failed, cancelled: Turns since the start, by their end.
    """

    running: int
    queued: int
    parallel: int
    queue_limit: int
    finished: int
    failed: int
    cancelled: int
    residents: tuple[str, ...]  # Models in memory
    loading: str | None  # Name of the model that is being loaded; None for none
    watts: float | None  # Power now; None if unknown
    books: EnergyBooks  # Joules since the start
    accepting: bool = True  # False while the pool shuts down
