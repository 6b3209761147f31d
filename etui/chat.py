"""A user question and the conversation it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, in the form chat templates expect."""

    role: Role  # Who wrote it; `tool` is the result of a tool call
    content: str
    tool_calls: str = ""
    """Tools that an assistant's message calls, a JSON array in the OpenAI form; empty without any.
    """
    tool_call_id: str = ""  # Id of the call that a tool's message answers; empty for other roles
    thinking: str = ""
    """Thought before the calls of an assistant's message, which is given back to the model until
    the next question; empty for other messages."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that messages show; each has its ``mark`` where the picture is."""

    data: str  # A PNG or JPEG file, in base64
    sha256: str  # Of the file
    width: int  # Pixels
    height: int

    @property
    def mark(self) -> str:
        """The placeholder of the picture in a message, and in the log."""
        return f"[picture {self.sha256[:16]}]"


@dataclass(frozen=True, slots=True)
class TextsToEmbed:
    """Texts whose vectors are asked for in place of an answer."""

    texts: tuple[str | tuple[int, ...], ...]  # Each a text, or the ids of its tokens
    query: str | None = None
    """What the texts, none of them as ids, are to be ranked for. A model that ranks gives each a
    score; of any other model, the vector of the query comes before those of the texts. None ranks
    nothing."""
    truncate: bool = False  # Whether a text that is too long for the model is cut, or refused


@dataclass(frozen=True, slots=True)
class Infill:
    """A text with a gap that the model fills."""

    prefix: str
    suffix: str
    prompt: str = ""
    """Begin of the text in the gap, in which special tokens are read; for most clients empty."""
    files: tuple[tuple[str, str], ...] | None = None
    """Other texts of the project, as pairs of file name and text; None also leaves out the header
    of a project that some models know."""


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What a client asks of the form of an answer; the defaults ask for nothing."""

    stop: tuple[str, ...] = ()  # Strings that end the answer, in addition to those of the model
    json_schema: str = ""
    """JSON schema that the answer has to match, as JSON text; empty for any text."""
    tools: str = ""
    """Tools that the model may call, a JSON array in the OpenAI form; empty for none."""
    tool_choice: str = "auto"  # `auto`, `none`, `required`, or `function:NAME` for one tool
    parallel_tool_calls: bool = True  # Whether one answer may call several tools
    strict_tools: bool = False
    """Whether arguments match the parameters of their tool also where the model need not call one.
    """
    top_logprobs: int | None = None
    """Number of alternatives reported with each token of the answer; 0 reports the log-
    probabilities of its tokens alone, None reports nothing."""
    count: int = 1  # Number of answers that are drawn after one prefill
    raw: bool = False
    """The text of the last message is the prompt as it is, without the chat template."""
    prompt_tokens: tuple[int, ...] = ()
    """Token ids of the prompt, with ``raw``; empty tokenizes the text."""
    infill: Infill | None = None
    """The gap to fill, with ``raw``; it replaces the text of the last message."""
    echo: bool = False
    """Report the tokens of the prompt with their log-probabilities; ``top_logprobs`` says with how
    many alternatives."""
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    """Added to the logits of tokens before sampling: pairs of a token, or a text for all of its
    tokens, and a bias; minus infinity excludes a token."""
    number: bool = False  # The answer is a number: votes are counted by the last number of each
    continues: str = ""
    """Id of the turn whose answer goes on; the last message is its text so far. The engine goes on
    with its tokens if it still has them. Empty for a new answer."""
    embed: TextsToEmbed | None = None  # Asks for vectors, and for no answer at all


DEFAULT_OUTPUT = OutputOptions()
"""Text as the model writes it."""


@dataclass(frozen=True, slots=True)
class Query:
    """A user question with its conversation."""

    text: str  # The question, never empty
    system: str | None = None  # System prompt of the chat; None for none
    history: tuple[Message, ...] = ()
    """Earlier messages of the chat, oldest first, without the system prompt."""
    chat_id: str | None = None  # Id of the chat; None for a single question
    last: Message | None = None
    """The last message, if it is not the question (a tool's result after it, or the begin of the
    answer); the question is then a part of ``history``. None for most queries."""
    options: OutputOptions = DEFAULT_OUTPUT  # What a client asks of the form of the answer
    owner: str = ""
    """Name of the client's key. Prompts of different owners share no prefix in the cache."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Facts that a client gave, as pairs of key and value, which policies can read."""
    parent_id: str | None = None  # Id of the turn before it in the chat; None for the first one
    pictures: tuple[Picture, ...] = ()  # Those whose marks its messages have
    history_tokens: int | None = None
    """Estimated tokens of ``history``, where they are known without reading it again."""
    takes_own_system: bool = False
    """Whether the system prompt is that of the model that answers (``OwnSettings``)."""

    def answered_by(self, own_system: str | None) -> Query:
        """Return the query for a model with this system prompt of its own; None for none."""
        return replace(self, system=own_system) if self.takes_own_system else self

    def messages(self) -> tuple[Message, ...]:
        """Return the whole conversation, ready for a chat template."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.history, self.last or Message("user", self.text))
