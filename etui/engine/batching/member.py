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

    Attributes:
        number: Number of the answer.
        owner: Owner of its sequences.
        age: Place in the order in which requests joined.
        reservation: What it may need; the upper bound of its prompt is corrected when it opens it.
        sequences: Its open sequences by id.
        wanted: What it wants stepped, while it waits for a batch or is in one.
        result: What the batch gave; an exception is raised in its thread.
        lead: The members of the batch that its thread has to compute; None if another one does.
        gate: Acquired while it waits; whoever has its result, or a batch for it, releases it.
        begun: Whether it has opened a sequence.
        prefilled: Whether it has drawn a token: what it computes from then on is decoding.
        cancelled: Whether its answer was cancelled.
        woken: Whether it got an empty step for that.
        changes: Changes of the thread counts that its answer has not reported.
    """

    number: int
    owner: str
    age: int
    reservation: Reservation = NOTHING
    sequences: dict[int, TokenSequence] = field(default_factory=dict)
    wanted: Wanted = ()
    result: Step | BaseException | None = None
    lead: list[Member] | None = None
    gate: threading.Lock = field(default_factory=_make_closed_gate)
    begun: bool = False
    prefilled: bool = False
    cancelled: bool = False
    woken: bool = False
    changes: list[ThreadsChanged] = field(default_factory=list)
