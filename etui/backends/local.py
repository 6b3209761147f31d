"""Answer requests in this process: residency loads the model, reasoning drives it.

``ask`` and ``bench`` use this class directly; the app uses it in a child process
(:mod:`etui.backends.process` and :mod:`etui.backends.worker`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from etui.backends.base import AnswerRequest, AnswerSoFar, Cancel
from etui.config.config import Config
from etui.engine.batching.admission import (
    MOST_PICTURE_TOKENS,
    AdmissionQueue,
    Reservation,
    bound_prompt,
    estimate_need,
)
from etui.engine.batching.shared_session import AnswerCancelled, RequestSession, SharedSession
from etui.engine.compute_thread import Step
from etui.engine.llama_session import LlamaSession
from etui.errors import EngineFailed, InvalidRequest, ModelUnavailable
from etui.events import Event, Finished, Residence, SharedBatch, Unloaded
from etui.models.spec import ModelSpec

CLOSE_SECONDS = 60.0
"""Longest wait of ``close`` for cancelled answers; one takes the time of a batch, or of a load."""

SMALLEST_CHUNK, LARGEST_CHUNK = 32, 256
"""Bounds of the prompt tokens in a batch while others decode."""


class LocalBackend:
    """Runs llama.cpp in this process; everything may be called from any thread.

    Requests begin in the order of their arrival. A request waits while another model answers, while
    its model has no room for it along with the running ones, and while as many answers run as may
    run (``Config.parallel``); those behind it wait as well. Loads, unloads and ``forget``
    wait until the answers before them have ended. Several answers of one model share batches.

    Args:
        trials: Load a file that etui does not know in a process of its own first, so that a crash
            of llama.cpp is an error of the answer and not the end of this process.
        parent: Process id of the etui for which this process computes; None if it does all itself.
        keep: Whether KV caches outlive the context, as the settings say. Measured work computes
            all of its prompts.

    Attributes:
        on_batch: Called after each shared batch, before the events that follow from it; None
            reports none.
    """

    def __init__(
        self,
        config: Config,
        *,
        trials: bool = False,
        parent: int | None = None,
        keep: bool = False,
    ) -> None:
        from etui.engine.kv_folder import open_store
        from etui.engine.residency import Residency

        self.on_batch: Callable[[SharedBatch], None] | None = None
        store = open_store(config) if keep else None
        self._residency = Residency(config, trials=trials, parent=parent, store=store)
        self._parallel = max(1, config.parallel)
        self._queue = AdmissionQueue()
        self._shared: SharedSession | None = None
        self._running: dict[int, Cancel] = {}
        self._numbers = itertools.count(1)

    def answer(
        self, request: AnswerRequest, cancel: Cancel | None = None, number: int | None = None
    ) -> Iterator[Event]:
        """Answer a request; it waits for its turn while the iterator is read.

        Args:
            number: Number of the answer, which no other running one has; None counts. A caller that
                numbers one answer has to number all answers of the backend.

        Raises:
            ValueError: A running answer has this number.
            ModelUnavailable: The model cannot be loaded.
            ContextOverflow: The prompt does not fit.
            CacheFull: The answers filled the cache, and this one is the youngest.
            EngineFailed: llama.cpp failed.
        """
        from etui.reasoning.answer import answer

        cancel = Cancel() if cancel is None else cancel
        number = next(self._numbers) if number is None else number
        cancel.numbers = (*cancel.numbers, number)
        if self._running.setdefault(number, cancel) is not cancel:
            raise ValueError(f"an answer with the number {number} is running")
        so_far = AnswerSoFar(time.monotonic_ns())
        with ExitStack() as ending:
            ending.callback(self._running.pop, number)
            path = request.path
            if path is None:
                raise ModelUnavailable(f"{request.model.name} has no file on this machine")
            if request.pictures and request.model.mmproj is None:
                raise InvalidRequest(
                    f"{request.model.name} cannot read pictures: it has no projector",
                    "leave the pictures out, choose a model with `mmproj` in models.yaml, or add "
                    f"`mmproj: FILE` to {request.model.name} if there is one for it",
                    "messages",
                )
            ticket = self._queue.enter()
            ending.callback(self._queue.leave, ticket)
            cancel.listen(partial(self._queue.cancel, ticket))
            admission = _Admission(request)
            if not self._queue.await_turn(ticket, partial(self._may_begin, admission, path)):
                ending.close()
                yield so_far.stop("stopped while waiting for other answers")
                return
            found = self._residency.find(request.model, path, request.draft)
            if found is None or self._queue.running == 0:
                found = yield from self._residency.session(request.model, path, request.draft)
            if request.price is not None:
                found.set_price(request.price.joules_per_prompt_token)
            self._residency.hold(request.model.name)
            ending.callback(self._residency.release, request.model.name)
            shared = self._share(request.model.name, found)
            session = shared.join(
                number, request.owner, admission.need(), request.turn_id, request.pictures
            )
            ending.callback(session.leave)
            if self._parallel > 1:
                cancel.listen(session.cancel)
            else:  # it waits for no other, and a signal may cancel while its thread holds a lock
                cancel.listen()
            self._queue.begin(ticket)
            if (texts := request.options.embed) is not None:
                events = session.embed(texts, cancel.cancelled)
            elif why := found.embedder.why_no_answers:
                name = request.model.name
                raise InvalidRequest(f"{name} {why}", "choose a chat model")
            else:
                events = answer(
                    request.messages, request.arm, session, cancel, request.price, request.options
                )
            try:
                for event in events:
                    so_far.add(event)
                    if isinstance(event, Finished):  # free all before it is read, for the next one
                        for _ in events:  # reasoning closes its sequences
                            pass
                        ending.close()
                    yield from session.take_changes()
                    yield event
            except AnswerCancelled:
                ending.close()
                yield so_far.stop("stopped while thinking")

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Generator[Residence, None, LlamaSession]:
        """Load a model before a question is asked, while the iterator is read.

        It returns the model's session, for computations without an answer.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            EngineFailed: llama.cpp failed.
        """
        with self._alone():
            return (yield from self._residency.session(model, path, draft))

    def describe_gpus(self) -> tuple[str, ...]:
        """Describe the GPUs that models are put on, in the words of llama.cpp, which is loaded."""
        return tuple(gpu.description for gpu in self._residency.gpus())

    def unload(self, model: str) -> Iterator[Unloaded]:
        """Unload a model between two answers; yields nothing if it is not in memory."""
        with self._alone():
            yield from self._residency.unload(model)

    def forget(self) -> None:
        """Clear the prefix caches between two answers, so that the next one reuses nothing."""
        with self._alone():
            self._residency.forget()

    def keep_warm(self, model: str, seconds: float | None) -> None:
        """Set how long a model is kept after its last answer; None keeps it."""
        self._residency.keep_warm(model, seconds)

    def seconds_to_unload(self) -> float | None:
        """Return the seconds until the next idle unload; None if none is due.

        It is also None while an answer runs or waits: ask again when it has ended.
        """
        return self._residency.seconds_to_unload() if self._queue.idle else None

    def longest_step(self) -> tuple[Step, float] | None:
        """Return the step of one request that runs for longest, and its seconds; None for none."""
        shared = self._shared
        return None if shared is None else shared.session.steps.longest()

    def unload_idle(self) -> tuple[Unloaded, ...]:
        """Unload the models whose keep-warm time is over; none while answers run or wait.

        For long-running front ends: call it between answers, on the thread that loads.
        """
        ticket = self._queue.enter_if_idle()
        if ticket is None:
            return ()
        try:
            return self._residency.unload_idle()
        finally:
            self._queue.leave(ticket)

    def close(self) -> None:
        """Cancel the running answers, and free every model.

        Raises:
            EngineFailed: Answers did not end although they were cancelled, because no one reads
                their events.
        """
        for cancel in list(self._running.values()):
            cancel.cancel()
        with self._alone(CLOSE_SECONDS):
            self._residency.close()

    @contextmanager
    def _alone(self, wait_seconds: float | None = None) -> Iterator[None]:
        """Run the body when all answers before it have ended; nothing else begins meanwhile."""
        ticket = self._queue.enter()
        try:
            if not self._queue.await_turn(ticket, lambda running: running == 0, wait_seconds):
                raise EngineFailed(
                    f"answers still run after {wait_seconds:g} seconds", "read or close them first"
                )
            yield
        finally:
            self._queue.leave(ticket)

    def _may_begin(self, admission: _Admission, path: Path, running: int) -> bool:
        """Return whether the first request in the queue may begin while the others run."""
        if running == 0:
            return True
        request, shared = admission.request, self._shared
        if running >= self._parallel or shared is None:
            return False
        found = self._residency.find(request.model, path, request.draft)
        return found is shared.session and admission.fits(shared)

    def _share(self, name: str, session: LlamaSession) -> SharedSession:
        if self._shared is None or self._shared.session is not session:
            several = self._parallel > 1
            if several:
                session.share_among_clients()
            limit = choose_prompt_limit(session.options.batch_tokens)
            self._shared = SharedSession(
                session,
                name,
                self._report if several else None,
                prompt_limit=limit if several else None,
                on_begin=self._queue.ask_again,
            )
        return self._shared

    def _report(self, batch: SharedBatch) -> None:
        if self.on_batch is not None:
            self.on_batch(batch)


class _Admission:
    """What a request needs, measured no more exactly than it takes to decide."""

    def __init__(self, request: AnswerRequest) -> None:
        self.request = request
        self._prompt: list[int] | None = None
        options = request.options
        if options.prompt_tokens:
            self._bound = len(options.prompt_tokens)
        else:
            self._bound = bound_prompt(message.content for message in request.messages)
            self._bound += len(options.tools.encode("utf-8", "replace"))
            if options.infill is not None:
                files = options.infill.files or ()
                texts = (options.infill.prefix, options.infill.suffix, options.infill.prompt)
                self._bound += bound_prompt((*texts, *(text for file in files for text in file)))
            self._bound += len(request.pictures) * MOST_PICTURE_TOKENS

    def need(self) -> Reservation:
        """Return what to reserve; the prompt is corrected when it is opened."""
        length = self._bound if self._prompt is None else len(self._prompt)
        return estimate_need(self.request.arm, length, self.request.options.count)

    def fits(self, shared: SharedSession) -> bool:
        """Return whether it fits along with the running requests."""
        reserved = shared.room_by_reservation()
        if self._prompt is None:
            if reserved.fits(self.need()):
                return True
            self._prompt = self._measure(shared)
        need = self.need().limit(*shared.capacity)
        return reserved.fits(need) or shared.measure_room(self._prompt, self.request.owner).fits(
            need
        )

    def _measure(self, shared: SharedSession) -> list[int]:
        from etui.reasoning.answer_plan import answer_prompt
        from etui.reasoning.output import Output

        options, messages = self.request.options, self.request.messages
        # It has not joined, so that no batch waits for it.
        reader = RequestSession(shared, owner=self.request.owner, pictures=self.request.pictures)
        if options.prompt_tokens:
            return list(options.prompt_tokens)
        output = Output(options)
        return answer_prompt(messages, self.request.arm, reader, output).tokens


def choose_prompt_limit(batch_tokens: int) -> int:
    """Choose how many prompt tokens a batch may have while others decode: half of a batch.

    A smaller chunk would compute the prompt at a higher cost, and a larger one would hold up the
    tokens of the others for longer.
    """
    return min(LARGEST_CHUNK, max(SMALLEST_CHUNK, batch_tokens // 2))
