"""One request among those that share a session."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from etui.engine.batching.admission import NOTHING, Reservation
from etui.engine.session import Step, TokenSequence
from etui.events import ThreadsChanged

Wanted = Sequence[tuple[TokenSequence, bool]]
"""Sequences to step, and whether to draw a token for each."""


def _make_closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(slots=True, eq=False)
class Member:
    """The state of one request; the meeting point's lock protects it.

    A member takes part in batches while it has open sequences: the others then wait for its step.
    """

    number: int
    owner: str
    age: int  # Place in the order in which requests joined
    reservation: Reservation = NOTHING
    """What it may need; the upper bound of its prompt is corrected when it opens it."""
    sequences: dict[int, TokenSequence] = field(default_factory=dict)  # Its open sequences by id
    wanted: Wanted = ()  # What it wants stepped, while it waits for a batch or is in one
    result: Step | BaseException | None = None
    """What the batch gave; an exception is raised in its thread."""
    lead: list[Member] | None = None
    """The members of the batch that its thread has to compute; None if another one does."""
    gate: threading.Lock = field(default_factory=_make_closed_gate)
    """Acquired while it waits; whoever has its result, or a batch for it, releases it."""
    begun: bool = False  # Whether it has opened a sequence
    prefilled: bool = False
    """Whether it has drawn a token: what it computes from then on is decoding."""
    cancelled: bool = False
    woken: bool = False  # Whether it got an empty step for that
    changes: list[ThreadsChanged] = field(default_factory=list)
    """Changes of the thread counts that its answer has not reported."""
