"""The dialect of Ollama: its own ``/api/chat``, since only that reports the time of each phase."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etui.arm import Arm, Sampling
from etui.backends.remote.openai_chunks import parse_tokens, parse_tools
from etui.backends.remote.pieces import (
    Asked,
    HttpRequest,
    Piece,
    Timings,
    Usage,
    read_count,
    read_error,
    read_list,
    read_mapping,
    read_seconds,
    read_text,
)
from etui.chat import Message
from etui.config.backend_spec import BackendKind
from etui.errors import InvalidRequest


class Ollama:
    """Ollama, asked by its native API at the root of the URL."""

    kind: BackendKind = "ollama"
    joins_votes = False
    joins_probabilities = True
    ends_thinking = False
    gives_probabilities = True  # older versions ignore the parameter

    def build(self, asked: Asked) -> HttpRequest:
        """Build a chat request.

        Raises:
            InvalidRequest: Ollama has no raw prompts with a stop by tokens, and no forced tools.
        """
        options = asked.options
        if options.raw:
            raise InvalidRequest(
                "a backend of kind ollama takes no raw prompts",
                "send messages, or use another backend",
                "prompt",
            )
        if options.tools and options.tool_choice not in ("auto", "none"):
            raise InvalidRequest(
                "a backend of kind ollama cannot force a tool call",
                "set tool_choice to auto",
                "tool_choice",
            )
        body: dict[str, Any] = {
            "model": asked.model,
            "messages": _build_messages(asked.messages),
            "stream": True,
            "options": _build_options(asked.sampling, asked.max_tokens, asked.stops),
        }
        if options.json_schema:
            body["format"] = json.loads(options.json_schema)
        if options.tools and options.tool_choice == "auto":
            body["tools"] = json.loads(options.tools)
        if asked.thinking is not None:
            body["think"] = asked.thinking
        if asked.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": asked.logprobs}
        return HttpRequest("//api/chat", body, lines=True)

    def build_hurry(self, request_id: str) -> HttpRequest:
        """Refuse: Ollama has no such request."""
        raise InvalidRequest("a backend of kind ollama cannot end the thinking of an answer")

    def check(self, arm: Arm) -> None:
        """Accept every value."""

    def parse(self, document: Mapping[str, Any]) -> tuple[Piece, ...]:
        """Parse one line; the last one has the tokens and the durations."""
        message = read_mapping(document.get("message"))
        tools = parse_tools(message.get("tool_calls"))
        done = document.get("done") is True
        finish = None
        if done:
            finish = read_text(document.get("done_reason")) or "stop"
        return (
            Piece(
                text=read_text(message.get("content")),
                thinking=read_text(message.get("thinking")),
                tools=tools,
                probabilities=parse_tokens(read_list(document.get("logprobs"))),
                finish=finish,
                usage=_parse_usage(document) if done else None,
                timings=_parse_durations(document) if done else None,
                error=read_error(document.get("error")),
                last=done,
            ),
        )


def _build_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Build messages; a tool's result has the name of the tool instead of the id of the call."""
    names: dict[str, str] = {}
    documents = []
    for message in messages:
        document: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = []
            for call in map(read_mapping, read_list(json.loads(message.tool_calls))):
                function = read_mapping(call.get("function"))
                name = read_text(function.get("name"))
                names[read_text(call.get("id"))] = name
                calls.append(
                    {"function": {"name": name, "arguments": _arguments(function.get("arguments"))}}
                )
            document["tool_calls"] = calls
        if message.tool_call_id:
            document["tool_name"] = names.get(message.tool_call_id, "")
        documents.append(document)
    return documents


def _arguments(value: object) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return read_mapping(value)


def _build_options(sampling: Sampling, max_tokens: int, stops: tuple[str, ...]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_predict": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "repeat_penalty": sampling.repeat_penalty,
        "repeat_last_n": sampling.repeat_last_n,
    }
    if stops:
        options["stop"] = list(stops)
    return options


def _parse_usage(document: Mapping[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=read_count(document.get("prompt_eval_count")),
        output_tokens=read_count(document.get("eval_count")),
    )


def _parse_durations(document: Mapping[str, Any]) -> Timings:
    return Timings(
        prefill_seconds=read_seconds(document.get("prompt_eval_duration"), 1e9),
        decode_seconds=read_seconds(document.get("eval_duration"), 1e9),
        load_seconds=read_seconds(document.get("load_duration"), 1e9),
    )
