"""A question as it enters the house."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, as a chat template takes it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked, with the chat it was asked in.

    Attributes:
        text: The question, never empty.
        system: System prompt of the chat; None leaves it out.
        history: Earlier messages of the chat, oldest first, without the system prompt.
        chat_id: The chat it belongs to; None for a single question.
    """

    text: str
    system: str | None = None
    history: tuple[Message, ...] = ()
    chat_id: str | None = None

    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, ready for a chat template."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.history, Message("user", self.text))
