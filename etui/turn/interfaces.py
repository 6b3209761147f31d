"""Interfaces that a turn depends on: a meter, open turns, and the model of an arm."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import uuid4

from etui.arm import Arm, TokenCost
from etui.energy.types import Energy, Phase
from etui.errors import ModelUnavailable

if TYPE_CHECKING:
    from etui.backends.base import Answerer
    from etui.backends.remote.backend import RemoteBackend
    from etui.models.spec import ModelSpec
    from etui.turn.accounting import TimeInterval
    from etui.turn.record import Attribution, ClientRecord, LoadRecord, TurnRecord, UnloadRecord


class Meter(Protocol):
    """The part of the recorder used by a turn, a bench run or a calibration."""

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy of an interval of the monotonic clock."""

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return (middle in ns, mean watts) of equal slices; None for a slice without readings."""

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Note that the power steps at a time, such as the start of an answer's prefill."""

    def settle(self, end_ns: int) -> object:
        """Wait until the energy up to ``end_ns`` is final."""


@runtime_checkable
class PartMeter(Meter, Protocol):
    """A meter of one turn's part of a machine that other turns use at the same time."""

    @property
    def machine(self) -> Meter:
        """The meter of the whole machine, for loads, which belong to no turn."""

    def work_span(self) -> TimeInterval | None:
        """Return the time in which the machine worked for the turn; None if it did not."""

    def attribution(self) -> Attribution | None:
        """Return how the turn's joules were separated from those of others."""


Save = Callable[["TurnRecord | LoadRecord | UnloadRecord"], object]
"""Saves the record of a turn, or of a load or unload for it."""


class OpenTurns(Protocol):
    """Keeps what is known of the turns that run, for the case that the process is killed."""

    def begin(self, record: TurnRecord, read: Callable[[], TurnRecord]) -> None:
        """Note a turn that begins, or a further round; ``read`` returns it as it is now."""

    def forget(self, turn_id: str) -> None:
        """Forget a turn that will not be saved."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The model that answers for an arm."""

    spec: ModelSpec  # The entry of models.yaml, with the sha256 its file was checked against
    path: Path | None
    price: TokenCost | None = None
    """Energy cost of its tokens, which limits the thinking; None if unknown."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the turn that depend on the model (its idle baseline)."""
    draft: tuple[ModelSpec, Path] | None = None
    """The model that drafts tokens for it, and its file; None for none."""
    arm: Arm | None = None
    """The arm with the sampling that its model asks for; None leaves the arm as it is."""
    meter: Meter | None = None
    """The meter of the machine that answers; None is the turn's own, this machine's."""
    fallbacks: tuple[str, ...] = ()
    """Models that answer if this one cannot and nothing was spent yet, best first."""
    backend: RemoteBackend | None = None
    """The remote backend that answers; None is the engine of this machine."""
    late_settings: Callable[[], Mapping[str, Any]] = dict
    """Returns the settings that are only known when the turn has ended."""

    def read_settings(self) -> dict[str, Any]:
        """Return the settings of a turn that has ended."""
        return {**self.settings, **self.late_settings()}

    def local_path(self) -> Path:
        """Return the model file.

        Raises:
            ModelUnavailable: A remote backend serves the model, so there is no file here.
        """
        if self.path is None:
            raise ModelUnavailable(
                f"{self.spec.name} is served by the backend {self.spec.backend}, and this needs a "
                "model file on this machine",
                "choose a model of this machine; see: etui models list",
            )
        return self.path


Resolve = Callable[[Arm], ResolvedModel]
"""Find the model of an arm.

Raises:
    ModelUnavailable: The model is not on this machine, or damaged.
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a turn needs of the machine that it runs on."""

    resolve: Resolve  # Finds the model of an arm; called once for each attempt
    engine: Callable[[], Answerer]  # Opens what answers here, at its first use
    meter: Meter  # Measures what is spent here
    save: Save
    settings: Mapping[str, Any] = field(default_factory=dict)  # Versions, threads, machine
    clock_ns: Callable[[], int] = time.monotonic_ns
    open_turns: OpenTurns | None = None  # Keeps the turns that run; None keeps none


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a turn comes from."""

    turn_id: str = field(default_factory=lambda: uuid4().hex[:12])
    client: ClientRecord | None = None  # The request of a client; None for other front ends
    settings: Mapping[str, Any] = field(default_factory=dict)  # Further ones needed to repeat it
    is_logged: bool = True
    """Whether it can be deleted by its id later; otherwise nothing of it is kept on disk."""
