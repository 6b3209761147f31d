"""What ``etui serve`` shows of itself while it runs: in the terminal, as JSON, and in the app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.text import SEPARATOR
from etui.units import count_text, energy_text, per_text, percent_text, watts_text

if TYPE_CHECKING:
    from etui.runtime.turn_request import PoolStatus


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
