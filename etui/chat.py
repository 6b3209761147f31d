"""A user question and the conversation it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, in the form chat templates expect.

    Attributes:
        role: Who wrote it; ``tool`` is the result of a tool call.
        content: Its text.
        tool_calls: Tools that an assistant's message calls, a JSON array in the OpenAI form; empty
            without any.
        tool_call_id: Id of the call that a tool's message answers; empty for other roles.
    """

    role: Role
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What a client asks of the form of an answer; the defaults ask for nothing.

    Attributes:
        stop: Strings that end the answer, in addition to those of the model.
        json_schema: JSON schema that the answer has to match, as JSON text; empty for any text.
        tools: Tools that the model may call, a JSON array in the OpenAI form; empty for none.
        tool_choice: ``auto``, ``none``, ``required``, or ``function:NAME`` for one tool.
        parallel_tool_calls: Whether one answer may call several tools.
        top_logprobs: Number of alternatives reported with each token of the answer; 0 reports the
            log-probabilities of its tokens alone, None reports nothing.
        count: Number of answers that are drawn after one prefill.
        raw: The text of the last message is the prompt as it is, without the chat template.
        prompt_tokens: Token ids of the prompt, with ``raw``; empty tokenizes the text.
        number: The answer is a number: votes are counted by the last number of each.
        continues: Id of the turn whose answer goes on; the last message is its text so far. The
            engine goes on with its tokens if it still has them. Empty for a new answer.
    """

    stop: tuple[str, ...] = ()
    json_schema: str = ""
    tools: str = ""
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    top_logprobs: int | None = None
    count: int = 1
    raw: bool = False
    prompt_tokens: tuple[int, ...] = ()
    number: bool = False
    continues: str = ""


DEFAULT_OUTPUT = OutputOptions()
"""Text as the model writes it."""


@dataclass(frozen=True, slots=True)
class Query:
    """A user question with its conversation.

    Attributes:
        text: The question, never empty.
        system: System prompt of the chat; None for none.
        history: Earlier messages of the chat, oldest first, without the system prompt.
        chat_id: Id of the chat; None for a single question.
        last: The last message, if it is not the question (a tool's result after it, or the begin of
            the answer); the question is then a part of ``history``. None for most queries.
        options: What a client asks of the form of the answer.
        owner: Name of the client's key. Prompts of different owners share no prefix in the cache.
        metadata: Facts that a client gave, as pairs of key and value, which policies can read.
        parent_id: Id of the turn before it in the chat; None for the first one.
    """

    text: str
    system: str | None = None
    history: tuple[Message, ...] = ()
    chat_id: str | None = None
    last: Message | None = None
    options: OutputOptions = DEFAULT_OUTPUT
    owner: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    parent_id: str | None = None

    def messages(self) -> tuple[Message, ...]:
        """Return the whole conversation, ready for a chat template."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.history, self.last or Message("user", self.text))
