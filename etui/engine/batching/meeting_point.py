"""Where the requests of a session meet, so that one batch computes the next tokens of all.

Each request runs in a thread of its own. A step waits until every request with open sequences
waits, too; the thread of the last one computes the batch and hands out the results. Everything else
that changes the session (opening, forking, closing sequences) happens between two batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from etui.engine.batching.admission import Member, MixedSession, Room, Wanted, limit_need
from etui.engine.session import Sampled, Step
from etui.engine.thread_control import ThreadControl
from etui.errors import CacheFull, EngineFailed, format_internal_error
from etui.events import BatchShare, SharedBatch, Verified


def split_step(step: Step, members: Sequence[Member]) -> list[Step]:
    """Return each member's own part of a step, with the times of the whole batch.

    Args:
        members: The requests whose sequences it has, with what they wanted.
    """
    if len(members) == 1:
        return [step]
    place = {
        sequence.id: index for index, member in enumerate(members) for sequence, _ in member.wanted
    }
    computed: list[dict[int, int]] = [{} for _ in members]
    for id_, count in step.computed.items():
        computed[place[id_]][id_] = count
    sampled: list[list[Sampled]] = [[] for _ in members]
    for each in step.sampled:
        sampled[place[each.sequence_id]].append(each)
    verified: dict[int, list[Verified]] = {}
    for event, id_ in zip(step.verified, step.verified_ids, strict=True):
        verified.setdefault(place[id_], []).append(event)
    return [
        Step(
            step.start_ns,
            step.end_ns,
            computed[index],
            tuple(sampled[index]),
            tuple(verified.get(index, ())),
        )
        for index in range(len(members))
    ]


def build_shares(tokens: Mapping[int, int], members: Sequence[Member]) -> tuple[BatchShare, ...]:
    """Build the share of each member with tokens in a batch.

    Args:
        tokens: Number of tokens by sequence id.
        members: The requests in the batch, with what they wanted; ``prefilled`` as before it.
    """
    shares = []
    for member in members:
        count = sum(tokens.get(sequence.id, 0) for sequence, _ in member.wanted)
        if count and member.prefilled:
            shares.append(BatchShare(member.number, 0, count))
        elif count:
            shares.append(BatchShare(member.number, count, 0))
    return tuple(shares)


class AnswerCancelled(Exception):
    """A cancelled answer steps on without polling its control, as in a probe of its thinking."""


class MeetingPoint:
    """Let members take part in the batches of one session.

    Two locks: that of the session is held during a batch and during any other use of it; that of
    the members is held for moments only, so that a cancel never waits for a batch.

    Args:
        model: Name of its model, for the reported batches.
        on_batch: Called with each batch before its results are handed out; None for none.
        clock: Monotonic clock in nanoseconds, that of the session's steps.
        prompt_limit: Maximum number of prompt tokens in a batch while others decode.
        threads: The thread counts of the session; None for a session without.

    Attributes:
        on_begin: Called when a member's prompt is known, so that what it needs may be less than
            what it has reserved.
        session: The session; render and tokenize may be used during a batch, nothing else.
        capacity: Cells and sequences of the whole session.
    """

    def __init__(
        self,
        session: MixedSession,
        model: str,
        on_batch: Callable[[SharedBatch], None] | None,
        clock: Callable[[], int],
        prompt_limit: int,
        threads: ThreadControl | None,
    ) -> None:
        self.on_begin: Callable[[], None] = _do_nothing
        self.session = session
        self.capacity = session.free_tokens, session.free_sequences
        self._model = model
        self._on_batch = on_batch
        self._clock = clock
        self._prompt_limit = prompt_limit
        self._threads = threads
        self._using = threading.Lock()  # the session
        self._state = threading.Lock()  # everything below
        self._members: list[Member] = []  # oldest first
        self._waiting: list[Member] = []
        self._busy = 0  # members with open sequences that are not waiting
        self._visits = 0  # uses of the session by others, which the next batch waits for
        self._running = False
        self._tiled_ns = 0  # end of the reported time

    @property
    def members(self) -> tuple[Member, ...]:
        """The members, oldest first."""
        with self._state:
            return tuple(self._members)

    def join(self, member: Member) -> None:
        """Add a member; the reported time begins with the first one after a pause."""
        with self._state:
            if not self._members:
                self._tiled_ns = self._clock()
            self._members.append(member)

    def leave(self, member: Member) -> None:
        """Remove a member and close what it left open; the others no longer wait for it."""
        try:
            if member.sequences:
                with self.use(member) as session:
                    left, member.sequences = member.sequences, {}
                    for sequence in left.values():
                        session.close(sequence, keep=False)
        finally:  # the others would wait for it forever
            self._remove(member)

    def _remove(self, member: Member) -> None:
        with self._state:
            if member not in self._members:
                return
            self._members.remove(member)
            if self._members:
                return
        with self._using:
            if not self.members:
                self._report(self._clock(), (BatchShare(member.number, 0, 0),))

    def measure_room(self, without: Member | None = None) -> Room:
        """Measure what is free besides what members may still need, while using the session.

        Args:
            without: A member that may use what it has reserved itself.
        """
        members = [member for member in self.members if member is not without]
        tokens, sequences = self.session.free_tokens, self.session.free_sequences
        for member in members:
            need, own = limit_need(member.reservation, *self.capacity), member.sequences.values()
            tokens -= max(0, need.tokens - self.session.count_cells(own))
            sequences -= max(0, need.sequences - len(own))
        return Room(len(members), tokens, sequences)

    def begin(self, member: Member, prompt_tokens: int) -> None:
        """Note the first sequence of a member; called while it uses the session."""
        member.begun = True
        member.reservation = replace(member.reservation, prompt_tokens=prompt_tokens)
        if self._threads is not None:
            self._threads.begin_answer()
            member.changes.extend(self._threads.take_changes())
        self.on_begin()

    @contextmanager
    def use(self, member: Member | None = None) -> Iterator[MixedSession]:
        """Use the session between two batches; a member that opens its first sequence takes part.

        Args:
            member: Who uses it; None for somebody else.
        """
        active = member is not None and bool(member.sequences)
        if not active:
            with self._state:
                self._visits += 1
        try:
            with self._using:
                yield self.session
        finally:
            takes_part = member is not None and bool(member.sequences)
            if not active or not takes_part:
                with self._state:
                    self._visits -= not active
                    self._busy += int(takes_part) - int(active)
                    self._wake_leader()

    def step(self, member: Member, wanted: Wanted) -> Step:
        """Wait for the batch that computes what a member wants, or compute it, and return it.

        A member that is cancelled meanwhile gets an empty step at once, so that its answer ends
        where it polls its control.

        Raises:
            AnswerCancelled: It was cancelled and has had its empty step.
            CacheFull: The cache is full, and this is the youngest request.
            EngineFailed: The batch failed.
        """
        with self._state:
            if member.cancelled:
                if member.woken:
                    raise AnswerCancelled
                member.woken = True
                return self._empty_step()
            member.wanted = wanted
            self._waiting.append(member)
            self._busy -= 1
            batch = self._claim()
        if batch is None:
            batch = self._wait(member)
        if batch is not None:
            self._compute(batch, member)
        result, member.result = member.result, None
        if isinstance(result, Step):
            return result
        assert result is not None
        raise result

    def _wait(self, member: Member) -> list[Member] | None:
        """Wait for the result of a member, or for a batch that its thread has to compute."""
        try:
            member.gate.acquire()
        except BaseException:  # Ctrl-C in the main thread
            with self._state:
                waits = member in self._waiting
                if waits:
                    self._waiting.remove(member)
                    self._busy += 1
            if not waits:
                member.gate.acquire()
                if member.lead is not None:
                    self._compute(member.lead, member)
                member.lead = member.result = None
            raise
        batch, member.lead = member.lead, None
        return batch

    def cancel(self, member: Member) -> None:
        """Wake a member that waits for others; one in a running batch gets its result first."""
        with self._state:
            member.cancelled = True
            if member in self._waiting:
                self._waiting.remove(member)
                self._busy += 1
                member.woken = True
                member.result = self._empty_step()
                member.gate.release()

    def _empty_step(self) -> Step:
        now_ns = self._clock()
        return Step(now_ns, now_ns, {}, ())

    def _claim(self) -> list[Member] | None:
        """Take all waiting members as the next batch, oldest first; None if it cannot begin."""
        if self._running or self._busy or self._visits or not self._waiting:
            return None
        batch, self._waiting = self._waiting, []
        batch.sort(key=_age)
        self._running = True
        return batch

    def _wake_leader(self) -> None:
        """Let a waiting thread compute the next batch, if no other has to come first."""
        batch = self._claim()
        if batch is not None:
            batch[0].lead = batch
            batch[0].gate.release()

    def _compute(self, batch: list[Member], leader: Member) -> None:
        """Compute a batch and hand out its results; it never raises."""
        results: Sequence[Step | BaseException]
        try:
            results = self._step_all(batch)
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads of all members
            results = [error if each is leader else _copy(error) for each in batch]
        with self._state:
            for member, result in zip(batch, results, strict=True):
                member.result = result
                member.wanted = ()
                if isinstance(result, Step) and result.sampled:
                    member.prefilled = True
            self._busy += len(batch)
            self._running = False
        for member in batch:
            if member is not leader:
                member.gate.release()

    def _step_all(self, batch: list[Member]) -> Sequence[Step | BaseException]:
        wanted = [each for member in batch for each in member.wanted]
        with self._using:
            try:
                step = self.session.step_mixed(wanted, prompt_limit=self._prompt_limit)
            except BaseException as error:
                end_ns = self._clock()
                self._report(end_ns, build_shares(self.session.planned, batch))
                if not isinstance(error, CacheFull):
                    raise
                empty = Step(end_ns, end_ns, {}, ())
                return [*(empty for _ in batch[1:]), error]  # the youngest is last
            if step.computed:
                self._report(step.end_ns, build_shares(step.computed, batch))
            if self._threads is not None and (changes := self._threads.take_changes()):
                for member in self.members:
                    member.changes.extend(changes)
        return split_step(step, batch)

    def _report(self, end_ns: int, shares: tuple[BatchShare, ...]) -> None:
        start_ns, self._tiled_ns = self._tiled_ns, max(self._tiled_ns, end_ns)
        if self._on_batch is not None and self._tiled_ns > start_ns:
            self._on_batch(SharedBatch(self._model, start_ns, self._tiled_ns, shares))


def _do_nothing() -> None:
    pass


def _age(member: Member) -> int:
    return member.age


def _copy(error: BaseException) -> BaseException:
    """Copy an error for another thread: a raised exception collects the frames of its thread."""
    if isinstance(error, EngineFailed):
        copy = EngineFailed(error.what, error.fix)
    else:
        copy = EngineFailed(format_internal_error(error))
    copy.__cause__ = error
    return copy
