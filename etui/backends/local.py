"""Answer requests in this process: residency loads the model, reasoning drives it.

``ask`` and ``bench`` use this class directly; the app uses it in a child process
(:mod:`etui.backends.process` and :mod:`etui.backends.worker`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from etui.backends.base import AnswerControl, AnswerRequest
from etui.config.config import Config
from etui.engine.batching.admission import Reservation, bound_prompt, estimate_need, may_begin
from etui.engine.batching.admission_queue import AdmissionQueue, Ticket
from etui.engine.batching.meeting_point import AnswerCancelled
from etui.engine.batching.shared_session import SharedSession
from etui.errors import EngineFailed, ModelUnavailable
from etui.events import (
    Answer,
    Event,
    Finished,
    Prefilled,
    Residence,
    SharedBatch,
    Thought,
    Unloaded,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from etui.engine.llama_session import LlamaSession
    from etui.engine.residency import Residency
    from etui.engine.session import Session
    from etui.events import SharedBatch
    from etui.models.spec import ModelSpec
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


__all__ = ["AnswerRequest", "LocalAnswerer", "LocalBackend"]

CLOSE_SECONDS = 60.0
"""Longest wait of ``close`` for cancelled answers; one takes the time of a batch, or of a load."""


class LocalBackend:
    """Backend that runs llama.cpp in this process.

    With ``parallel: 1`` one answer runs at a time, the methods are called from one thread at a time
    (``cancel`` and ``hurry`` from any), and no batch is reported; the answers of answerers wait for
    each other. With more, everything may be called from any thread: answers of one model share
    batches, and loads, unloads and ``forget`` wait until the answers before them have ended.

    Args:
        trials: Load a file that etui does not know in a process of its own first, so that a crash
            of llama.cpp is an error of the answer and not the end of this process.

    Attributes:
        on_batch: Called after each shared batch, before the events that follow from it; None
            reports none.
    """

    def __init__(self, config: Config, *, trials: bool = False) -> None:
        from etui.engine.residency import Residency

        self.on_batch: Callable[[SharedBatch], None] | None = None
        self._residency = Residency(config, trials=trials)
        self._control = AnswerControl()
        self._parallel = max(1, config.parallel)
        self._answers = ConcurrentAnswers(self._residency, self._parallel, self._report)
        self._running: dict[int, AnswerControl] = {}
        self._numbers = itertools.count(1)
        self._own = LocalAnswerer(self._answers, self._running, self._numbers)

    def _report(self, batch: SharedBatch) -> None:
        if self.on_batch is not None:
            self.on_batch(batch)

    def open_answerer(self) -> LocalAnswerer:
        """Return an answerer for the requests of one turn; several answer at a time."""
        return LocalAnswerer(self._answers, self._running, self._numbers)

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            ContextOverflow: The prompt does not fit.
            EngineFailed: llama.cpp failed.
        """
        return self._own.answer(request) if self._parallel > 1 else self._answer(request)

    def _answer(self, request: AnswerRequest) -> Iterator[Event]:

        path = require_path(request)
        control = self._control = AnswerControl()
        session = yield from self._residency.session(request.model, path, request.draft)
        session.owner, session.label = request.owner, request.turn_id
        session.threads.begin_answer()
        try:
            for event in reason(request, session, control):
                yield from session.threads.take_changes()
                yield event
        finally:
            self._residency.answered(request.model.name)

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Generator[Residence, None, LlamaSession]:
        """Load a model before a question is asked; the load runs while the iterator is read.

        Args:
            draft: The model that drafts tokens for it, and its file; None if none is needed.

        Yields:
            The models unloaded for room, and the load; nothing if the model is in memory.

        Returns:
            The model's session, for computations without an answer.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            EngineFailed: llama.cpp failed.
        """
        if self._parallel == 1:
            return (yield from self._residency.session(model, path, draft))
        return (yield from self._answers.alone(lambda: self._residency.session(model, path, draft)))

    def describe_gpus(self) -> tuple[str, ...]:
        """Return llama.cpp's descriptions of the GPUs that models are put on.

        Raises:
            EngineFailed: llama.cpp is missing.
        """
        return tuple(gpu.description for gpu in self._residency.gpus())

    def unload(self, model: str) -> Iterator[Unloaded]:
        """Unload a model between two answers; yields nothing if it is not in memory."""
        if self._parallel == 1:
            return self._residency.unload(model)
        return self._answers.alone(lambda: self._unload(model))

    def _unload(self, model: str) -> Generator[Unloaded, None, None]:
        yield from self._residency.unload(model)

    def forget(self) -> None:
        """Clear the prefix caches between two answers, so that the next one reuses nothing."""
        if self._parallel == 1:
            self._residency.forget()
            return
        for _ in self._answers.alone(self._forget):
            pass

    def _forget(self) -> Generator[None, None, None]:
        self._residency.forget()
        yield

    def cancel(self) -> None:
        """End the running answer of ``answer`` within one batch."""
        (self._own.cancel if self._parallel > 1 else self._control.cancel)()

    def hurry(self) -> None:
        """End the thinking of the running answer of ``answer``, because its joules are spent."""
        (self._own.hurry if self._parallel > 1 else self._control.hurry)()

    def keep_warm(self, model: str, seconds: float | None) -> None:
        """Set how long a model is kept after its last answer; None keeps it."""
        self._residency.keep_warm(model, seconds)

    def seconds_to_unload(self) -> float | None:
        """Return the seconds until the next idle unload; None if none is due.

        With several answers at a time it is also None while any of them runs or waits: ask again
        when an answer has ended.
        """
        if self._parallel > 1 and not self._answers.idle:
            return None
        return self._residency.seconds_to_unload()

    def unload_idle(self) -> tuple[Unloaded, ...]:
        """Unload the models whose keep-warm time is over; none while answers run or wait.

        For long-running front ends: call it between answers; with ``parallel: 1`` on the thread
        that answers.
        """
        if self._parallel == 1:
            return self._residency.unload_idle()
        return self._answers.now_or_never(self._residency.unload_idle) or ()

    def close(self) -> None:
        """Free every model; running answers of several are cancelled first.

        Raises:
            EngineFailed: Answers did not end although they were cancelled, because no one reads
                their events.
        """
        if self._parallel == 1:
            self._residency.close()
            return
        for control in list(self._running.values()):
            control.cancel()
        for _ in self._answers.alone(self._close, CLOSE_SECONDS):
            pass

    def _close(self) -> Generator[None, None, None]:
        self._residency.close()
        yield


class LocalAnswerer:
    """Answers the requests of one turn, one at a time, while others answer those of other turns.

    Args:
        answers: Where all answers of the backend run.
        running: Controls of the running answers of the backend, by number.
        counter: Numbers for answers without one.
    """

    def __init__(
        self,
        answers: ConcurrentAnswers,
        running: dict[int, AnswerControl],
        counter: Iterator[int],
    ) -> None:
        self._answers = answers
        self._running = running
        self._counter = counter
        self._control = AnswerControl()
        self._numbers: tuple[int, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of its answers so far, oldest first; shared batches name them."""
        return self._numbers

    def answer(self, request: AnswerRequest, number: int | None = None) -> Iterator[Event]:
        """Answer a request; it waits for its turn while the iterator is read.

        Args:
            number: Number of the answer, which no other running one has; None counts. A caller that
                numbers one answer has to number all answers of the backend.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            ValueError: A running answer has this number.
            ModelUnavailable: The model cannot be loaded.
            ContextOverflow: The prompt does not fit.
            EngineFailed: llama.cpp failed.
        """
        own = next(self._counter) if number is None else number
        self._control = AnswerControl()
        self._numbers = (*self._numbers, own)
        return self._answer(request, own, self._control)

    def _answer(
        self, request: AnswerRequest, number: int, control: AnswerControl
    ) -> Iterator[Event]:
        if self._running.setdefault(number, control) is not control:
            raise ValueError(f"an answer with the number {number} is running")
        try:
            yield from self._answers.answer(request, number, control)
        finally:
            del self._running[number]

    def cancel(self) -> None:
        """End its running answer within one batch, in the queue, in a load or in a batch."""
        self._control.cancel()

    def hurry(self) -> None:
        """End the thinking of its running answer, because its joules are spent."""
        self._control.hurry()
