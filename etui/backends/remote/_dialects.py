"""The dialects of remote servers: how each kind is asked, and how it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from etui.arm import Arm, Sampling
from etui.backends.remote._stream_parts import (
    Asked,
    HttpRequest,
    StreamPart,
    Timings,
    Usage,
    parse_chunk,
    parse_tokens,
    parse_tools,
    read_count,
    read_error,
    read_list,
    read_mapping,
    read_seconds,
    read_text,
    timings_usage,
)
from etui.chat import Message
from etui.config.backend_spec import BackendKind
from etui.errors import InvalidRequest


class Dialect:
    """How a server is asked and answers; pure.

    This one is for any server with the OpenAI protocol: only what all of them know is sent. Other
    kinds change what differs.

    Attributes:
        joins_votes: Whether one request can draw several answers after one prefill.
        joins_probabilities: Whether such a request can ask for probabilities too.
        ends_thinking: Whether another request can end the thinking of a running answer.
        gives_probabilities: Whether probabilities are asked for although no client asked for them,
            since every server of the kind has them; they give an answer its confidence.
    """

    kind: BackendKind = "openai"
    joins_votes = False  # many ignore `n` in silence
    joins_probabilities = True
    ends_thinking = False
    gives_probabilities = False  # some refuse the whole request for it

    def build(self, asked: Asked) -> HttpRequest:
        """Build a chat completion, or a text completion for a raw prompt."""
        options = asked.options
        body: dict[str, Any] = {
            "model": asked.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": asked.sampling.temperature,
            "top_p": asked.sampling.top_p,
            "seed": asked.sampling.seed,
        }
        thinks = asked.thinking is True
        limit = "max_completion_tokens" if thinks and self.kind == "openai" else "max_tokens"
        body[limit] = asked.max_tokens
        if asked.stops:
            body["stop"] = list(asked.stops)
        if asked.count > 1:
            body[self._count_key()] = asked.count
        self._add_sampling(body, asked.sampling)
        if options.raw:
            return self._build_raw(body, asked)
        body["messages"] = [build_message(message) for message in asked.messages]
        if asked.logprobs is not None:
            body["logprobs"] = True
            body["top_logprobs"] = self._count_alternatives(asked.logprobs)
        if options.json_schema:
            schema = {"name": "answer", "schema": json.loads(options.json_schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        add_tools(body, asked)
        self._add_thinking(body, asked)
        return HttpRequest("chat/completions", body)

    def build_end_thinking(self, request_id: str) -> HttpRequest:
        """Refuse: there is no such request in the protocol."""
        raise InvalidRequest(f"a backend of kind {self.kind} cannot end the thinking of an answer")

    def parse(self, document: Mapping[str, Any]) -> tuple[StreamPart, ...]:
        """Parse one chunk."""
        return parse_chunk(document)

    def check(self, arm: Arm) -> None:
        """Refuse sampling values that the protocol does not have, if the arm names them."""
        given, usual = arm.sampling, Sampling()
        if given.temperature == 0.0:
            return  # greedy: they change nothing
        for name in ("top_k", "min_p", "repeat_penalty"):
            origin = getattr(arm.sampling_from, name)
            if origin in ("arm", "option") and getattr(given, name) != getattr(usual, name):
                raise InvalidRequest(
                    f"a backend of kind {self.kind} cannot sample with {name}",
                    "leave it out, or set the `kind` of the backend if it is another one",
                    name,
                )

    def _count_key(self) -> str:
        return "n"

    def _count_alternatives(self, wanted: int) -> int:
        return wanted

    def _build_raw(self, body: dict[str, Any], asked: Asked) -> HttpRequest:
        options = asked.options
        if options.json_schema or options.tools:
            raise InvalidRequest("a raw prompt has neither a schema nor tools on a remote backend")
        if options.prompt_tokens and self.kind == "openai":
            raise InvalidRequest(
                "a backend of kind openai takes a prompt as text only, not as tokens",
                param="prompt",
            )
        body["prompt"] = list(options.prompt_tokens) or asked.messages[-1].content
        if asked.logprobs is not None:
            body["logprobs"] = max(1, asked.logprobs)
        return HttpRequest("completions", body)

    def _add_sampling(self, body: dict[str, Any], sampling: Sampling) -> None:
        """Add the values that only this kind knows."""

    def _add_thinking(self, body: dict[str, Any], asked: Asked) -> None:
        """Add the switch of the thinking, for models that have one."""
        if asked.thinking is not None:
            body["reasoning_effort"] = find_effort(asked.think_tokens if asked.thinking else 0)


class Ollama(Dialect):
    """Ollama, asked by its native API at the root of the URL."""

    kind: BackendKind = "ollama"
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

    def check(self, arm: Arm) -> None:
        """Accept every value."""

    def parse(self, document: Mapping[str, Any]) -> tuple[StreamPart, ...]:
        """Parse one line; the last one has the tokens and the durations."""
        message = read_mapping(document.get("message"))
        tools = parse_tools(message.get("tool_calls"))
        done = document.get("done") is True
        finish = None
        if done:
            finish = read_text(document.get("done_reason")) or "stop"
        return (
            StreamPart(
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


class LlamaServer(Dialect):
    """llama-server of llama.cpp."""

    kind: BackendKind = "llama-server"
    joins_votes = True
    ends_thinking = True
    gives_probabilities = True

    def build(self, asked: Asked) -> HttpRequest:
        """Build a request with timings and the progress of the prompt in every chunk."""
        request = super().build(asked)
        extra = {"timings_per_token": True, "return_progress": True}
        return replace(request, body={**request.body, **extra})

    def build_end_thinking(self, request_id: str) -> HttpRequest:
        """Build the control call that ends the thinking."""
        return HttpRequest(
            "chat/completions/control", {"id": request_id, "action": "reasoning_end"}
        )

    def parse(self, document: Mapping[str, Any]) -> tuple[StreamPart, ...]:
        """Parse one chunk, whose ``timings`` count the tokens of the prompt too."""
        first, *others = parse_chunk(document)
        if first.usage is None:
            first = replace(first, usage=timings_usage(document))
        return (first, *others)

    def check(self, arm: Arm) -> None:
        """Accept every value."""

    def _count_key(self) -> str:
        return "n_cmpl"

    def _count_alternatives(self, wanted: int) -> int:
        return max(1, wanted)  # 0 turns the probabilities of the tokens themselves off

    def _add_sampling(self, body: dict[str, Any], sampling: Sampling) -> None:
        body |= {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": sampling.repeat_last_n,
        }

    def _add_thinking(self, body: dict[str, Any], asked: Asked) -> None:
        if asked.thinking is None:
            return
        body["chat_template_kwargs"] = {asked.switch or "enable_thinking": asked.thinking}
        if not asked.thinking:
            body["reasoning_effort"] = "none"
            return
        body["reasoning_control"] = True
        if asked.think_tokens is not None:
            body["thinking_budget_tokens"] = asked.think_tokens


class Vllm(Dialect):
    """vLLM's OpenAI server."""

    kind: BackendKind = "vllm"
    joins_votes = True
    gives_probabilities = True

    def build(self, asked: Asked) -> HttpRequest:
        """Build a request whose chunks have the usage so far."""
        request = super().build(asked)
        stream = {"include_usage": True, "continuous_usage_stats": True}
        return replace(request, body={**request.body, "stream_options": stream})

    def check(self, arm: Arm) -> None:
        """Accept every value that vLLM has."""
        last_n = arm.sampling.repeat_last_n
        if arm.sampling.repeat_penalty != 1.0 and last_n not in (-1, Sampling().repeat_last_n):
            raise InvalidRequest(
                "vLLM counts repeated tokens in the whole context, not in the last "
                f"{last_n} tokens",
                "leave repeat_last_n out",
                "repeat_last_n",
            )

    def _add_sampling(self, body: dict[str, Any], sampling: Sampling) -> None:
        body |= {
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repeat_penalty,
        }

    def _add_thinking(self, body: dict[str, Any], asked: Asked) -> None:
        if asked.thinking is None:
            return
        body["chat_template_kwargs"] = {asked.switch or "enable_thinking": asked.thinking}
        if asked.thinking and asked.think_tokens is not None:
            body["thinking_token_budget"] = asked.think_tokens


class Etui(Dialect):
    """Another etui (``etui serve``), whose answers have the joules of its own meter."""

    kind: BackendKind = "etui"
    joins_votes = True
    joins_probabilities = False
    gives_probabilities = True


def find_effort(think_tokens: int | None) -> str:
    """Find the ``reasoning_effort`` for a thinking budget; the budget itself is kept by counting.

    Args:
        think_tokens: The budget; 0 asks for no thinking, None for as much as the server likes.
    """
    if think_tokens is None:
        return "high"
    if think_tokens == 0:
        return "none"
    limits = ((256, "low"), (1024, "medium"))
    return next((effort for most, effort in limits if think_tokens <= most), "high")


def build_message(message: Message) -> dict[str, Any]:
    """Build a message of the OpenAI protocol."""
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        document["tool_calls"] = json.loads(message.tool_calls)
        document["content"] = message.content or None
    if message.tool_call_id:
        document["tool_call_id"] = message.tool_call_id
    return document


def add_tools(body: dict[str, Any], asked: Asked) -> None:
    """Add the tools that the model may call, and which it must."""
    options = asked.options
    if not options.tools:
        return
    body["tools"] = json.loads(options.tools)
    kind, _, name = options.tool_choice.partition(":")
    body["tool_choice"] = (
        {"type": "function", "function": {"name": name}} if kind == "function" else kind
    )
    if not options.parallel_tool_calls:
        body["parallel_tool_calls"] = False


def choose_dialect(kind: BackendKind) -> Dialect:
    """Return the dialect of a kind."""
    kinds = {each.kind: each for each in (LlamaServer, Vllm, Ollama, Etui)}
    return kinds.get(kind, Dialect)()
