"""Protocols for what the app needs from the rest of etui."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from etui.chat import Query
from etui.config.config import Config
from etui.energy.types import ChannelPower, Energy
from etui.events import Loaded, Unloaded
from etui.log.records import ChatRecord
from etui.log.totals import Total
from etui.models.download import Report
from etui.turn.events import TurnEvent
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.energy.sources.nvml_watch import GpuState
    from etui.log.queries import ChatSummary
    from etui.models.files import Verified
    from etui.runtime.route import Route


@dataclass(frozen=True, slots=True)
class ModelOnOffer:
    """One entry of models.yaml, as the app lists it."""

    name: str
    size: str
    on_disk: bool


class TurnRunner(Protocol):
    """Answers questions, one at a time. What answers, loads or unloads blocks: a thread calls it.

    Attributes:
        on_loaded: Called, from any thread, when ``load`` has brought a model into memory.
        on_unloaded: Called, from any thread, with the name of a model that was given up between
            two answers.
        confirm: Asked, in the thread of the turn, whether to go on over a budget that is spent;
            None where nobody can be asked.
    """

    on_loaded: Callable[[Loaded], object]
    on_unloaded: Callable[[str], object]
    confirm: Callable[[str], bool] | None

    def run(self, query: Query, route: Route, replaces: str | None = None) -> Iterator[TurnEvent]:
        """Decide and answer; the last event is ``TurnFinished``.

        Args:
            query: The question with its chat.
            route: How it finds its arm.
            replaces: Turn whose place this one takes; kept among the settings of the turn.

        Raises:
            EtuiError: What stopped it; a turn that had begun is in the log by then.
        """

    def warm_up(self, route: Route) -> Loaded | None:
        """Bring the model this route would likely use into memory; None when it is there."""

    def load(self, model: str) -> Loaded | None:
        """Bring one model into memory; None when it is there.

        Raises:
            EtuiError: It cannot be loaded, or something else runs.
        """

    def unload(self, model: str) -> Unloaded | None:
        """Give one model up; None when it was not in memory.

        Raises:
            EtuiError: Something else runs.
        """

    def residents(self) -> Sequence[str]:
        """Names of the models in memory."""

    def at_rest(self, why: str) -> AbstractContextManager[Callable[[], bool]]:
        """Give every model up, and refuse whatever is asked meanwhile, saying ``why``.

        What is entered tells, from any thread, whether the app is leaving and the rest has to end.

        Raises:
            EtuiError: Something else runs.
        """

    def likely_model(self, route: Route) -> str | None:
        """The model ``warm_up`` would load, None when no model on this machine can serve."""

    def other_route(
        self, record: TurnRecord, route: Route, direction: Literal["smaller", "larger"]
    ) -> Route | None:
        """The next smaller or larger arm than the one that answered; None where there is none.

        Raises:
            EtuiError: The policy or models.yaml cannot be used.
        """

    def cancel(self) -> None:
        """End the running answer soon; safe from any thread."""

    def close(self) -> None:
        """Give everything back: the engine's process, the recorder, the log.

        A ``run`` or ``warm_up`` in another thread ends soon; a second call does nothing.
        """


@dataclass(frozen=True, slots=True)
class Vitals:
    """What else is known of the machine now.

    Attributes:
        idle_by_channel: Channel id -> its idle baseline, watts; without one it is not there.
        gpus: Newest state of every GPU whose driver tells it.
        app_share: CPU time this process took since the last look, as a share of one core; None
            at the first look.
    """

    idle_by_channel: Mapping[str, float] = field(default_factory=dict)
    gpus: tuple[GpuState, ...] = ()
    app_share: float | None = None


class PowerMeter(Protocol):
    """The recorder, as far as a screen needs it."""

    def latest(self) -> Sequence[ChannelPower]: ...

    def energy(self, start_ns: int, end_ns: int) -> Energy: ...

    def vitals(self) -> Vitals:
        """Dearer than the rest: ask once a second."""


class ChatLog(Protocol):
    """The chats in the log. Every call may wait for the disk: a thread calls them.

    All of them raise ``EtuiError`` where the log cannot be read or written.
    """

    def chats(self, search: str) -> Sequence[ChatSummary]:
        """Chats, the last used first; ``search`` looks into names, questions and answers."""

    def turns(self, chat_id: str) -> Sequence[TurnRecord]:
        """Every turn of a chat, oldest first."""

    def save(self, chat: ChatRecord) -> None:
        """Keep a chat under its name, with its system prompt."""

    def delete(self, chat_id: str) -> None:
        """Remove a chat and its turns."""

    def spending(self, route: Route) -> SpendingTotals:
        """What today and the policy's budgets have come to."""


class ModelCatalogue(Protocol):
    """The models of this machine."""

    def models(self) -> Sequence[ModelOnOffer]: ...

    def pull(self, name: str, report: Report) -> None:
        """Download and verify a model; an exception of ``report`` stops it, everything kept.

        Raises:
            EtuiError: It could not be had.
        """

    def verify(self, name: str, report: Report) -> Verified:
        """Check the header and the sha256 of a model's file in full; ``report`` as in ``pull``.

        Raises:
            EtuiError: It is not there, damaged, or another file than it should be.
        """


@dataclass(frozen=True, slots=True)
class Services:
    """Everything behind the screen.

    Attributes:
        policies: Names of the policies to choose from.
        threads: Threads that decode.
        cpus: Logical CPUs that they and the screen may run on.
    """

    runner: TurnRunner
    meter: PowerMeter
    shelf: ModelCatalogue
    chats: ChatLog
    policies: tuple[str, ...]
    threads: int = 1
    cpus: int = 2


OpenServices = Callable[[Config], Services]
"""Opens the backend, in a thread, after the first paint.

Raises:
    EtuiError: It cannot be opened.
"""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget of the policy in force, and what was spent of it, gross joules.

    Attributes:
        period: ``turn``, ``hour`` or ``day``.
        limit_joules: The most it may come to.
        spent_joules: None for the budget of a turn, and where nothing was measured.
    """

    period: Literal["turn", "hour", "day"]
    limit_joules: float
    spent_joules: float | None


@dataclass(frozen=True, slots=True)
class SpendingTotals:
    """Totals over all chats: today's (None before its first turn), and the policy's budgets."""

    today: Total | None = None
    budgets: tuple[BudgetState, ...] = ()
