"""What a turn needs from outside: a meter, a log, and the model that serves an arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etui.arm import Arm, TokenCost
from etui.energy.types import Energy

if TYPE_CHECKING:
    from etui.models.spec import ModelSpec
    from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord


class Meter(Protocol):
    """The recorder, as far as a turn, a bench run or a calibration needs it."""

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy of an interval of the monotonic clock."""

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return (middle, mean watts) of equal slices; None for a slice without a record."""

    def settle(self, end_ns: int) -> object:
        """Wait until the energy of what ended at ``end_ns`` no longer changes."""


class Writer(Protocol):
    """The log, as far as a turn needs it."""

    def save_turn(self, record: TurnRecord) -> None: ...

    def save_load(self, record: LoadRecord) -> None: ...

    def save_unload(self, record: UnloadRecord) -> None: ...


class Unlogged:
    """A writer that keeps nothing: for turns whose ``TurnFinished`` is all that is needed."""

    def save_turn(self, record: TurnRecord) -> None:
        """Keep nothing."""

    def save_load(self, record: LoadRecord) -> None:
        """Keep nothing."""

    def save_unload(self, record: UnloadRecord) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Served:
    """The model that answers for an arm.

    Attributes:
        spec: The entry of models.yaml, with the hash its file was checked against.
        path: Its file.
        price: What its tokens cost, for thinking that is regulated by joules.
        settings: What of the turn's settings depends on the model (its idle baseline).
    """

    spec: ModelSpec
    path: Path
    price: TokenCost | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


Serve = Callable[[Arm], Served]
"""Finds the model of an arm.

Raises:
    ModelUnavailable: It is not on this machine, or damaged.
"""
