"""One session for the answers of several requests: continuous batching."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Lock

from etui.engine.batching.admission import NOTHING, Reservation, Room, limit_need
from etui.engine.batching.meeting_point import MeetingPoint
from etui.engine.batching.member import Member
from etui.engine.batching.mixed_session import MixedSession
from etui.engine.batching.request_session import RequestSession
from etui.engine.prefix_cache import common_prefix
from etui.engine.thread_control import ThreadControl
from etui.events import SharedBatch

PROMPT_LIMIT = 64
"""Maximum number of prompt tokens in a batch while others decode: half of a CPU's batch."""


class SharedSession:
    """Let several requests use one session at a time, each through a session of its own.

    A request joins and leaves between two batches. ``on_batch`` gets every batch, failed ones
    included; they follow one another without a gap from the moment when the first request joins to
    the moment when the last one leaves.

    Args:
        on_batch: Is called after each batch, before the events that follow from it; None reports
            none.
        clock: Monotonic clock in nanoseconds, that of the session's steps.
        prompt_limit: Maximum number of prompt tokens in a batch while others decode.
        threads: The thread counts of the session; None for a session without.
        on_begin: Called when the prompt of a request is known: the room may have grown.
    """

    def __init__(
        self,
        session: MixedSession,
        model_name: str,
        on_batch: Callable[[SharedBatch], None] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        prompt_limit: int = PROMPT_LIMIT,
        threads: ThreadControl | None = None,
        on_begin: Callable[[], None] | None = None,
    ) -> None:
        self.session = session
        self._point = MeetingPoint(session, model_name, on_batch, clock, prompt_limit, threads)
        if on_begin is not None:
            self._point.on_begin = on_begin
        self._text_lock = Lock()
        self._joined = 0

    @property
    def running(self) -> int:
        """Number of requests that have joined and not left."""
        return len(self._point.members)

    def join(
        self, number: int, owner: str = "", reservation: Reservation = NOTHING
    ) -> RequestSession:
        """Let a request take part from its first sequence on.

        Args:
            number: Number of its answer, unique among the running ones.
            owner: Owner of its sequences, which reuse nothing of other owners.
            reservation: What it may need, which the others leave free.
        """
        with self._text_lock:
            self._joined += 1
            member = Member(number, owner, self._joined, reservation)
            self._point.join(member)
        return RequestSession(self._point, member, self._text_lock)

    def limit(self, need: Reservation) -> Reservation:
        """Limit a reservation to what the whole context has."""
        return limit_need(need, *self._point.capacity)

    def read_only(self) -> RequestSession:
        """Return a session that only renders and tokenizes; no batch waits for it, nor it for any.

        It has not joined, so that it need not leave.
        """
        return RequestSession(self._point, Member(0, "", 0), self._text_lock)

    def room_by_reservation(self) -> Room:
        """Return the room if every running request uses all that it may; no batch is waited for."""
        room = [self.limit(each.reservation) for each in self._point.members]
        tokens, sequences = self._point.capacity
        return Room(
            len(room),
            tokens - sum(each.tokens for each in room),
            sequences - sum(each.sequences for each in room),
        )

    def measure_room(self, prompt: Sequence[int], owner: str) -> tuple[Room, int]:
        """Measure the room after the running batch.

        Args:
            prompt: Tokens of a new request.

        Returns:
            What is free besides what the running requests may still need, and the number of leading
            tokens of the prompt that an open sequence of the owner has, too.
        """
        with self._point.use():
            shared = [
                common_prefix(sequence.tokens, prompt)
                for member in self._point.members
                if member.owner == owner
                for sequence in member.sequences.values()
            ]
            return self._point.measure_room(), max(shared, default=0)
