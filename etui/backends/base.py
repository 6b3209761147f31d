"""The request for an answer, and the protocols of the backends that answer it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from etui.arm import Arm, TokenCost
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions

if TYPE_CHECKING:
    from etui.events import Event, Residence, SharedBatch
    from etui.models.spec import ModelSpec


class AnswerControl:
    """Fulfils :class:`etui.reasoning.control.Control`; safe from any thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._spent = threading.Event()
        self._wake: Callable[[], None] | None = None

    def cancel(self) -> None:
        """End the answer within one batch, and wake it if it waits."""
        self._cancelled.set()
        if (wake := self._wake) is not None:
            wake()

    def hurry(self) -> None:
        """End the thinking of the answer, because its joules are spent."""
        self._spent.set()

    def cancelled(self) -> bool:
        """Return whether the answer was cancelled."""
        return self._cancelled.is_set()

    def spent(self) -> bool:
        """Return whether the answer has spent its joules."""
        return self._spent.is_set()

    def wake_by(self, wake: Callable[[], None]) -> None:
        """Set how the answer is woken where it waits now; at once if it was cancelled before."""
        self._wake = wake
        if self._cancelled.is_set():
            wake()


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A request for one answer."""

    model: ModelSpec  # The entry of models.yaml
    path: Path | None  # Its GGUF file, already verified; None for a model of a remote backend
    messages: tuple[Message, ...]  # The conversation, the question last
    arm: Arm
    chat_id: str | None = None  # Id of the chat, to reuse its cache; None for a single question
    price: TokenCost | None = None
    """Joules per token of this model on this machine; None if unknown."""
    draft: tuple[ModelSpec, Path] | None = None
    """The model that drafts tokens for it and its GGUF file, already verified; None if the arm uses
    none, or there is none on this machine."""
    options: OutputOptions = DEFAULT_OUTPUT  # What the client asks of the form of the answer
    owner: str = ""  # Name of the client's key; prompts of other owners share no prefix with it
    turn_id: str = ""  # Id of the turn, under which its answer can be continued; empty for none


class Answerer(Protocol):
    """Answers requests, in this process or in a child process."""

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Yield the events of one answer; the last is ``Finished``."""

    def cancel(self) -> None:
        """End the running answer within one batch; safe from any thread."""

    def hurry(self) -> None:
        """End the thinking and answer now, because a budget is spent; safe from any thread."""


class ModelHost(Answerer, Protocol):
    """Answers requests, and keeps models in memory between them."""

    def load(
        self, model: ModelSpec, path: Path, draft: tuple[ModelSpec, Path] | None = None
    ) -> Iterable[Residence]:
        """Load a model and its draft model before a question; yield loads and unloads.

        The work is done while the result is iterated. Nothing is yielded if the model is in memory
        already.
        """

    def unload(self, model: str) -> Iterable[Residence]:
        """Unload a model between two answers; yield nothing if it is not in memory."""

    def close(self) -> None:
        """Unload every model."""


class NumberedAnswerer(Answerer, Protocol):
    """Answers the requests of one turn, one at a time, while others answer those of other turns.

    ``cancel`` and ``hurry`` concern its own running answer, in a queue, a load or a batch.
    """

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of its answers so far, oldest first; shared batches name them."""


class ConcurrentHost(ModelHost, Protocol):
    """Answers several requests at a time."""

    on_batch: Callable[[SharedBatch], None] | None
    """Called after each shared batch, before the events that follow from it; None reports none. It
    must return fast."""

    def open_answerer(self) -> NumberedAnswerer:
        """Return an answerer for the requests of one turn."""
