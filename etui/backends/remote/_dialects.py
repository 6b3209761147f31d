"""The dialects of remote servers: how each kind is asked, and how it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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

_USUAL_KEYS = {name: name for name in ("top_k", "min_p", "repeat_penalty", "repeat_last_n")}


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
        count_key: The parameter that asks for several answers.
        sampling_keys: The parameters of sampling values that not all servers have.
        least_alternatives: Alternatives to each token that have to be asked for.
    """

    kind: BackendKind = "openai"
    joins_votes = False  # many ignore `n` in silence
    joins_probabilities = True
    ends_thinking = False
    gives_probabilities = False  # some refuse the whole request for it
    count_key = "n"
    sampling_keys: Mapping[str, str] = {}
    least_alternatives = 0

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
            **_build_penalties(asked),
        }
        thinks = asked.thinking is True
        limit = "max_completion_tokens" if thinks and self.kind == "openai" else "max_tokens"
        body[limit] = asked.max_tokens
        if asked.stops:
            body["stop"] = list(asked.stops)
        if asked.count > 1:
            body[self.count_key] = asked.count
        for name, key in self.sampling_keys.items():
            body[key] = getattr(asked.sampling, name)
        if options.logit_bias:
            body["logit_bias"] = _build_biases(options.logit_bias)
        if options.raw:
            return self._build_raw(body, asked)
        body["messages"] = [build_message(message) for message in asked.messages]
        if asked.logprobs is not None:
            body["logprobs"] = True
            body["top_logprobs"] = max(self.least_alternatives, asked.logprobs)
        if options.json_schema:
            schema = {"name": "answer", "schema": json.loads(options.json_schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        add_tools(body, asked)
        self._add_thinking(body, asked)
        return HttpRequest("chat/completions", body)

    def build_end_thinking(self, request_id: str) -> HttpRequest:
        """Build the request that ends the thinking of a running answer, where there is one."""
        return HttpRequest(
            "chat/completions/control", {"id": request_id, "action": "reasoning_end"}
        )

    def parse(self, document: Mapping[str, Any]) -> tuple[StreamPart, ...]:
        return parse_chunk(document)

    def check(self, arm: Arm) -> None:
        """Refuse sampling values that the protocol does not have, if the arm names them."""
        given, usual = arm.sampling, Sampling()
        if given.temperature == 0.0:
            return  # greedy: they change nothing
        for name in ("top_k", "min_p", "repeat_penalty"):
            is_named = getattr(arm.sampling_from, name) in ("arm", "option")
            is_changed = getattr(given, name) != getattr(usual, name)
            if is_named and is_changed and name not in self.sampling_keys:
                raise InvalidRequest(
                    f"a backend of kind {self.kind} cannot sample with {name}",
                    "leave it out, or set the `kind` of the backend if it is another one",
                    name,
                )

    def _build_raw(self, body: dict[str, Any], asked: Asked) -> HttpRequest:
        options = asked.options
        if options.json_schema or options.tools:
            raise InvalidRequest("a raw prompt has neither a schema nor tools on a remote backend")
        if options.infill is not None or options.echo:
            raise InvalidRequest(
                "a model of a remote backend cannot fill in the middle, or echo a prompt",
                "choose a model of this machine",
                "suffix" if options.infill is not None else "echo",
            )
        if options.prompt_tokens and self.kind == "openai":
            raise InvalidRequest(
                "a backend of kind openai takes a prompt as text only, not as tokens",
                param="prompt",
            )
        body["prompt"] = list(options.prompt_tokens) or asked.messages[-1].content
        if asked.logprobs is not None:
            body["logprobs"] = max(1, asked.logprobs)
        return HttpRequest("completions", body)

    def _add_thinking(self, body: dict[str, Any], asked: Asked) -> None:
        if asked.thinking is not None:
            body["reasoning_effort"] = find_effort(asked.think_tokens if asked.thinking else 0)


class Ollama(Dialect):
    """Ollama, asked by its native API at the root of the URL."""

    kind: BackendKind = "ollama"
    gives_probabilities = True  # older versions ignore the parameter
    sampling_keys = _USUAL_KEYS

    def build(self, asked: Asked) -> HttpRequest:
        """Build a chat request; Ollama has no raw prompts, no biases and no forced tools."""
        options = asked.options
        if options.raw:
            raise InvalidRequest(
                "a backend of kind ollama takes no raw prompts",
                "send messages, or use another backend",
                "prompt",
            )
        if options.logit_bias:
            raise InvalidRequest(
                "a backend of kind ollama has no biases of tokens", "leave it out", "logit_bias"
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
            "options": {
                "num_predict": asked.max_tokens,
                "temperature": asked.sampling.temperature,
                "top_p": asked.sampling.top_p,
                "seed": asked.sampling.seed,
                **{key: getattr(asked.sampling, name) for name, key in _USUAL_KEYS.items()},
                **_build_penalties(asked),
                **({"stop": list(asked.stops)} if asked.stops else {}),
            },
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

    def parse(self, document: Mapping[str, Any]) -> tuple[StreamPart, ...]:
        """Parse one line; the last one has the tokens and the durations."""
        message = read_mapping(document.get("message"))
        done = document.get("done") is True
        usage = Usage(
            prompt_tokens=read_count(document.get("prompt_eval_count")),
            output_tokens=read_count(document.get("eval_count")),
        )
        timings = Timings(
            *(read_seconds(document.get(f"{phase}_duration"), 1e9) for phase in ("eval", "load"))
        )
        return (
            StreamPart(
                text=read_text(message.get("content")),
                thinking=read_text(message.get("thinking")),
                tools=parse_tools(message.get("tool_calls")),
                probabilities=parse_tokens(read_list(document.get("logprobs"))),
                finish=(read_text(document.get("done_reason")) or "stop") if done else None,
                usage=usage if done else None,
                timings=timings if done else None,
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


class LlamaServer(Dialect):
    kind: BackendKind = "llama-server"
    joins_votes = True
    ends_thinking = True
    gives_probabilities = True
    count_key = "n_cmpl"
    sampling_keys = _USUAL_KEYS
    least_alternatives = 1  # 0 turns the probabilities of the tokens themselves off

    def build(self, asked: Asked) -> HttpRequest:
        request = super().build(asked)
        extra = {"timings_per_token": True, "return_progress": True}
        return replace(request, body={**request.body, **extra})

    def parse(self, document: Mapping[str, Any]) -> tuple[StreamPart, ...]:
        """Parse one chunk, whose ``timings`` count the tokens of the prompt too."""
        first, *others = parse_chunk(document)
        if first.usage is None:
            first = replace(first, usage=timings_usage(document))
        return (first, *others)

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
    kind: BackendKind = "vllm"
    joins_votes = True
    gives_probabilities = True
    sampling_keys: Mapping[str, str] = {
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repetition_penalty",
    }

    def build(self, asked: Asked) -> HttpRequest:
        request = super().build(asked)
        stream = {"include_usage": True, "continuous_usage_stats": True}
        top_k = asked.sampling.top_k or -1
        return replace(request, body={**request.body, "stream_options": stream, "top_k": top_k})

    def check(self, arm: Arm) -> None:
        last_n = arm.sampling.repeat_last_n
        if arm.sampling.repeat_penalty != 1.0 and last_n not in (-1, Sampling().repeat_last_n):
            raise InvalidRequest(
                "vLLM counts repeated tokens in the whole context, not in the last "
                f"{last_n} tokens",
                "leave repeat_last_n out",
                "repeat_last_n",
            )

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


def _build_penalties(asked: Asked) -> dict[str, float]:
    """Build the penalties that all servers know, where there are any."""
    names = ("presence_penalty", "frequency_penalty")
    return {name: value for name in names if (value := getattr(asked.sampling, name))}


def find_effort(think_tokens: int | None) -> str:
    """Find the ``reasoning_effort`` for a thinking budget, which is kept by counting.

    0 asks for no thinking, None for as much as the server likes.
    """
    if think_tokens is None:
        return "high"
    if think_tokens == 0:
        return "none"
    limits = ((256, "low"), (1024, "medium"))
    return next((effort for most, effort in limits if think_tokens <= most), "high")


def build_message(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        document["tool_calls"] = json.loads(message.tool_calls)
        document["content"] = message.content or None
    if message.tool_call_id:
        document["tool_call_id"] = message.tool_call_id
    return document


def _build_biases(biases: Sequence[tuple[int | str, float]]) -> dict[str, float]:
    """Build the map of the API: tokens alone, with -100 for one that is excluded."""
    if any(isinstance(each, str) for each, _ in biases):
        what = "a model of a remote backend takes biases of tokens only, not of texts"
        raise InvalidRequest(what, "name the tokens by their ids", "logit_bias")
    return {str(each): max(-100.0, bias) for each, bias in biases}


def add_tools(body: dict[str, Any], asked: Asked) -> None:
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
    kinds = {each.kind: each for each in (LlamaServer, Vllm, Ollama, Etui)}
    return kinds.get(kind, Dialect)()
