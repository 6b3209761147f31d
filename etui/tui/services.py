"""Protocols of the services that the app needs from the rest of etui."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from etui.config.config import Config

if TYPE_CHECKING:  # none of it is needed for the first paint
    from etui.chat import Query
    from etui.energy.sharing import DeviceVitals
    from etui.energy.types import ChannelPower, Energy
    from etui.events import Loaded, Unloaded
    from etui.log.chat_queries import ChatSummary
    from etui.log.records import ChatRecord
    from etui.log.totals import Total
    from etui.models.download import Report
    from etui.models.files import Verified
    from etui.runtime.forecast import Forecast
    from etui.runtime.routes import Route, RouteChoice
    from etui.turn.events import TurnEvent
    from etui.turn.record import TurnRecord


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of models.yaml, as the app lists it."""

    name: str
    size: str
    on_disk: bool
    context_tokens: int | None = None


class TurnRunner(Protocol):
    """Answers questions, one at a time.

    Methods that answer, load or unload block: call them from a thread.
    """

    on_loaded: Callable[[Loaded], object]
    """Called, from any thread, when ``load`` has loaded a model."""
    on_unloaded: Callable[[str], object]
    """Called, from any thread, with the name of a model that was unloaded between two answers."""
    confirm: Callable[[str], bool] | None
    """Called in the turn's thread to ask whether to exceed a spent budget; None if there is no user
    to ask."""

    def run(
        self,
        query: Query,
        route: Route,
        replaces: str | None = None,
        prompt: str | None = None,
    ) -> Iterator[TurnEvent]:
        """Decide and answer; the last event is ``TurnFinished``.

        Args:
            query: The question and its chat.
            route: How the arm is chosen.
            replaces: Id of the turn that this one replaces; stored in the settings of the turn.
            prompt: Name of the saved prompt whose system prompt and arm the turn has; stored too.

        Raises:
            EtuiError: The turn failed; if it had begun, it is already in the log.
        """

    def warm_up(self, route: Route, chat_id: str | None = None) -> Loaded | None:
        """Load the model that the next question is likely to use; None if it is in memory.

        Args:
            route: How the next arm is chosen.
        """

    def load(self, model: str) -> Loaded | None:
        """Load a model; None if it is already in memory.

        Raises:
            EtuiError: The model cannot be loaded, or the runner is busy.
        """

    def unload(self, model: str) -> Unloaded | None:
        """Unload a model; None if it was not in memory.

        Raises:
            EtuiError: The runner is busy.
        """

    def residents(self) -> Sequence[str]:
        """Return the names of the models in memory."""

    def small_model(self) -> str | None:
        """Return the smallest model on this machine, for work of its own; None without any."""

    def cool_downs(self) -> int:
        """Return how often the idle power after an unload was measured; it is in the log then."""

    def is_busy(self) -> bool:
        """Return whether an answer, a load or an unload is running."""

    def at_rest(self, why: str) -> AbstractContextManager[Callable[[], bool]]:
        """Unload all models, and refuse every request inside the context with the reason ``why``.

        The context value is a function that returns, from any thread, whether the app is exiting
        and the context has to end.

        Raises:
            EtuiError: The runner is busy.
        """

    def likely_model(self, route: Route, chat_id: str | None = None) -> str | None:
        """Return the model that ``warm_up`` would load; None if no model on this machine can."""

    def forecast(self, query: Query, route: Route, parts: Sequence[str]) -> Forecast:
        """Forecast tokens, joules and room of a question before it is sent, while a turn may run.

        Args:
            route: How the arm is chosen.
            parts: The texts that make up the question; each is counted once.

        Raises:
            EtuiError: No arm would answer it.
        """

    def count_tokens(self, text: str, model: str) -> int:
        """Count the tokens of a text for a model, or estimate them without its tokenizer."""

    def other_route(
        self, record: TurnRecord, route: Route, direction: Literal["smaller", "larger"]
    ) -> Route | None:
        """Return a route to the next smaller or larger arm than the one that answered, if any.

        Raises:
            EtuiError: The policy or models.yaml cannot be used.
        """

    def cancel(self) -> None:
        """Stop the running answer soon; safe from any thread."""

    def close(self) -> None:
        """Close the engine's process, the recorder and the log.

        A ``run`` or ``warm_up`` in another thread ends soon; a second call does nothing.
        """


@dataclass(frozen=True, slots=True)
class Vitals:
    """Further state of the machine."""

    idle_by_channel: Mapping[str, float] = field(default_factory=dict)
    """Channel id -> its idle baseline, watts; channels without one are missing."""
    app_share: float | None = None
    """CPU time of this process since the last call, as a share of one core; None on the first call.
    """
    devices: tuple[DeviceVitals, ...] = ()  # State of every measured device, missing values as None

    def device(self, scope: str) -> DeviceVitals | None:
        """Return the state of a device; None if there is none."""
        return next((device for device in self.devices if device.scope == scope), None)


class PowerMeter(Protocol):
    """The part of the recorder that screens need."""

    def latest(self) -> Sequence[ChannelPower]:
        """Return the newest power of every channel."""

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy of an interval of the monotonic clock, ns."""

    def vitals(self) -> Vitals:
        """Return the idle watts, GPU states and own CPU time; expensive, so call once a second."""


class ChatLog(Protocol):
    """The chats in the log. Every call may wait for the disk: call them from a thread.

    All methods raise ``EtuiError`` if the log cannot be read or written.
    """

    def chats(self, search: str) -> Sequence[ChatSummary]:
        """List chats, most recently used first; ``search`` covers names, questions and answers."""

    def turns(self, chat_id: str) -> Sequence[TurnRecord]:
        """List every turn of a chat, oldest first."""

    def save(self, chat: ChatRecord) -> None:
        """Store a chat with its name and system prompt."""

    def delete(self, chat_id: str) -> None:
        """Delete a chat and its turns."""

    def grade(self, turn_id: str, good: bool | None) -> None:
        """Store what the user says of an answer; None removes it."""

    def grades(self, turn_ids: Sequence[str]) -> Mapping[str, bool]:
        """Return what the user has said of answers: whether each is good; others are missing."""

    def spending(self, route: Route) -> SpendingTotals:
        """Return what was spent today and of the policy's budgets."""


class ModelCatalogue(Protocol):
    """The models of this machine."""

    def models(self) -> Sequence[ListedModel]:
        """List every model, and whether it is on disk."""

    def pull(self, name: str, report: Report) -> None:
        """Download and verify a model; an exception in ``report`` stops it, the part is kept.

        Raises:
            EtuiError: The model could not be downloaded.
        """

    def measure_memory(self, threads: int, is_busy: Callable[[], bool]) -> None:
        """Measure the speed of the memory unless it is known, or an answer runs; takes a second.

        Raises:
            EtuiError: It cannot be measured, or the result not be kept.
        """

    def verify(self, name: str, report: Report) -> Verified:
        """Check the header and the sha256 of a model's whole file; ``report`` as in ``pull``.

        Raises:
            EtuiError: The file is missing, damaged or not the expected one.
        """


@dataclass(frozen=True, slots=True)
class Services:
    """Everything behind the screens."""

    runner: TurnRunner
    meter: PowerMeter
    shelf: ModelCatalogue
    chats: ChatLog
    policies: tuple[str, ...]
    threads: int = 1  # Number of decoding threads
    cpus: int = 2  # Logical CPUs that these threads and the screen may run on
    list_routes: Callable[[Route], Sequence[RouteChoice]] = lambda _route: ()
    """Lists what can answer the next questions; reads files, so call it in a thread."""


OpenServices = Callable[[Config], Services]
"""Opens the services, in a thread, after the first paint.

Raises:
    EtuiError: A service cannot be opened.
"""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget of the active policy and what was spent of it, in gross joules."""

    period: Literal["turn", "hour", "day"]
    limit_joules: float
    spent_joules: float | None  # None for the budget of a turn, and if nothing was measured


@dataclass(frozen=True, slots=True)
class SpendingTotals:
    """Totals over all chats: today's (None before the first turn) and the policy's budgets."""

    today: Total | None = None
    budgets: tuple[BudgetState, ...] = ()
