"""What is asked of a remote server, and what a part of its answer says: values without HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etui.arm import Sampling
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions
from etui.events import Prefilling, TokenLogprob, ToolCall

MOST_CHOICES = 256


def parse_chunk(chunk: Mapping[str, Any]) -> tuple[StreamPart, ...]:
    """Parse one chunk of a chat or of a text completion, streamed or whole.

    Returns:
        One piece for each of its choices; one piece with index 0 for a chunk without choices.
    """
    choices = [choice for choice in read_list(chunk.get("choices")) if isinstance(choice, dict)]
    first, *others = [_parse_choice(choice) for choice in choices[:MOST_CHOICES]] or [StreamPart()]
    first = replace(
        first,
        usage=parse_usage(chunk.get("usage")),
        timings=_parse_timings(chunk),
        progress=_parse_progress(chunk.get("prompt_progress")),
        request_id=read_text(chunk.get("id"))[:200],
        server=read_text(chunk.get("system_fingerprint"))[:100],
        energy=_find_energy(chunk),
        error=read_error(chunk.get("error")),
    )
    return (first, *others)


def _parse_choice(choice: Mapping[str, Any]) -> StreamPart:
    delta = read_mapping(choice.get("delta") or choice.get("message"))
    finish = choice.get("finish_reason")
    return StreamPart(
        index=read_count(choice.get("index")) or 0,
        text=read_text(delta.get("content")) or read_text(choice.get("text")),
        thinking=read_text(delta.get("reasoning_content")) or read_text(delta.get("reasoning")),
        tools=parse_tools(delta.get("tool_calls")),
        probabilities=parse_logprobs(choice.get("logprobs")),
        finish=finish if isinstance(finish, str) and finish else None,
    )


def parse_usage(value: object) -> Usage | None:
    """Parse ``usage``; None without it. A number that cannot be right is None."""
    if not isinstance(value, dict):
        return None
    prompt = read_mapping(value.get("prompt_tokens_details"))
    output = read_mapping(value.get("completion_tokens_details"))
    return Usage(
        prompt_tokens=read_count(value.get("prompt_tokens")),
        cached_tokens=read_count(prompt.get("cached_tokens")),
        output_tokens=read_count(value.get("completion_tokens")),
        thinking_tokens=read_count(output.get("reasoning_tokens")),
    )


def parse_tools(value: object) -> tuple[ToolCall, ...]:
    """Parse parts of tool calls; arguments may be text, or an object as Ollama sends them."""
    parts = []
    for place, call in enumerate(read_list(value)):
        function = read_mapping(read_mapping(call).get("function"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        index = read_count(read_mapping(call).get("index"))
        parts.append(
            ToolCall(
                t_ns=0,
                index=place if index is None else min(index, MOST_CHOICES),
                call_id=read_text(read_mapping(call).get("id")),
                name=read_text(function.get("name")),
                arguments=read_text(arguments),
            )
        )
    return tuple(parts)


def parse_logprobs(value: object) -> tuple[TokenLogprob, ...]:
    """Parse ``logprobs`` of a choice, in the form of chats or in that of text completions."""
    logprobs = read_mapping(value)
    if "content" in logprobs:
        return parse_tokens(read_list(logprobs.get("content")))
    tokens = read_list(logprobs.get("tokens"))
    values = read_list(logprobs.get("token_logprobs"))
    tops = read_list(logprobs.get("top_logprobs")) or [None] * len(tokens)
    return parse_tokens(
        [
            {
                "token": token,
                "logprob": logprob,
                "top_logprobs": [
                    {"token": name, "logprob": other} for name, other in read_mapping(top).items()
                ],
            }
            for token, logprob, top in zip(tokens, values, tops, strict=False)
            if isinstance(token, str)
        ]
    )


def parse_tokens(tokens: Sequence[Any]) -> tuple[TokenLogprob, ...]:
    """Parse tokens with ``logprob``, ``bytes`` and ``top_logprobs``."""
    found = []
    for token in map(read_mapping, tokens):
        logprob = _read_logprob(token.get("logprob"))
        if logprob is not None:
            top = [
                (_read_piece(other), known)
                for other in map(read_mapping, read_list(token.get("top_logprobs")))
                if (known := _read_logprob(other.get("logprob"))) is not None
            ]
            top.sort(key=lambda each: -each[1])
            found.append(TokenLogprob(0, _read_piece(token), logprob, tuple(top)))
    return tuple(found)


def _read_piece(token: Mapping[str, Any]) -> tuple[int, ...]:
    numbers = read_list(token.get("bytes"))
    if numbers and all(type(n) is int and 0 <= n < 256 for n in numbers):
        return tuple(numbers)
    return tuple(read_text(token.get("token")).encode("utf-8", "replace"))


def _read_logprob(value: object) -> float | None:
    logprob = _read_number(value)
    if logprob is None or math.isnan(logprob) or logprob == math.inf or logprob > 1e-3:
        return None  # no log-probability; servers round tiny values up to a little over 0
    return max(-1e9, min(0.0, logprob))


def _parse_timings(chunk: Mapping[str, Any]) -> Timings | None:
    for name, key in (("timings", "predicted_ms"), ("metrics", "generation_time_ms")):
        if times := read_mapping(chunk.get(name)):
            return Timings(decode_seconds=read_seconds(times.get(key), 1000.0))
    return None


def timings_usage(chunk: Mapping[str, Any]) -> Usage | None:
    """Read the token counts of llama-server's ``timings``, which every chunk has if asked."""
    timings = read_mapping(chunk.get("timings"))
    computed, cached = read_count(timings.get("prompt_n")), read_count(timings.get("cache_n"))
    if computed is None:
        return None
    return Usage(
        prompt_tokens=computed + (cached or 0),
        cached_tokens=cached,
        output_tokens=read_count(timings.get("predicted_n")),
    )


def _parse_progress(value: object) -> Prefilling | None:
    progress = read_mapping(value)
    done, total = read_count(progress.get("processed")), read_count(progress.get("total"))
    if done is None or total is None or done > total:
        return None
    return Prefilling(0, done, total)


def _find_energy(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find the energy document of another etui, at the top or in ``usage``."""
    for place in (chunk, read_mapping(chunk.get("usage"))):
        energy = place.get("energy")
        if isinstance(energy, dict) and energy:
            return energy
    return None


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

    decode_seconds: float | None = None
    load_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StreamPart:
    """What one part of a stream says about one of its answers, in events without a time."""

    index: int = 0  # Number of the answer, from 0
    text: str = ""
    thinking: str = ""
    tools: tuple[ToolCall, ...] = ()  # New parts of tool calls
    probabilities: tuple[TokenLogprob, ...] = ()  # Of its tokens; empty if the server sends none
    finish: str | None = None  # Why it ended (``stop``, ``length``); None while it goes on
    usage: Usage | None = None
    timings: Timings | None = None
    progress: Prefilling | None = None
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


def _read_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def read_seconds(value: object, per_second: float = 1.0) -> float | None:
    """Read a duration in units of which ``per_second`` are a second; None if it cannot be one."""
    seconds = _read_number(value)
    if seconds is None or not math.isfinite(seconds) or seconds < 0.0:
        return None
    return seconds / per_second


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
    return value if isinstance(value, dict) else {}


def read_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def read_error(value: object) -> str:
    """Read the message of an error, in the form of OpenAI or as a bare text; empty without one."""
    if value is None or value is False:
        return ""
    message = value if isinstance(value, str) else read_mapping(value).get("message")
    text = "".join(char if char.isprintable() else " " for char in read_text(message)[:2_000])
    text = " ".join(text.split())
    return text[:500] if text else "an error without a message"
