"""One session for the answers of several requests: continuous batching.

Each request runs in a thread of its own. A step waits until every request with open sequences
waits, too; the compute thread then computes the batch and hands out the results. Everything else
that changes the session (opening, forking, closing sequences) happens between two batches. A single
request is a batch of one, which waits for no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from etui.arm import Sampling, Speculate
from etui.chat import Message, Picture, TextsToEmbed
from etui.engine.batching.admission import NOTHING, Reservation, Room
from etui.engine.grammar_trial import SIMPLER
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import LlamaSequence, common_prefix
from etui.engine.session import (
    LikelyToken,
    OutputGrammar,
    PromptScores,
    RecalledSequence,
    Step,
    TokenSequence,
)
from etui.errors import (
    CacheFull,
    ContextOverflow,
    EngineFailed,
    InvalidRequest,
    format_internal_error,
)
from etui.events import (
    BatchShare,
    Event,
    PictureEncoded,
    Reused,
    SharedBatch,
    ThreadsChanged,
    Verified,
)

T = TypeVar("T")


class AnswerCancelled(Exception):
    """A cancelled answer steps on without polling its control, as in a probe of its thinking."""


class RequestSession:
    """One request's view of a shared session; it fulfils :class:`etui.engine.session.Session`.

    It takes part in batches while it has open sequences: the others then wait for its step. So
    whoever reads the events of the answer must go on reading them. It is used from one thread at a
    time; ``cancel`` may be called from any. The shared session protects its attributes.

    Attributes:
        number: Number of its answer, unique among the running ones.
        owner: Owner of its sequences, which reuse nothing of other owners.
        reservation: What it may need, which the others leave free; the upper bound of its prompt is
            corrected when it opens it.
        wanted: What it wants stepped, while it waits for a batch or is in one.
        result: What the batch gave; an exception is raised in its thread.
        gate: Made and acquired each time it waits; whoever has its result releases it.
        prefilled: Whether it has drawn a token: what it computes from then on is decoding.
        changes: Changes of the thread counts, and reused caches, that its answer has not reported.
    """

    def __init__(
        self,
        shared: SharedSession,
        number: int = 0,
        owner: str = "",
        reservation: Reservation = NOTHING,
        label: str = "",
        pictures: Sequence[Picture] = (),
    ) -> None:
        self.number = number
        self.owner = owner
        self.reservation = reservation
        self.sequences: dict[int, LlamaSequence] = {}  # open ones, by id
        self.wanted: Sequence[tuple[LlamaSequence, bool]] = ()
        self.result: Step | BaseException | None = None
        self.gate = threading.Lock()
        self.prefilled = False
        self.cancelled = False
        self.woken = False  # by an empty step, because it was cancelled
        self.changes: list[ThreadsChanged | Reused] = []
        self._shared = shared
        self._session = shared.session
        self.facts = shared.session.facts
        self._label = label
        self._has_begun = False
        self._pictures = {picture.mark: picture for picture in pictures}
        self._held = False

    @property
    def free_tokens(self) -> int:
        """Free cells less those that the other requests may still need."""
        with self._shared.use(self):
            return max(0, self._shared.free_room(self).tokens)

    @property
    def free_sequences(self) -> int:
        """Free sequences less those that the other requests may still open."""
        with self._shared.use(self):
            return max(0, self._shared.free_room(self).sequences)

    def render(
        self, messages: Sequence[Message], *, think_tokens: int | None = None, tools: str = ""
    ) -> str:
        """Render the chat template, which no batch waits for."""
        with self._shared.reading_text():
            text = self._session.render(messages, think_tokens=think_tokens, tools=tools)
        shown = "".join(message.content for message in messages)
        if any(mark in shown for mark in self._pictures) and len(self._split(text)) < 2:
            raise InvalidRequest(
                f"the chat template of {self.facts.name} leaves the pictures out",
                "choose another model",
                "messages",
            )
        return text

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Tokenize a text with its pictures, which no batch waits for."""
        reader = self._session.pictures
        with self._shared.reading_text():
            if reader is None or not self._pictures or not special:
                return self._session.tokenize(text, bos=bos, special=special)
            if self.number and not self._held:
                reader.hold(self._pictures.values(), self.owner)
                self._held = True
            tokens: list[int] = []
            for index, part in enumerate(self._split(text)):
                if index % 2:
                    tokens += reader.tokenize(self._pictures[part], self.owner)
                else:
                    tokens += self._session.tokenize(part, bos=bos and index == 0)
            return tokens

    def _split(self, text: str) -> list[str]:
        return self._session.split_at(text, list(self._pictures))

    def encode(
        self, sequence: TokenSequence, cancelled: Callable[[], bool]
    ) -> Iterator[PictureEncoded]:
        """Encode the pictures of the queued tokens, each part between two batches of the others."""
        run = partial(self._shared.compute, self)
        return self._session.encode(self._find(sequence), cancelled, run)

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        scores: PromptScores | None = None,
    ) -> TokenSequence:
        """Open a sequence, reusing the longest common prefix with tokens of its owner."""
        with self._shared.use(self) as session:
            if not self._has_begun:
                self._has_begun = True
                self.reservation = replace(self.reservation, prompt_tokens=len(tokens))
                session.threads.begin_answer()
                self.changes += session.threads.take_changes()
                self._shared.on_begin()
            names = {"owner": self.owner, "label": self._label}
            own = session.open(tokens, sampling, script, scores, **names)
            if own.reused is not None:
                self.changes.append(own.reused)
            self.sequences[own.id] = own
        return own

    def recall(self, label: str) -> RecalledSequence | None:
        """Return the answer with this label of the same owner; None if it was evicted."""
        with self._shared.use(self) as session:
            return session.recall(label, self.owner)

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> TokenSequence:
        """Fork one of its sequences."""
        with self._shared.use(self) as session:
            child = session.fork(self._find(sequence), sampling)
            self.sequences[child.id] = child
        return child

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Let steps verify drafted tokens while this sequence is stepped alone."""
        with self._shared.use(self) as session:
            return session.speculate(self._find(sequence), method)

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Drop the drafted tokens not drawn yet."""
        with self._shared.use(self) as session:
            return session.settle(self._find(sequence))

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw."""
        with self._shared.use(self) as session:
            session.extend(self._find(sequence), tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last tokens."""
        with self._shared.use(self) as session:
            return session.rollback(self._find(sequence), count)

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute the next tokens of its sequences in a batch with those of the other requests.

        After a cancel it returns a step without tokens, even in the middle of waiting, so that its
        answer ends where it polls its control.

        Raises:
            AnswerCancelled: It is called again after that.
            ContextOverflow: A sequence has outgrown the context.
            CacheFull: The cache is full, and this is the youngest request.
            EngineFailed: The batch failed.
            InvalidRequest: The grammar of a sequence has exceeded a limit.
        """
        most = self.facts.context_tokens
        wanted = [(self._find(sequence), draw) for sequence in sequences]
        for own, _ in wanted:
            if len(own.tokens) > most:
                raise ContextOverflow(len(own.tokens), most, 0)
        self._shared.await_batch(self, wanted)
        result, self.result = self.result, None
        if isinstance(result, Step):
            if fault := next((each.fault for each in result.sampled if each.fault), ""):
                raise InvalidRequest(f"the answer cannot go on: {fault}", SIMPLER)
            return result
        assert result is not None
        raise result

    def embed(self, asked: TextsToEmbed, cancelled: Callable[[], bool]) -> Iterator[Event]:
        """Embed or rank texts, as the embedder, in batches between those of the answers."""
        with self._shared.use(self) as session:
            session.threads.begin_answer()
            self.changes += session.threads.take_changes()
            self._shared.on_begin()
        return self._session.embedder.embed(asked, cancelled, partial(self._shared.compute, self))

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities of next tokens after its last step."""
        with self._shared.use(self) as session:
            return session.logprobs(self._find(sequence), tokens)

    def constrain(self, sequence: TokenSequence, grammar: OutputGrammar) -> None:
        """Let steps draw only tokens that the grammar allows; no batch waits while it is built."""
        own = self._find(sequence)
        constraint = self._session.make_constraint(own, grammar)
        with self._shared.use(self) as session:
            session.keep_to(own, constraint)

    def top_logprobs(self, sequence: TokenSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return the most likely tokens where its last step drew a token."""
        with self._shared.use(self) as session:
            return session.top_logprobs(self._find(sequence), count)

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Close a sequence; with ``keep`` its tokens stay cached as a prefix for its owner."""
        own = self.sequences.get(sequence.id)
        if own is not None:
            with self._shared.use(self) as session:
                session.close(own, keep=keep)
                del self.sequences[own.id]

    def forget(self) -> None:
        """Forget closed sequences, those of other requests included."""
        with self._shared.use(self) as session:
            session.forget()

    def cancel(self) -> None:
        """Wake its step if it waits for other requests; safe from any thread."""
        self._shared.cancel(self)

    def leave(self) -> None:
        """End the request and close what it left open, so that no other waits; repeatable."""
        try:
            if self.sequences:
                with self._shared.use(self) as session:
                    left, self.sequences = self.sequences, {}
                    for sequence in left.values():
                        session.close(sequence, keep=False)
        finally:  # the others would wait for it forever
            self._shared.remove(self)
            if self._held and self._session.pictures is not None:
                self._held = False
                with self._shared.text_lock:
                    self._session.pictures.release(self._pictures.values(), self.owner)

    def take_changes(self) -> tuple[ThreadsChanged | Reused, ...]:
        """Return the changes of the thread counts and the reused caches since the last call."""
        changes = tuple(self.changes)
        del self.changes[: len(changes)]  # another thread may have added one
        return changes

    def _find(self, sequence: TokenSequence) -> LlamaSequence:
        own = self.sequences.get(sequence.id)
        if own is None:
            raise ValueError(f"sequence {sequence.id} is closed, or of another request")
        return own


def split_step(step: Step, requests: Sequence[RequestSession]) -> list[Step]:
    """Return each request's own part of a step, with the times of the whole batch."""
    if len(requests) == 1:
        return [step]
    return [
        replace(
            step,
            computed={id_: count for id_, count in step.computed.items() if id_ in ids},
            sampled=tuple(each for each in step.sampled if each.sequence_id in ids),
            verified=tuple(
                event
                for event, id_ in zip(step.verified, step.verified_ids, strict=True)
                if id_ in ids
            ),
            verified_ids=(),
        )
        for ids in ({sequence.id for sequence, _ in request.wanted} for request in requests)
    ]


def build_shares(
    tokens: Mapping[int, int], requests: Sequence[RequestSession]
) -> tuple[BatchShare, ...]:
    """Build the share of each request with tokens in a batch; ``prefilled`` is as before it."""
    shares = []
    for request in requests:
        count = sum(tokens.get(sequence.id, 0) for sequence, _ in request.wanted)
        if count:
            counts = (0, count) if request.prefilled else (count, 0)
            shares.append(BatchShare(request.number, *counts))
    return tuple(shares)


class SharedSession:
    """Let several requests use one session at a time, each through a session of its own.

    A request joins and leaves between two batches. ``on_batch`` gets every batch, failed ones
    included, before the events that follow from it; they follow one another without a gap from the
    moment when the first request joins to the moment when the last one leaves.

    Two locks: that of the session is held during a batch and during any other use of it; that of
    the requests is held for moments only, so that a cancel never waits for a batch.

    Args:
        prompt_limit: Maximum number of prompt tokens in a batch while others decode; None for a
            session that one request uses at a time.
        on_begin: Called when the prompt of a request is known: the room may have grown.

    Attributes:
        session: The session; render and tokenize may be used during a batch, nothing else.
        capacity: Cells and sequences of the whole session.
    """

    def __init__(
        self,
        session: LlamaSession,
        model_name: str,
        on_batch: Callable[[SharedBatch], None] | None = None,
        *,
        prompt_limit: int | None = None,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.session = session
        self.capacity = session.free_tokens, session.free_sequences
        self.on_begin = on_begin
        self.text_lock = threading.Lock()  # held while a text is rendered or tokenized
        self._model = model_name
        self._on_batch = on_batch
        self._prompt_limit = prompt_limit
        self._using = threading.Lock()  # the session
        self._state = threading.Lock()  # everything below
        self._requests: list[RequestSession] = []  # oldest first
        self._waiting: list[RequestSession] = []
        self._busy = 0  # requests with open sequences that are not waiting
        self._visits = 0  # uses of the session by others, which the next batch waits for
        self._running = False
        self._tiled_ns = 0  # end of the reported time

    @property
    def requests(self) -> tuple[RequestSession, ...]:
        """The requests, oldest first."""
        with self._state:
            return tuple(self._requests)

    @contextmanager
    def reading_text(self) -> Iterator[None]:
        """Hold the lock of the texts, as a step of one request."""
        with self.text_lock, self.session.steps.time("text"):
            yield

    def join(
        self,
        number: int,
        owner: str = "",
        reservation: Reservation = NOTHING,
        label: str = "",
        pictures: Sequence[Picture] = (),
    ) -> RequestSession:
        """Let a request take part from its first sequence on."""
        request = RequestSession(self, number, owner, reservation, label, pictures)
        with self._state:
            if not self._requests:  # the reported time begins with the first one after a pause
                self._tiled_ns = time.monotonic_ns()
            self._requests.append(request)
        return request

    def remove(self, request: RequestSession) -> None:
        """Remove a request without open sequences; repeatable."""
        with self._state:
            if request not in self._requests:
                return
            self._requests.remove(request)
            if self._requests:
                return
        with self._using:
            if not self.requests:
                self._report(time.monotonic_ns(), (BatchShare(request.number, 0, 0),))

    def free_room(self, without: RequestSession | None = None) -> Room:
        """Measure what is free besides what requests may still need, while using the session."""
        requests = [each for each in self.requests if each is not without]
        tokens, sequences = self.session.free_tokens, self.session.free_sequences
        for request in requests:
            need, own = request.reservation.limit(*self.capacity), request.sequences.values()
            tokens -= max(0, need.tokens - self.session.count_cells(own))
            sequences -= max(0, need.sequences - len(own))
        return Room(len(requests), tokens, sequences)

    def room_by_reservation(self) -> Room:
        """Return the room if every running request uses all that it may; no batch is waited for."""
        needs = [each.reservation.limit(*self.capacity) for each in self.requests]
        tokens, sequences = self.capacity
        return Room(
            len(needs),
            tokens - sum(need.tokens for need in needs),
            sequences - sum(need.sequences for need in needs),
        )

    def measure_room(self, prompt: Sequence[int], owner: str) -> Room:
        """Measure after the running batch what is free besides what requests may still need.

        The leading tokens of the new prompt that an open sequence of the owner has, too, count as
        free.
        """
        with self.use():
            shared = [
                common_prefix(sequence.tokens, prompt)
                for request in self.requests
                if request.owner == owner
                for sequence in request.sequences.values()
            ]
            room = self.free_room()
            return replace(room, tokens=room.tokens + max(shared, default=0))

    @contextmanager
    def use(self, request: RequestSession | None = None) -> Iterator[LlamaSession]:
        """Use the session between two batches; a request takes part from its first sequence on.

        A user must not wait for the compute thread, which may be about to begin a batch.
        """
        active = request is not None and bool(request.sequences)
        if not active:
            with self._state:
                self._visits += 1
        try:
            with self._using:
                yield self.session
        finally:
            takes_part = request is not None and bool(request.sequences)
            if not active or not takes_part:
                with self._state:
                    self._visits -= not active
                    self._busy += int(takes_part) - int(active)
                    self._begin_batch()  # no other use has to come first

    def await_batch(
        self, request: RequestSession, wanted: Sequence[tuple[LlamaSequence, bool]]
    ) -> None:
        """Wait until a request has the result of a batch with what it wants.

        Raises:
            AnswerCancelled: It was cancelled and has had its empty step.
        """
        with self._state:
            if request.cancelled:
                if request.woken:
                    raise AnswerCancelled
                request.woken = True
                request.result = self._empty_step()
                return
            request.wanted = wanted
            gate = request.gate = threading.Lock()
            gate.acquire()
            self._waiting.append(request)
            self._busy -= 1
            self._begin_batch()
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C in the main thread
            with self._state:
                waits = request in self._waiting
                if waits:
                    self._waiting.remove(request)
                    self._busy += 1
            while not waits and request.result is None:  # the batch uses its sequences
                gate.acquire()
            request.result = None
            raise

    def cancel(self, request: RequestSession) -> None:
        """Wake a request that waits for others; one in a running batch gets its result first."""
        with self._state:
            request.cancelled = True
            if request in self._waiting:
                self._waiting.remove(request)
                self._busy += 1
                request.woken = True
                request.result = self._empty_step()
                request.gate.release()

    def compute(self, request: RequestSession, work: Callable[[], T], tokens: int) -> T:
        """Compute something of one request between two batches, and report it as a batch of it."""

        def run() -> T:
            with self._using:
                try:
                    return work()
                finally:
                    self._report(time.monotonic_ns(), (BatchShare(request.number, tokens, 0),))

        return self.session.compute.run(run)

    def _empty_step(self) -> Step:
        now_ns = time.monotonic_ns()
        return Step(now_ns, now_ns, {}, ())

    def _begin_batch(self) -> None:
        """Let all waiting requests be computed, oldest first, if nothing has to come before."""
        if self._running or self._busy or self._visits or not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        batch.sort(key=self._requests.index)
        self._running = True
        self.session.compute.submit(lambda: self._compute(batch))

    def _compute(self, batch: list[RequestSession]) -> None:
        """Compute a batch in the compute thread, and hand out its results; never raises."""
        results: Sequence[Step | BaseException]
        wanted = [each for request in batch for each in request.wanted]
        try:
            with self._using:
                try:
                    step = self.session.step_mixed(wanted, prompt_limit=self._prompt_limit)
                except BaseException:
                    self._report(time.monotonic_ns(), build_shares(self.session.planned, batch))
                    raise
                if step.computed:
                    self._report(step.end_ns, build_shares(step.computed, batch))
                if changes := self.session.threads.take_changes():
                    for request in self.requests:
                        request.changes += changes
            results = split_step(step, batch)
        except CacheFull as error:  # of the youngest, which is last: the others go on
            results = [*(self._empty_step() for _ in batch[1:]), error]
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads of all requests
            results = [error, *(_copy(error) for _ in batch[1:])]
        with self._state:
            for request, result in zip(batch, results, strict=True):
                request.result = result
                request.wanted = ()
                if isinstance(result, Step) and result.sampled:
                    request.prefilled = True
            self._busy += len(batch)
            self._running = False
            gates = [request.gate for request in batch]
        for gate in gates:
            gate.release()

    def _report(self, end_ns: int, shares: tuple[BatchShare, ...]) -> None:
        start_ns, self._tiled_ns = self._tiled_ns, max(self._tiled_ns, end_ns)
        if self._on_batch is not None and self._tiled_ns > start_ns:
            self._on_batch(SharedBatch(self._model, start_ns, self._tiled_ns, shares))


def _copy(error: BaseException) -> BaseException:
    """Copy an error for another thread: a raised exception collects the frames of its thread."""
    if isinstance(error, EngineFailed):
        copy = EngineFailed(error.what, error.fix)
    else:
        copy = EngineFailed(format_internal_error(error))
    copy.__cause__ = error
    return copy
