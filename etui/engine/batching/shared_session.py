"""One session for the answers of several requests: continuous batching."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Lock

from etui.arm import Sampling, Speculate
from etui.chat import Message
from etui.engine.batching.admission import (
    NOTHING,
    Member,
    MixedSession,
    Reservation,
    Room,
    limit_need,
)
from etui.engine.batching.meeting_point import MeetingPoint
from etui.engine.sequence_cache import common_prefix
from etui.engine.session import (
    LikelyToken,
    ModelFacts,
    OutputGrammar,
    RecalledSequence,
    Session,
    Step,
    TokenSequence,
)
from etui.engine.thread_control import ThreadControl
from etui.errors import ContextOverflow
from etui.events import SharedBatch, ThreadsChanged, Verified


class RequestSession:
    """One request's view of a shared session; it fulfils :class:`etui.engine.session.Session`.

    It is used from one thread at a time; ``cancel`` may be called from any. Whoever reads the
    events of the answer must go on reading them: between two steps the others wait for it.

    Args:
        text_lock: Held while a text is rendered or tokenized, which no batch waits for.
    """

    def __init__(self, point: MeetingPoint, member: Member, text_lock: Lock) -> None:
        self._point = point
        self._member = member
        self._text_lock = text_lock
        self._session: Session = point.session

    @property
    def number(self) -> int:
        """Number of the answer."""
        return self._member.number

    @property
    def facts(self) -> ModelFacts:
        """Properties of the model that reasoning may use."""
        return self._session.facts

    @property
    def free_tokens(self) -> int:
        """Free cells less those that the other requests may still need."""
        with self._point.use(self._member):
            return max(0, self._point.measure_room(self._member).tokens)

    @property
    def free_sequences(self) -> int:
        """Free sequences less those that the other requests may still open."""
        with self._point.use(self._member):
            return max(0, self._point.measure_room(self._member).sequences)

    def render(
        self, messages: Sequence[Message], *, thinking: bool | None = None, tools: str = ""
    ) -> str:
        """Render the chat template, up to and including the assistant's header."""
        with self._text_lock:
            return self._session.render(messages, thinking=thinking, tools=tools)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Tokenize a text; ``bos`` prepends the begin token, once, if the model uses one."""
        with self._text_lock:
            return self._session.tokenize(text, bos=bos, special=special)

    def open(
        self, tokens: Sequence[int], sampling: Sampling, script: Sequence[int] | None = None
    ) -> TokenSequence:
        """Open a sequence, reusing the longest common prefix with tokens of its owner.

        Raises:
            ContextOverflow: The tokens do not fit into the context.
        """
        member = self._member
        with self._point.use(member) as session:
            if not member.begun:
                self._point.begin(member, len(tokens))
            sequence = session.open(tokens, sampling, script, owner=member.owner)
            member.sequences[sequence.id] = sequence
        return sequence

    def recall(self, label: str) -> RecalledSequence | None:
        """Return None: the answers of several clients in turn leave no room to keep one."""
        return None

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> TokenSequence:
        """Fork a sequence: computed tokens are shared, queued tokens and a script are copied."""
        own = self._find(sequence)
        with self._point.use(self._member) as session:
            child = session.fork(own, sampling)
            self._member.sequences[child.id] = child
        return child

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Let steps verify drafted tokens while this sequence is stepped alone."""
        own = self._find(sequence)
        with self._point.use(self._member) as session:
            return session.speculate(own, method)

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Drop the drafted tokens not drawn yet; return the verifications not yet reported."""
        own = self._find(sequence)
        with self._point.use(self._member) as session:
            return session.settle(own)

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw (a hand-over sentence, a probe)."""
        own = self._find(sequence)
        with self._point.use(self._member) as session:
            session.extend(own, tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last ``count`` tokens; False if the model does not support partial removal."""
        own = self._find(sequence)
        with self._point.use(self._member) as session:
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
        return self._point.step(self._member, wanted)

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities (nats, full softmax) of next tokens after its last step.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are overwritten.
        """
        own = self._find(sequence)
        with self._point.use(self._member) as session:
            return session.logprobs(own, tokens)

    def constrain(self, sequence: TokenSequence, grammar: OutputGrammar) -> None:
        """Let steps draw only tokens that the grammar allows, from the next token on.

        Raises:
            InvalidRequest: The grammar is too large.
        """
        own = self._find(sequence)
        with self._point.use(self._member) as session:
            session.constrain(own, grammar)

    def top_logprobs(self, sequence: TokenSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return the most likely tokens where its last step drew a token, best first.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are overwritten.
        """
        own = self._find(sequence)
        with self._point.use(self._member) as session:
            return session.top_logprobs(own, count)

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Close a sequence; with ``keep`` its tokens stay cached as a prefix for its owner."""
        own = self._member.sequences.get(sequence.id)
        if own is None:
            return
        with self._point.use(self._member) as session:
            session.close(own, keep=keep)
            del self._member.sequences[own.id]

    def forget(self) -> None:
        """Forget closed sequences, those of other requests included."""
        with self._point.use(self._member) as session:
            session.forget()

    def cancel(self) -> None:
        """Wake its step if it waits for other requests; safe from any thread."""
        self._point.cancel(self._member)

    def leave(self) -> None:
        """End the request, so that no other waits for it; repeatable."""
        self._point.leave(self._member)

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
