"""A user question and the conversation it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, in the form chat templates expect."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Query:
    """A user question with its conversation.

    Attributes:
        text: The question, never empty.
        system: System prompt of the chat; None for none.
        history: Earlier messages of the chat, oldest first, without the system prompt.
        chat_id: Id of the chat; None for a single question.
    """

    text: str
    system: str | None = None
    history: tuple[Message, ...] = ()
    chat_id: str | None = None

    def messages(self) -> tuple[Message, ...]:
        """Return the whole conversation, ready for a chat template."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.history, Message("user", self.text))
