"""The request for an answer, the backends that answer it, and the token that ends a turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from etui.arm import Arm, TokenCost
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions, Picture
from etui.events import Answer, Event, Finished, Prefilled, Residence, Status, Thought

if TYPE_CHECKING:
    from etui.models.spec import ModelSpec


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
    pictures: tuple[Picture, ...] = ()  # Those whose marks the messages have


class Cancel:
    """Ends a turn, or the thinking of its running answer; safe from any thread.

    It is made with the turn and handed down with each of its requests: every layer that waits or
    computes asks it, and says how it is to be woken. A cancelled turn stays cancelled, so that an
    answer which begins later ends at once. It fulfils :class:`etui.reasoning.decoding.Control`.

    Attributes:
        numbers: Numbers of the turn's answers on this machine so far, oldest first; shared batches
            name them.
    """

    def __init__(self) -> None:
        self.numbers: tuple[int, ...] = ()
        self._cancelled = False
        self._spent = False
        self.listen()

    def cancel(self) -> None:
        """End the turn within one batch, wherever it is; repeatable."""
        self._cancelled = True
        self._on_cancel()

    def end_thinking(self) -> None:
        """End the thinking of the running answer, because a budget is spent."""
        self._spent = True
        self._on_spent()

    def cancelled(self) -> bool:
        """Return whether the turn is to end."""
        return self._cancelled

    def spent(self) -> bool:
        """Return whether the running answer has spent its budget."""
        return self._spent

    def begin_answer(self) -> None:
        """Note that an answer begins, whose budget is not spent yet."""
        self._spent = False
        self.listen()

    def listen(
        self,
        on_cancel: Callable[[], object] = lambda: None,
        on_spent: Callable[[], object] = lambda: None,
    ) -> None:
        """Set how the running answer is woken where it waits now; at once if it is due already."""
        self._on_cancel, self._on_spent = on_cancel, on_spent
        if self._cancelled:
            on_cancel()
        if self._spent:
            on_spent()


@dataclass(slots=True)
class AnswerSoFar:
    """What an answer has yielded, so that one that is interrupted still has an end."""

    started_ns: int
    prefilled: Prefilled | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    thinking_end_ns: int | None = None
    answer: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    answer_tokens: int = 0
    thinking_tokens: int = 0

    def add(self, event: Event) -> None:
        """Add one event."""
        if isinstance(event, Prefilled):
            self.prefilled = event
            self.started_ns = event.start_ns
        elif isinstance(event, Thought | Answer):
            if event.tokens:
                self.first_token_ns = self.first_token_ns or event.t_ns
                self.last_token_ns = event.t_ns
            if isinstance(event, Thought):
                self.thinking.append(event.text)
                self.thinking_tokens += event.tokens
                self.thinking_end_ns = event.t_ns
            else:
                self.answer.append(event.text)
                self.answer_tokens += event.tokens

    def build_end(self, end_ns: int, status: Status, why: str) -> Finished:
        """Build the final event from the events so far."""
        prefilled = self.prefilled
        prefill_end_ns = prefilled.end_ns if prefilled else end_ns
        return Finished(
            start_ns=self.started_ns,
            prefill_end_ns=prefill_end_ns,
            thinking_end_ns=max(prefill_end_ns, self.thinking_end_ns or 0),
            end_ns=end_ns,
            first_token_ns=self.first_token_ns,
            status=status,
            why=why,
            answer="".join(self.answer),
            thinking="".join(self.thinking),
            prompt_tokens=prefilled.prompt_tokens if prefilled else 0,
            cached_tokens=prefilled.cached_tokens if prefilled else 0,
            computed_tokens=prefilled.computed_tokens if prefilled else 0,
            thinking_tokens=self.thinking_tokens,
            output_tokens=self.thinking_tokens + self.answer_tokens,
        )

    def stop(self, why: str) -> Finished:
        """Build the end of an answer that was cancelled in the queue or in a probe."""
        end = self.build_end(time.monotonic_ns(), "stopped", why)
        return replace(
            end,
            end_ns=max(end.prefill_end_ns, self.last_token_ns or 0),
            answer=end.answer.strip(),
            thinking=end.thinking.strip(),
        )


class Answerer(Protocol):
    """Answers requests, each for a turn of its own."""

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        """Yield the events of one answer; the last is ``Finished``."""


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


@dataclass(frozen=True, slots=True)
class LongStep:
    """A step of one request that takes so long that others may wait for it."""

    name: str
    """A :data:`etui.engine.compute_thread.Step`; ``engine`` if its process does not respond."""
    seconds: float
