"""The bodies of ``POST /v1/chat/completions`` and ``/v1/completions``: fields and their bounds."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from etui.server.validation import Body, Lenient

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenLimit = Annotated[int, Field(ge=-1, le=2**31 - 1)]
"""-1 is as many as the context has room for."""
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
ToolName = Annotated[str, Field(pattern=re.compile(r"^[a-zA-Z0-9_-]{1,128}\Z"))]
Stops = Annotated[
    list[str],
    Field(fail_fast=True),
    BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    AfterValidator(lambda stops: [stop for stop in stops if stop]),
]


class StreamOptions(Body):
    """What a stream contains in addition."""

    include_usage: bool = False


class CalledFunction(Body):
    """The function of a tool call in the history."""

    name: ToolName
    arguments: str = Field(max_length=2**20)


class HistoryCall(Lenient):
    """A tool call in the history."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: CalledFunction


class MessageItem(Lenient):
    """One message; ``content`` is text or a list of text parts.

    Clients send messages back with what they were sent (``refusal``, ``annotations``), so further
    fields are ignored, except those with content of other kinds. ``reasoning_content`` counts in
    messages that call tools.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    tool_calls: Annotated[list[HistoryCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    reasoning_content: Any = None
    audio: None = None
    function_call: None = None


class ToolFunction(Body):
    """A function that the model may call."""

    name: ToolName
    description: Annotated[str, Field(max_length=2**16)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Lenient):
    """A tool that the model may call."""

    type: Literal["function"]
    function: ToolFunction


class NamedFunction(Body):
    """The name of a function."""

    name: ToolName


class NamedTool(Body):
    """The choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class ToolChoice(Body):
    """The choice of a tool, in its field, so that errors name its path."""

    tool_choice: NamedTool


class SchemaFormat(Body):
    """A JSON schema with its name."""

    name: Annotated[str, Field(max_length=128)] = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of the answer; llama.cpp's form has the schema beside the type."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TemplateOptions(Body):
    """Variables of the chat template: whether the model thinks, and nothing else."""

    enable_thinking: bool | None = None


class OfModel(Body):
    """A body that names a model."""

    model: Annotated[str, Field(max_length=256)] = ""


class SampledBody(OfModel):
    """What the bodies of chats and of raw prompts have in common."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Probability | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=2**20)] | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Any = None
    presence_penalty: Penalty | None = None
    seed: Seed | None = None
    max_tokens: TokenLimit | None = None
    n: Count = 1
    stop: Stops = Field(default_factory=list)
    metadata: Any = None


class ChatBody(SampledBody):
    """The body of a request for a chat completion."""

    messages: Annotated[list[MessageItem], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateOptions | None = None


class CompletionBody(SampledBody):
    """The body of a request for a completion of a text."""

    prompt: Any
    suffix: str | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0)] | None = None
    best_of: Count | None = None


class ExtraFile(Lenient):
    """Another text of the project."""

    text: str
    filename: str = ""


class InfillBody(SampledBody):
    """The body of llama.cpp's request to fill in the middle of a text."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Annotated[list[ExtraFile], Field(max_length=1024)] = Field(default_factory=list)
    prompt: str = ""
