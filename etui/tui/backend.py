"""What the app asks of the rest of etui; tests give it fakes of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from etui.config import Config
from etui.download import Report
from etui.energy.types import ChannelPower, Energy
from etui.engine.events import Loaded
from etui.query import Query
from etui.turn import TurnEvent


@dataclass(frozen=True, slots=True)
class Route:
    """How the next questions find their arm.

    Attributes:
        policy: Name of the policy that decides.
        model: Model that answers whatever the policy says; None leaves it to the policy.
    """

    policy: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ModelOnOffer:
    """One entry of models.yaml, as the app lists it."""

    name: str
    size: str
    on_disk: bool


class TurnRunner(Protocol):
    """Answers questions, one at a time. ``run`` and ``warm_up`` block: a thread calls them."""

    def run(self, query: Query, route: Route) -> Iterator[TurnEvent]:
        """Decide and answer; the last event is ``TurnFinished``.

        Raises:
            EtuiError: What stopped it; a turn that had begun is in the log by then.
        """

    def warm_up(self, route: Route) -> Loaded | None:
        """Bring the model this route would likely use into memory; None when it is there."""

    def likely_model(self, route: Route) -> str | None:
        """The model ``warm_up`` would load, None when no model on this machine can serve."""

    def cancel(self) -> None:
        """End the running answer soon; safe from any thread."""

    def close(self) -> None:
        """Give everything back: the engine's process, the recorder, the log.

        A ``run`` or ``warm_up`` in another thread ends soon; a second call does nothing.
        """


class PowerMeter(Protocol):
    """The recorder, as far as a screen needs it."""

    def latest(self) -> Sequence[ChannelPower]: ...

    def energy(self, start_ns: int, end_ns: int) -> Energy: ...


class Shelf(Protocol):
    """The models of this machine."""

    def models(self) -> Sequence[ModelOnOffer]: ...

    def pull(self, name: str, report: Report) -> None:
        """Download and verify a model; an exception of ``report`` stops it, everything kept.

        Raises:
            EtuiError: It could not be had.
        """


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything behind the screen.

    Attributes:
        policies: Names of the policies to choose from.
    """

    runner: TurnRunner
    meter: PowerMeter
    shelf: Shelf
    policies: tuple[str, ...]


OpenBackend = Callable[[Config], Backend]
"""Opens the backend, in a thread, after the first paint.

Raises:
    EtuiError: It cannot be opened.
"""
