"""Answer requests in this process: residency loads the model, reasoning drives it.

``ask`` and ``bench`` use this class directly; the app uses it in a child process
(:mod:`etui.backends.process` and :mod:`etui.backends.worker`).
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etui.backends.base import AnswerRequest
from etui.config.config import Config
from etui.errors import ModelUnavailable
from etui.events import Event, Residence, Unloaded

if TYPE_CHECKING:
    from etui.engine.llama_session import LlamaSession
    from etui.models.spec import ModelSpec

__all__ = ["AnswerRequest", "LocalBackend"]


class LocalBackend:
    """Backend that runs llama.cpp in this process.

    One answer runs at a time; ``cancel`` and ``hurry`` may be called from any thread.

    Args:
        config: Folders and settings.
        trials: Load a file that etui does not know in a process of its own first, so that a crash
            of llama.cpp is an error of the answer and not the end of this process.
    """

    def __init__(self, config: Config, *, trials: bool = False) -> None:
        from etui.engine.residency import Residency

        self._residency = Residency(config, trials=trials)
        self._cancelled = threading.Event()
        self._spent = threading.Event()

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Answer a request.

        Yields:
            The events of the answer; the last is ``Finished``.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            ContextOverflow: The prompt does not fit.
            EngineFailed: llama.cpp failed.
        """
        from etui.reasoning.answer import answer

        if request.path is None:
            raise ModelUnavailable(f"{request.model.name} has no file on this machine")
        self._cancelled.clear()
        self._spent.clear()
        session = yield from self._residency.session(request.model, request.path, request.draft)
        session.threads.begin_answer()
        try:
            for event in answer(request.messages, request.arm, session, self, request.price):
                yield from session.threads.take_changes()
                yield event
        finally:
            self._residency.answered(request.model.name)

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Generator[Residence, None, LlamaSession]:
        """Load a model before a question is asked; the load runs while the iterator is read.

        Args:
            model: The model.
            path: Its file.
            draft: The model that drafts tokens for it, and its file; None if none is needed.

        Yields:
            The models unloaded for room, and the load; nothing if the model is in memory.

        Returns:
            The model's session, for computations without an answer.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            EngineFailed: llama.cpp failed.
        """
        return (yield from self._residency.session(model, path, draft))

    def unload(self, model: str) -> Iterator[Unloaded]:
        """Unload a model between two answers; yields nothing if it is not in memory."""
        return self._residency.unload(model)

    def forget(self) -> None:
        """Clear the prefix caches between two answers, so that the next one reuses nothing."""
        self._residency.forget()

    def cancel(self) -> None:
        """End the running answer within one batch."""
        self._cancelled.set()

    def hurry(self) -> None:
        """End the thinking of the running answer, because its joules are spent."""
        self._spent.set()

    def cancelled(self) -> bool:
        """Return whether the running answer was cancelled."""
        return self._cancelled.is_set()

    def spent(self) -> bool:
        """Return whether the running answer has spent its joules."""
        return self._spent.is_set()

    def keep_warm(self, model: str, seconds: float | None) -> None:
        """Set how long a model is kept after its last answer; None keeps it."""
        self._residency.keep_warm(model, seconds)

    def seconds_to_unload(self) -> float | None:
        """Return the seconds until the next idle unload; None if none is due."""
        return self._residency.seconds_to_unload()

    def unload_idle(self) -> tuple[Unloaded, ...]:
        """Unload the models whose keep-warm time is over.

        For long-running front ends: call it between answers, on the thread that answers.
        """
        return self._residency.unload_idle()

    def close(self) -> None:
        """Free every model."""
        self._residency.close()
