"""What is asked of a remote server, and what a part of its answer says: values without HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etui.arm import Sampling
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions

MOST_TOKENS = 1_000_000_000
"""A larger count of tokens is a fault of the server, and counts as not reported."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for one or several answers, before a dialect writes it."""

    model: str
    messages: tuple[Message, ...]  # The conversation, ready to send
    sampling: Sampling
    max_tokens: int  # Most tokens of each answer, thinking included
    stops: tuple[str, ...] = ()  # Strings that end an answer
    options: OutputOptions = DEFAULT_OUTPUT  # What the client asks of the form of the answer
    thinking: bool | None = None
    """Whether the model is to think by its own switch; None leaves it to the server."""
    think_tokens: int | None = None  # Thinking budget, for servers that keep one
    switch: str | None = None
    """Variable of the chat template that turns thinking on or off; None is the usual one."""
    count: int = 1  # Number of answers of the same prompt
    logprobs: int | None = None
    """Number of alternatives with each token; None asks for no probabilities."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A POST request."""

    path: str  # Path below the base URL, or below its root if it begins with `//`
    body: Mapping[str, Any]  # The JSON document to send
    lines: bool = False
    """Whether the answer is one JSON document a line; else it is a stream of events."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a server reports; None where it does not, or where the number cannot be right."""

    prompt_tokens: int | None = None  # Tokens of the prompt, cached ones included
    cached_tokens: int | None = None  # Those of them that the server had computed before
    output_tokens: int | None = None  # Decoded tokens, thinking included
    thinking_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that a server reports for its phases; None where it does not."""

    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    load_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the prompt is computed."""

    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """A token of the answer with its log-probability (nats) and the most likely alternatives."""

    piece: tuple[int, ...]
    logprob: float
    top: tuple[tuple[tuple[int, ...], float], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolPart:
    """A part of a tool call, as in :class:`etui.events.ToolCall`."""

    index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What one part of a stream says about one of its answers.

    Attributes:
        usage, timings, progress: What the server reports; None if it does not here.
    """

    index: int = 0  # Number of the answer, from 0
    text: str = ""
    thinking: str = ""
    tools: tuple[ToolPart, ...] = ()  # New parts of tool calls
    probabilities: tuple[TokenProbability, ...] = ()
    """Its tokens with their log-probabilities; empty if the server sends none."""
    finish: str | None = None
    """Why the answer ended (``stop``, ``length``, ``tool_calls``); None while it goes on."""
    usage: Usage | None = None
    timings: Timings | None = None
    progress: Progress | None = None
    request_id: str = ""  # Id of the answer at the server; empty if it has none
    server: str = ""  # Version of the server (`system_fingerprint`); empty if it does not say
    energy: Mapping[str, Any] | None = field(default=None, hash=False)
    """The energy document of another etui; None without one."""
    error: str = ""  # The server's error, which ends the stream; empty without one
    last: bool = False  # Whether the server says that nothing follows

    @property
    def tokens(self) -> int:
        """Number of its tokens: those with a probability, or else 1 for any new text.

        Servers send one token at a time, but may join some, so the second is an estimate, which
        the count of :class:`Usage` replaces in the end.
        """
        if self.probabilities:
            return len(self.probabilities)
        return 1 if self.text or self.thinking or self.tools else 0


def read_count(value: object) -> int | None:
    """Read a number of tokens; None unless it is a whole number of 0 and more."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MOST_TOKENS else None


def read_seconds(value: object, per_second: float = 1.0) -> float | None:
    """Read a duration in units of which ``per_second`` are a second; None if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value) / per_second
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0.0 else None


def read_text(value: object) -> str:
    """Return a text; an empty one for anything else.

    Half a surrogate pair, which JSON can name and no encoding has, is replaced.
    """
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def read_list(value: object) -> list[Any]:
    """Return a JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else []


def read_error(value: object) -> str:
    """Read the message of an error, in the form of OpenAI or as a bare text; empty without one."""
    if value is None or value is False:
        return ""
    message = value if isinstance(value, str) else read_mapping(value).get("message")
    text = "".join(char if char.isprintable() else " " for char in read_text(message)[:2_000])
    text = " ".join(text.split())
    return text[:500] if text else "an error without a message"
