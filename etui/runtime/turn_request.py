"""Turns of a pool: what is asked, those that wait, what the pool is doing, how that is shown."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from etui.backends.base import Cancel, LongStep
from etui.chat import Query
from etui.errors import EtuiError
from etui.events import Finished, Loaded, Prefilled, Unloaded
from etui.runtime.decide import Confirm
from etui.runtime.overrides import Overrides
from etui.text import SEPARATOR
from etui.turn.events import Decided, HopEnded, HopStarted, TurnEvent, TurnFinished
from etui.turn.interfaces import Origin
from etui.turn.record import ClientRecord, TurnRecord
from etui.turn.tool_loop import Tools
from etui.units import count_text, energy_text, per_text, percent_text, watts_text


@dataclass(frozen=True, slots=True)
class ServeFacts:
    """The state of a server, as in a line of ``etui serve --jsonl``; None where unmeasured."""

    url: str  # Address of the API; empty if it has none
    watts: float | None  # Power of the machine now
    running: int
    queued: int
    finished: int
    failed: int
    cancelled: int
    joules_per_request: float | None
    """Joules of requests divided by their number; running ones count with what they have used so
    far. None before the first has ended."""
    uncertainty: float | None
    """Half width of ``joules_per_request``: that of the total, in proportion, since parts of one
    reading err together."""
    kind: str | None  # The weakest kind of the readings
    idle_share: float | None  # Joules while nothing ran, divided by all joules
    joules: float | None
    joules_uncertainty: float | None
    turns_joules: float | None
    loads_joules: float | None
    idle_joules: float | None
    residents: tuple[str, ...]  # Models in memory
    loading: str | None  # Model that is being loaded
    accepting: bool  # False while the server shuts down
    unsaved: int = 0  # Records that wait until the log can be written

    @property
    def ended(self) -> int:
        """Number of requests that have ended, however they ended."""
        return self.finished + self.failed + self.cancelled

    @property
    def is_busy(self) -> bool:
        """Whether a request runs or waits, or a model is being loaded."""
        return bool(self.running or self.queued or self.loading is not None)

    @property
    def phase(self) -> str:
        """What the server is doing, in words."""
        if not self.accepting:
            return "shutting down"
        if self.loading is not None:
            return f"loading {self.loading}"
        return "answering" if self.running or self.queued else "idle"


_OF_POOL = (
    *("watts", "running", "queued", "finished", "failed", "cancelled"),
    *("residents", "loading", "accepting", "unsaved"),
)


def build_facts(status: PoolStatus, url: str = "") -> ServeFacts:
    """Build the facts that are shown from the status of the pool."""
    books = status.books
    ended = status.finished + status.failed + status.cancelled
    per_request = None
    if books.turns is not None and ended:
        per_request = books.turns / (ended + status.running)
    uncertainty = idle_share = None
    if books.total:
        if books.idle is not None:
            idle_share = min(max(books.idle / books.total, 0.0), 1.0)
        if books.uncertainty is not None and per_request is not None:
            uncertainty = books.uncertainty * per_request / books.total
    return ServeFacts(
        url=url,
        joules_per_request=per_request,
        uncertainty=uncertainty,
        kind=books.kind,
        idle_share=idle_share,
        joules=books.total,
        joules_uncertainty=books.uncertainty,
        turns_joules=books.turns,
        loads_joules=books.loads,
        idle_joules=books.idle,
        **{name: getattr(status, name) for name in _OF_POOL},
    )


def format_facts(facts: ServeFacts) -> str:
    """Format the facts as one line, not made safe for a terminal.

    ``118 W · 2 running · 1 queued · 37 done · 4.1 ± 0.2 J/request · 62 % idle · http://…/v1``
    """
    state = f"{facts.running:,} running" if facts.phase == "answering" else facts.phase
    parts = [watts_text(facts.watts, facts.kind), state]
    if facts.queued:
        parts.append(f"{facts.queued:,} queued")
    parts.append(f"{facts.ended:,} done")
    if facts.failed:
        parts.append(f"{facts.failed:,} failed")
    if facts.unsaved:
        parts.append(f"{facts.unsaved:,} not in the log")
    if facts.ended:
        parts.append(format_per_request(facts))
    if facts.idle_share is not None:
        parts.append(f"{percent_text(facts.idle_share)} idle")
    if facts.url:
        parts.append(facts.url)
    return SEPARATOR.join(parts)


def format_per_request(facts: ServeFacts) -> str:
    """Format the joules of a request: ``4.1 ± 0.2 J/request``."""
    return per_text(facts.joules_per_request, "request", facts.kind, facts.uncertainty)


def format_books(facts: ServeFacts) -> str:
    """Format what was answered, and whose the joules are, as one line.

    ``37 requests · 152 J (counter) · loads 30 J (counter) · idle 340 J (counter) · in all …``
    """
    parts = [count_text(facts.ended, "request")]
    owners = (
        ("", facts.turns_joules),
        ("loads ", facts.loads_joules),
        ("idle ", facts.idle_joules),
    )
    for name, joules in owners:
        if joules is not None:
            parts.append(name + energy_text(joules, None, facts.kind))
    total = energy_text(facts.joules, facts.joules_uncertainty, facts.kind)
    parts.append(f"in all {total}" if facts.joules is not None else total)
    return SEPARATOR.join(parts)


_log = logging.getLogger("etui.pool")


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A turn to run."""

    query: Query  # The question with its conversation, the options of its output, and its owner
    overrides: Overrides  # The model, policy or arm that the client names, and its options
    client: ClientRecord | None = None
    """The request of a server's client that asks for it, before it waited; None for others."""
    effort: str | None = None
    """Depth that the client asks for (``none`` ... ``max``); None leaves it to the policy."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings of the turn: what it replaces, or its saved prompt."""
    confirm: Confirm | None = None
    """Asks the user whether to exceed a budget; None if there is no one to ask."""
    tools: Tools | None = None  # Tools that the query offers to the model; None for none

    @property
    def key(self) -> str:
        """Name of the client's key; empty without keys."""
        return "" if self.client is None else self.client.key


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """The last event of a turn that ended with an error, after its record if it was saved."""

    error: EtuiError


PoolEvent = TurnEvent | TurnFailed
"""``Decided`` first, then the events of the turn; ``TurnFinished`` or ``TurnFailed`` is last."""


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
    """What the pool is doing now."""

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
    unsaved: int = 0  # Records that wait until the log can be written
    long_step: LongStep | None = None  # For which others may wait; None if none takes long


class PooledTurn:
    """A turn that waits or runs.

    If ``on_event`` fails, it is not called again, and the turn is cancelled. ``on_cancelled`` is
    called at the first cancel.
    """

    def __init__(
        self,
        request: TurnRequest,
        on_event: Callable[[PoolEvent], None] | None,
        submitted_ns: int,
        on_cancelled: Callable[[PooledTurn], None],
    ) -> None:
        self.request = request
        self.submitted_ns = submitted_ns
        self.token = Cancel()  # ends it, wherever it is
        self.record: TurnRecord | None = None  # once it is saved
        self.began_ns: int | None = None  # None while it waits
        self.hop_ns: int | None = None
        """When its running hop began; None in the queue, and once that has answered."""
        self.settled_ns: int | None = None  # end of its work, whose energy is final
        self.model = ""  # model of the running hop
        self.works_ns: int | None = None  # since when the engine computes the hop, if known
        self.waits_for: str | None = None  # model from which it waits for the first event
        self.origin = Origin(settings=request.settings)
        self._on_event = on_event
        self._on_cancelled = on_cancelled
        self._lock = threading.Lock()

    @property
    def turn_id(self) -> str:
        """Id of the turn, which the log uses too; known before it begins."""
        return self.origin.turn_id

    def cancel(self) -> None:
        """End it within one batch, wherever it is; safe from any thread, and repeatable."""
        with self._lock:
            is_first = not self.token.cancelled()
            self.token.cancel()
        if is_first:
            self._on_cancelled(self)

    def follow(self, event: PoolEvent) -> None:
        """Follow what the turn does."""
        match event:
            case Decided(decision=decision):
                self.model = self.waits_for = decision.arm.model
            case HopStarted(model=model):
                self.model = self.waits_for = model
            case Finished() | HopEnded() | TurnFinished() | TurnFailed():
                self.waits_for = self.hop_ns = self.works_ns = None
            case Unloaded():
                pass  # it makes room for the model
            case Loaded(end_ns=began_ns) | Prefilled(start_ns=began_ns):
                self.waits_for, self.works_ns = None, self.works_ns or began_ns
            case _:
                self.waits_for = None

    def report(self, event: PoolEvent) -> None:
        """Pass an event to the client's side, which must not end the turn by a fault of its own."""
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001  logged, and the thread goes on
            _log.exception("the listener of turn %s failed; the turn is cancelled", self.turn_id)
            self._on_event = None
            self.cancel()


class TurnQueue:
    """The waiting turns, from which no key can shut out another one; used under the pool's lock.

    Without keys, or with a single one, it is a queue like any other. At most ``limit`` turns wait;
    0 refuses all. A key without a turn in a full queue may add one, so that there are at most as
    many more as there are other keys.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(0, limit)
        self._turns: list[PooledTurn] = []
        self._served: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[PooledTurn]:
        return iter(tuple(self._turns))

    def has_room(self, key: str) -> bool:
        """Return whether another turn of a key may wait."""
        if len(self._turns) < self.limit:
            return True
        return self.limit > 0 and all(turn.request.key != key for turn in self._turns)

    def append(self, turn: PooledTurn) -> None:
        """Add a turn behind the others of its key."""
        self._turns.append(turn)

    def remove(self, turn: PooledTurn) -> None:
        """Take a turn out; ValueError if it does not wait."""
        self._turns.remove(turn)

    def note_begun(self, turn: PooledTurn) -> None:
        """Note that a turn begins, which puts its key behind the others."""
        self._count += 1
        self._served[turn.request.key] = self._count

    def take(self, running: Iterable[PooledTurn]) -> PooledTurn | None:
        """Take the next turn out; None if none waits.

        It is the oldest one of the key with the fewest running turns, and of several such keys that
        of the key whose last turn began first.
        """
        if not self._turns:
            return None
        busy = Counter(turn.request.key for turn in running)
        keys = dict.fromkeys(turn.request.key for turn in self._turns)
        chosen = min(keys, key=lambda key: (busy[key], self._served.get(key, 0)))
        turn = next(turn for turn in self._turns if turn.request.key == chosen)
        self._turns.remove(turn)
        self.note_begun(turn)
        return turn
