"""Answer requests in this process: residency loads the model, reasoning drives it.

``ask`` and ``bench`` use this class directly; the app uses it in a child process
(:mod:`etui.backends.process` and :mod:`etui.backends.worker`).
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etui.backends.answer_control import AnswerControl
from etui.backends.base import AnswerRequest
from etui.config.config import Config
from etui.events import Event, Residence, Unloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from etui.backends.concurrent_answers import ConcurrentAnswers
    from etui.engine.llama_session import LlamaSession
    from etui.events import SharedBatch
    from etui.models.spec import ModelSpec

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
        from etui.backends.concurrent_answers import ConcurrentAnswers
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
        from etui.backends.concurrent_answers import reason, require_path

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
