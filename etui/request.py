"""What an answerer is asked: a conversation, an arm, and the model file that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.arm import Arm, DecodePrice
from etui.query import Message

if TYPE_CHECKING:
    from etui.model_spec import ModelSpec


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
    price: DecodePrice | None = None
