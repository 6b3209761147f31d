"""Answers requests in this process: residency finds the model, reasoning drives it.

``ask`` and ``bench`` use this class directly; the app reaches the same class through the child
process (``engine/child.py`` -> ``worker.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etui.backends.base import AnswerRequest
from etui.config.config import Config
from etui.events import Event, Residence, Unloaded

if TYPE_CHECKING:
    from etui.engine.llama_session import LlamaSession
    from etui.models.spec import ModelSpec

__all__ = ["AnswerRequest", "LocalBackend"]


class LocalBackend:
    """llama.cpp in this process.

    One answer runs at a time; ``cancel`` and ``hurry`` may come from any thread.
    """

    def __init__(self, config: Config) -> None:
        from etui.engine.residency import Residency

        self._residency = Residency(config)
        self._cancelled = threading.Event()
        self._spent = threading.Event()

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Events of one answer; the last is ``Finished``.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            ContextOverflow: The prompt does not fit.
            EngineFailed: llama.cpp gave up.
        """
        from etui.reasoning.answer import answer

        self._cancelled.clear()
        self._spent.clear()
        session = yield from self._residency.session(request.model, request.path)
        try:
            yield from answer(request.messages, request.arm, session, self, request.price)
        finally:
            self._residency.answered(request.model.name)

    def load(self, model: ModelSpec, path: Path) -> Generator[Residence, None, LlamaSession]:
        """Bring a model into memory ahead of a question: what gave way for it, and its load.

        Nothing comes when it was there. The load runs while the iterator is read; it returns the
        model's session, for who computes on it without an answer.

        Raises:
            ModelUnavailable: The model cannot be loaded.
            EngineFailed: llama.cpp gave up.
        """
        return (yield from self._residency.session(model, path))

    def unload(self, model: str) -> Iterator[Unloaded]:
        """Give a model up between two answers; nothing comes when it was not in memory."""
        return self._residency.unload(model)

    def forget(self) -> None:
        """Let the next answer reuse nothing of those before it; between two answers."""
        self._residency.forget()

    def cancel(self) -> None:
        """End the running answer within one batch."""
        self._cancelled.set()

    def hurry(self) -> None:
        """The joules are spent: end the thought and answer with what is there."""
        self._spent.set()

    def cancelled(self) -> bool:
        """Whether the running answer was cancelled."""
        return self._cancelled.is_set()

    def spent(self) -> bool:
        """Whether the running answer has spent its joules."""
        return self._spent.is_set()

    def seconds_to_unload(self) -> float | None:
        """Seconds until ``unload_idle`` has something to do; None if it never will."""
        return self._residency.seconds_to_unload()

    def unload_idle(self) -> tuple[Unloaded, ...]:
        """Unload the models that were kept warm for long enough.

        For a front end that stays: call it between answers, on the thread that answers.
        """
        return self._residency.unload_idle()

    def close(self) -> None:
        """Free every model."""
        self._residency.close()
