"""One session for the answers of several requests: continuous batching.

Each request runs in a thread of its own. A step waits until every request with open sequences
waits, too; the thread of the last one computes the batch and hands out the results. Everything else
that changes the session (opening, forking, closing sequences) happens between two batches. A single
request is a batch of one, which never waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Protocol

from etui.arm import Sampling, Speculate
from etui.chat import Message
from etui.engine.batching.admission import NOTHING, Reservation, Room, limit_need
from etui.engine.sequence_cache import common_prefix
from etui.engine.session import (
    LikelyToken,
    ModelFacts,
    OutputGrammar,
    RecalledSequence,
    Sampled,
    Session,
    Step,
    TokenSequence,
)
from etui.engine.thread_control import ThreadControl
from etui.errors import CacheFull, ContextOverflow, EngineFailed, format_internal_error
from etui.events import BatchShare, SharedBatch, ThreadsChanged, Verified


class MixedSession(Session, Protocol):
    """A session that several requests share; see ``LlamaSession``."""

    @property
    def planned(self) -> Mapping[int, int]:
        """Number of tokens in the last batch by sequence id, even if the batch failed."""

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        *,
        owner: str = "",
        label: str = "",
    ) -> TokenSequence:
        """Open a sequence that reuses nothing of other owners."""

    def recall(self, label: str, owner: str = "") -> RecalledSequence | None:
        """Return the latest closed sequence with this label and owner."""

    def step_mixed(
        self, wanted: Sequence[tuple[TokenSequence, bool]], *, prompt_limit: int | None
    ) -> Step:
        """Compute one batch for several owners, with a flag for each sequence that draws."""

    def count_cells(self, sequences: Iterable[TokenSequence]) -> int:
        """Count the cells that sequences hold; shared ones count once."""


Wanted = Sequence[tuple[TokenSequence, bool]]
"""Sequences to step, and whether to draw a token for each."""


def _make_closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(slots=True, eq=False)
class Member:
    """The state of one request; a lock of the shared session protects it.

    A member takes part in batches while it has open sequences: the others then wait for its step.
    """

    number: int
    owner: str
    label: str  # Name under which its answer is recalled; empty for none
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


PROMPT_LIMIT = 64
"""Maximum number of prompt tokens in a batch while others decode: half of a CPU's batch."""


class SharedSession:
    """Let several requests use one session at a time, each through a session of its own.

    A request joins and leaves between two batches. ``on_batch`` gets every batch, failed ones
    included; they follow one another without a gap from the moment when the first request joins to
    the moment when the last one leaves.

    Two locks: that of the session is held during a batch and during any other use of it; that of
    the members is held for moments only, so that a cancel never waits for a batch.

    Args:
        on_batch: Is called after each batch, before the events that follow from it; None reports
            none.
        clock: Monotonic clock in nanoseconds, that of the session's steps.
        prompt_limit: Maximum number of prompt tokens in a batch while others decode; None for a
            session that one request uses at a time.
        threads: The thread counts of the session; None for a session without.
        on_begin: Called when the prompt of a request is known: the room may have grown.

    Attributes:
        session: The session; render and tokenize may be used during a batch, nothing else.
        capacity: Cells and sequences of the whole session.
    """

    def __init__(
        self,
        session: MixedSession,
        model_name: str,
        on_batch: Callable[[SharedBatch], None] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        prompt_limit: int | None = PROMPT_LIMIT,
        threads: ThreadControl | None = None,
        on_begin: Callable[[], None] | None = None,
    ) -> None:
        self.session = session
        self.capacity = session.free_tokens, session.free_sequences
        self._model = model_name
        self._on_batch = on_batch
        self._clock = clock
        self._prompt_limit = prompt_limit
        self._threads = threads
        self._on_begin = on_begin
        self._text_lock = Lock()
        self._using = Lock()  # the session
        self._state = Lock()  # everything below
        self._joined = 0
        self._members: list[Member] = []  # oldest first
        self._waiting: list[Member] = []
        self._busy = 0  # members with open sequences that are not waiting
        self._visits = 0  # uses of the session by others, which the next batch waits for
        self._running = False
        self._tiled_ns = 0  # end of the reported time

    @property
    def running(self) -> int:
        """Number of requests that have joined and not left."""
        return len(self.members)

    @property
    def members(self) -> tuple[Member, ...]:
        """The members, oldest first."""
        with self._state:
            return tuple(self._members)

    def join(
        self, number: int, owner: str = "", reservation: Reservation = NOTHING, label: str = ""
    ) -> RequestSession:
        """Let a request take part from its first sequence on.

        Args:
            number: Number of its answer, unique among the running ones.
            owner: Owner of its sequences, which reuse nothing of other owners.
            reservation: What it may need, which the others leave free.
            label: Name under which a later request of the owner recalls its answer.
        """
        with self._state:
            if not self._members:  # the reported time begins with the first one after a pause
                self._tiled_ns = self._clock()
            self._joined += 1
            member = Member(number, owner, label, self._joined, reservation)
            self._members.append(member)
        return RequestSession(self, member, self._text_lock)

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

    def free_room(self, without: Member | None = None) -> Room:
        """Measure what is free besides what members may still need, while using the session.

        Args:
            without: A member that may use what it has reserved itself.
        """
        members = [member for member in self.members if member is not without]
        tokens, sequences = self.session.free_tokens, self.session.free_sequences
        for member in members:
            need, own = self.limit(member.reservation), member.sequences.values()
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
        if self._on_begin is not None:
            self._on_begin()

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

    def limit(self, need: Reservation) -> Reservation:
        """Limit a reservation to what the whole context has."""
        return limit_need(need, *self.capacity)

    def read_only(self) -> RequestSession:
        """Return a session that only renders and tokenizes; no batch waits for it, nor it for any.

        It has not joined, so that it need not leave.
        """
        return RequestSession(self, Member(0, "", "", 0), self._text_lock)

    def room_by_reservation(self) -> Room:
        """Return the room if every running request uses all that it may; no batch is waited for."""
        room = [self.limit(each.reservation) for each in self.members]
        tokens, sequences = self.capacity
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
        with self.use():
            shared = [
                common_prefix(sequence.tokens, prompt)
                for member in self.members
                if member.owner == owner
                for sequence in member.sequences.values()
            ]
            return self.free_room(), max(shared, default=0)


class RequestSession:
    """One request's view of a shared session; it fulfils :class:`etui.engine.session.Session`.

    It is used from one thread at a time; ``cancel`` may be called from any. Whoever reads the
    events of the answer must go on reading them: between two steps the others wait for it.

    Args:
        text_lock: Held while a text is rendered or tokenized, which no batch waits for.
    """

    def __init__(self, shared: SharedSession, member: Member, text_lock: Lock) -> None:
        self._shared = shared
        self._member = member
        self._text_lock = text_lock
        self._session = shared.session

    @property
    def facts(self) -> ModelFacts:
        """Properties of the model."""
        return self._session.facts

    @property
    def free_tokens(self) -> int:
        """Free cells less those that the other requests may still need."""
        with self._shared.use(self._member):
            return max(0, self._shared.free_room(self._member).tokens)

    @property
    def free_sequences(self) -> int:
        """Free sequences less those that the other requests may still open."""
        with self._shared.use(self._member):
            return max(0, self._shared.free_room(self._member).sequences)

    def render(
        self, messages: Sequence[Message], *, thinking: bool | None = None, tools: str = ""
    ) -> str:
        """Render the chat template."""
        with self._text_lock:
            return self._session.render(messages, thinking=thinking, tools=tools)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Tokenize a text."""
        with self._text_lock:
            return self._session.tokenize(text, bos=bos, special=special)

    def open(
        self, tokens: Sequence[int], sampling: Sampling, script: Sequence[int] | None = None
    ) -> TokenSequence:
        """Open a sequence, reusing the longest common prefix with tokens of its owner."""
        member = self._member
        with self._shared.use(member) as session:
            if not member.begun:
                self._shared.begin(member, len(tokens))
            sequence = session.open(
                tokens, sampling, script, owner=member.owner, label=member.label
            )
            member.sequences[sequence.id] = sequence
        return sequence

    def recall(self, label: str) -> RecalledSequence | None:
        """Return the answer with this label of the same owner; None if it was evicted."""
        with self._shared.use(self._member) as session:
            return session.recall(label, self._member.owner)

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> TokenSequence:
        """Fork one of its sequences."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            child = session.fork(own, sampling)
            self._member.sequences[child.id] = child
        return child

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Let steps verify drafted tokens while this sequence is stepped alone."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            return session.speculate(own, method)

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Drop the drafted tokens not drawn yet."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            return session.settle(own)

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            session.extend(own, tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last tokens."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            return session.rollback(own, count)

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute the next tokens of its sequences in a batch with those of the other requests.

        After a cancel it returns a step without tokens, even in the middle of waiting.

        Raises:
            AnswerCancelled: It is called again after that.
            ContextOverflow: A sequence has outgrown the context.
            CacheFull: The cache is full, and this is the youngest request.
            EngineFailed: The batch failed.
        """
        most = self._session.facts.context_tokens
        wanted = [(self._find(sequence), draw) for sequence in sequences]
        for own, _ in wanted:
            if len(own.tokens) > most:
                raise ContextOverflow(len(own.tokens), most, 0)
        return self._shared.step(self._member, wanted)

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities of next tokens after its last step."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            return session.logprobs(own, tokens)

    def constrain(self, sequence: TokenSequence, grammar: OutputGrammar) -> None:
        """Let steps draw only tokens that the grammar allows."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            session.constrain(own, grammar)

    def top_logprobs(self, sequence: TokenSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return the most likely tokens where its last step drew a token."""
        own = self._find(sequence)
        with self._shared.use(self._member) as session:
            return session.top_logprobs(own, count)

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Close a sequence; with ``keep`` its tokens stay cached as a prefix for its owner."""
        own = self._member.sequences.get(sequence.id)
        if own is None:
            return
        with self._shared.use(self._member) as session:
            session.close(own, keep=keep)
            del self._member.sequences[own.id]

    def forget(self) -> None:
        """Forget closed sequences, those of other requests included."""
        with self._shared.use(self._member) as session:
            session.forget()

    def cancel(self) -> None:
        """Wake its step if it waits for other requests; safe from any thread."""
        self._shared.cancel(self._member)

    def leave(self) -> None:
        """End the request, so that no other waits for it; repeatable."""
        self._shared.leave(self._member)

    def take_changes(self) -> tuple[ThreadsChanged, ...]:
        """Return the changes of the thread counts since the last call."""
        if not self._member.changes:
            return ()
        changes = tuple(self._member.changes)
        del self._member.changes[: len(changes)]
        return changes

    def _find(self, sequence: TokenSequence) -> TokenSequence:
        own = self._member.sequences.get(sequence.id)
        if own is None:
            raise ValueError(f"sequence {sequence.id} is closed, or of another request")
        return own


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
