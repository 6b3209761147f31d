"""The request for an answer, and what gives answers: in this process, or in a child process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from etui.arm import Arm, TokenCost
from etui.chat import Message

if TYPE_CHECKING:
    from etui.events import Event, Residence
    from etui.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One answer to give.

    Attributes:
        model: The entry of models.yaml.
        path: Its GGUF file, checked already.
        messages: The conversation, the question last.
        arm: How to answer.
        chat_id: The chat, so that its cache is found again; None for a single question.
        price: What tokens of this model cost here; None where that is not known.
    """

    model: ModelSpec
    path: Path
    messages: tuple[Message, ...]
    arm: Arm
    chat_id: str | None = None
    price: TokenCost | None = None


class Answerer(Protocol):
    """Answers requests: in this process, or in a child process."""

    def answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Yield the events of one answer; the last is ``Finished``."""

    def cancel(self) -> None:
        """End the running answer within one batch; safe from any thread."""

    def hurry(self) -> None:
        """End the thinking and answer, since a budget is spent; safe from any thread."""


class ModelHost(Answerer, Protocol):
    """Answer requests, and keep models in memory between them."""

    def load(self, model: ModelSpec, path: Path) -> Iterable[Residence]:
        """Load a model ahead of a question, while the result is read; yield what happened.

        Nothing is yielded when the model is in memory already.
        """

    def unload(self, model: str) -> Iterable[Residence]:
        """Unload a model between two answers; yield nothing when it is not in memory."""

    def close(self) -> None:
        """Free every model."""
