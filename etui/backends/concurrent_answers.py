"""Answers of several requests at a time on the models of one residency."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from etui.backends.answer_control import AnswerControl
from etui.backends.base import AnswerRequest
from etui.engine.batching.admission import Reservation, bound_prompt, estimate_need, may_begin
from etui.engine.batching.admission_queue import AdmissionQueue, Ticket
from etui.engine.batching.meeting_point import AnswerCancelled
from etui.engine.batching.shared_session import SharedSession
from etui.errors import EngineFailed, ModelUnavailable
from etui.events import Answer, Event, Finished, Prefilled, SharedBatch, Thought

if TYPE_CHECKING:
    from pathlib import Path

    from etui.engine.llama_session import LlamaSession
    from etui.engine.residency import Residency
    from etui.engine.session import Session
    from etui.reasoning.control import Control


@dataclass(slots=True)
class StoppedAnswer:
    """What an answer has yielded, to finish it when it is cancelled in a queue or in a probe."""

    start_ns: int
    _prefilled: Prefilled | None = None
    _texts: dict[type[Thought] | type[Answer], list[str]] = field(
        default_factory=lambda: {Thought: [], Answer: []}
    )
    _tokens: dict[type[Thought] | type[Answer], int] = field(
        default_factory=lambda: {Thought: 0, Answer: 0}
    )
    _first_ns: int | None = None
    _thought_ns: int | None = None
    _last_ns: int | None = None

    def take(self, event: Event) -> None:
        """Take an event of the answer."""
        if isinstance(event, Prefilled):
            self._prefilled = event
        elif isinstance(event, Thought | Answer):
            self._texts[type(event)].append(event.text)
            self._tokens[type(event)] += event.tokens
            if event.tokens:
                self._first_ns = self._first_ns or event.t_ns
                self._last_ns = event.t_ns
            if isinstance(event, Thought):
                self._thought_ns = event.t_ns

    def finish(self, now_ns: int, why: str) -> Finished:
        """Build the last event."""
        prompt = self._prefilled
        prefill_end_ns = now_ns if prompt is None else prompt.end_ns
        thinking, answer = self._tokens[Thought], self._tokens[Answer]
        return Finished(
            start_ns=self.start_ns if prompt is None else prompt.start_ns,
            prefill_end_ns=prefill_end_ns,
            thinking_end_ns=max(prefill_end_ns, self._thought_ns or 0),
            end_ns=max(prefill_end_ns, self._last_ns or 0),
            first_token_ns=self._first_ns,
            status="stopped",
            why=why,
            answer="".join(self._texts[Answer]).strip(),
            thinking="".join(self._texts[Thought]).strip(),
            prompt_tokens=0 if prompt is None else prompt.prompt_tokens,
            cached_tokens=0 if prompt is None else prompt.cached_tokens,
            computed_tokens=0 if prompt is None else prompt.computed_tokens,
            thinking_tokens=thinking,
            output_tokens=thinking + answer,
        )


E = TypeVar("E")
R = TypeVar("R")

SMALLEST_CHUNK, LARGEST_CHUNK = 32, 256
"""Bounds of the prompt tokens in a batch while others decode."""


def choose_prompt_limit(batch_tokens: int) -> int:
    """Choose how many prompt tokens a batch may have while others decode: half of a batch.

    A smaller chunk would compute the prompt at a higher cost, and a larger one would hold up the
    tokens of the others for longer.
    """
    return min(LARGEST_CHUNK, max(SMALLEST_CHUNK, batch_tokens // 2))


def require_path(request: AnswerRequest) -> Path:
    """Return the model file of a request.

    Raises:
        ModelUnavailable: The model has no file on this machine.
    """
    if request.path is None:
        raise ModelUnavailable(f"{request.model.name} has no file on this machine")
    return request.path


def reason(request: AnswerRequest, session: Session, control: Control) -> Iterator[Event]:
    """Answer a request on the session of its model, as its arm says."""
    from etui.reasoning.answer import answer

    return answer(request.messages, request.arm, session, control, request.price, request.options)


class ConcurrentAnswers:
    """Let requests begin in the order of their arrival, and answer them in shared batches.

    A request waits while another model answers, while its model has no room for it along with the
    running ones, and while as many answers run as may run; those behind it wait as well. A load
    waits until all answers have ended.

    Args:
        residency: The models in memory; nothing else may use it while answers run.
        parallel: Maximum number of answers at a time; with 1, each runs on the session alone.
        on_batch: Is called after each batch of several answers.
    """

    def __init__(
        self, residency: Residency, parallel: int, on_batch: Callable[[SharedBatch], None]
    ) -> None:
        self._residency = residency
        self._parallel = parallel
        self._on_batch = on_batch
        self._queue = AdmissionQueue()
        self._shared: tuple[str, LlamaSession, SharedSession] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing runs, and nothing waits."""
        return self._queue.idle

    def answer(
        self, request: AnswerRequest, number: int, control: AnswerControl
    ) -> Iterator[Event]:
        """Answer a request; the iterator may be read from any one thread.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            ContextOverflow: The prompt does not fit.
            CacheFull: The answers filled the cache, and this one is the youngest.
            EngineFailed: llama.cpp failed.
        """
        path = require_path(request)
        stopped = StoppedAnswer(time.monotonic_ns())
        with ExitStack() as ending:
            ticket = self._queue.enter()
            ending.callback(self._queue.leave, ticket)
            control.wake_by(partial(self._queue.cancel, ticket))
            admission = _Admission(request)
            if not self._queue.await_turn(ticket, partial(self._may_begin, admission)):
                ending.close()
                why = "stopped while waiting for other answers"
                yield stopped.finish(time.monotonic_ns(), why)
                return
            session = self._residency.find(request.model, path, request.draft)
            if session is None or self._queue.running == 0:
                session = yield from self._residency.session(request.model, path, request.draft)
            self._residency.hold(request.model.name)
            ending.callback(self._residency.release, request.model.name)
            if self._parallel == 1:
                yield from self._answer_alone(request, session, control, ticket, ending)
            else:
                need = admission.need(self._share(request.model.name, session))
                events = self._answer_shared(request, number, control, ticket, need, ending)
                try:
                    for event in events:
                        stopped.take(event)
                        yield event
                except AnswerCancelled:
                    ending.close()
                    yield stopped.finish(time.monotonic_ns(), "stopped while thinking")

    def _answer_alone(
        self,
        request: AnswerRequest,
        session: LlamaSession,
        control: AnswerControl,
        ticket: Ticket,
        ending: ExitStack,
    ) -> Iterator[Event]:
        session.owner, session.label = request.owner, request.turn_id
        session.threads.begin_answer()
        self._queue.begin(ticket)
        for event in end_early(reason(request, session, control), ending):
            yield from session.threads.take_changes()
            yield event

    def _answer_shared(
        self,
        request: AnswerRequest,
        number: int,
        control: AnswerControl,
        ticket: Ticket,
        need: Reservation,
        ending: ExitStack,
    ) -> Iterator[Event]:
        assert self._shared is not None
        session = self._shared[2].join(number, request.owner, need)
        ending.callback(session.leave)
        self._queue.begin(ticket)
        control.wake_by(session.cancel)
        for event in end_early(reason(request, session, control), ending):
            yield from session.take_changes()
            yield event

    def alone(
        self, work: Callable[[], Generator[E, None, R]], wait_seconds: float | None = None
    ) -> Generator[E, None, R]:
        """Do something with the models when all answers before it have ended.

        Args:
            work: Yields events; nothing else begins until its generator has ended.
            wait_seconds: Longest wait; None waits as long as it takes.

        Raises:
            EngineFailed: Answers still run after that time.
        """
        with ExitStack() as ending:
            ticket = self._queue.enter()
            ending.callback(self._queue.leave, ticket)
            if not self._queue.await_turn(ticket, _is_alone, wait_seconds):
                raise EngineFailed(
                    f"answers still run after {wait_seconds:g} seconds", "read or close them first"
                )
            return (yield from work())

    def now_or_never(self, work: Callable[[], R]) -> R | None:
        """Do something with the models if nothing runs or waits; None if it was not done."""
        ticket = self._queue.enter_if_idle()
        if ticket is None:
            return None
        try:
            return work()
        finally:
            self._queue.leave(ticket)

    def _may_begin(self, admission: _Admission, running: int) -> bool:
        """Return whether the first request in the queue may begin while the others run."""
        if running == 0:
            return True
        request = admission.request
        if running >= self._parallel or self._shared is None or request.path is None:
            return False
        name, session, shared = self._shared
        found = self._residency.find(request.model, request.path, request.draft)
        if request.model.name != name or found is not session:
            return False
        return admission.fits(shared)

    def _share(self, name: str, session: LlamaSession) -> SharedSession:
        if self._shared is None or self._shared[1] is not session:
            session.share_among_clients()
            shared = SharedSession(
                session,
                name,
                self._on_batch,
                prompt_limit=choose_prompt_limit(session.options.batch_tokens),
                threads=session.threads,
                on_begin=self._queue.ask_again,
            )
            self._shared = (name, session, shared)
        return self._shared[2]


class _Admission:
    """What a request needs, measured no more exactly than it takes to decide."""

    def __init__(self, request: AnswerRequest) -> None:
        self.request = request
        self._prompt: list[int] | None = None
        options = request.options
        if options.prompt_tokens:
            self._bound = len(options.prompt_tokens)
        else:
            self._bound = bound_prompt([message.content for message in request.messages])
            self._bound += len(options.tools.encode("utf-8", "replace"))

    def fits(self, shared: SharedSession) -> bool:
        """Return whether it fits along with the running requests."""
        reserved = shared.room_by_reservation()
        if may_begin(self._estimate(self._bound), reserved):
            return True
        if self._prompt is None:
            self._prompt = self._measure(shared)
        need = shared.limit(self._estimate(len(self._prompt)))
        if may_begin(need, reserved):
            return True
        room, shared_tokens = shared.measure_room(self._prompt, self.request.owner)
        return may_begin(need, room, shared_tokens)

    def need(self, shared: SharedSession) -> Reservation:
        """Return what to reserve; the prompt is corrected when it is opened."""
        return self._estimate(self._bound if self._prompt is None else len(self._prompt))

    def _estimate(self, prompt_tokens: int) -> Reservation:
        return estimate_need(self.request.arm, prompt_tokens, self.request.options.count)

    def _measure(self, shared: SharedSession) -> list[int]:
        from etui.reasoning.direct import answer_prompt

        options = self.request.options
        if options.raw:
            text = self.request.messages[-1].content
            return list(options.prompt_tokens) or shared.read_only().tokenize(text, bos=True)
        return answer_prompt(self.request.messages, self.request.arm, shared.read_only()).tokens


def end_early(events: Iterator[Event], ending: ExitStack) -> Iterator[Event]:
    """Free what an answer holds before its last event is read, so that the next one can begin."""
    for event in events:
        if isinstance(event, Finished):
            for _ in events:  # reasoning closes its sequences
                pass
            ending.close()
        yield event


def _is_alone(running: int) -> bool:
    return running == 0
