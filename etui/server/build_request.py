"""Build the turn that a request asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.chat import Message, OutputOptions, Query
from etui.errors import EtuiError
from etui.runtime.overrides import Overrides
from etui.runtime.turn_request import TurnRequest
from etui.server.chat_request import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    ChatBody,
    CompletionBody,
    ResponseFormat,
    ToolChoice,
)
from etui.server.errors import ApiError, invalid, quote, to_api_error, unsupported
from etui.server.validation import (
    MOST_TOKENS,
    dump_schema,
    read_stop,
    refuse_more,
    validate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from etui.server.chat_request import MessageItem
    from etui.server.context import ServerContext, ServerSettings


_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class Conversation:
    """A conversation as etui sees it.

    Attributes:
        system: System prompt; None for none. It gathers all system and developer messages, since
            most chat templates accept only one, at the beginning.
        history: The messages before the last one.
        question: Text of the last question of the user.
        last: The last message, if it is not the question.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        systems = [message.content for message in messages if message.role == "system"]
        others = [message for message in messages if message.role != "system"]
        questions = [message for message in others if message.role == "user"]
        if not questions:
            raise invalid("messages: a message of the role user is needed", "messages")
        self.system = "\n\n".join(systems) or None
        self.question = questions[-1].content
        self.last = None if others[-1].role == "user" else others[-1]
        self.history = tuple(others[:-1])


def read_conversation(items: Sequence[MessageItem], most: int) -> Conversation:
    """Read the messages of a request.

    Raises:
        ApiError: There are too many, no question, content that is no text, or a tool's result
            without a call; status 400.
    """
    if len(items) > most:
        raise invalid(f"messages: at most {most} are accepted; got {len(items)}", "messages")
    called: set[str] = set()
    messages = []
    for index, item in enumerate(items):
        messages.append(_read_message(item, f"messages[{index}]", called))
    return Conversation(messages)


def join_text(content: Any, param: str) -> str:
    """Return content as text: a text, or the joined text parts of a list.

    Args:
        param: Its field, for errors.

    Raises:
        ApiError: It has parts that are no text, which are never fetched; status 400.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{param} has to be a text or a list of text parts", param)
    texts = []
    for index, part in enumerate(content):
        place = f"{param}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS:
            if isinstance(kind, str):
                what = f"parts of the type {quote(kind, 32)} are not supported"
                raise unsupported(place, f"{place}: {what}")
            raise invalid(f"{place} has to be an object with a type", place)
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise invalid(f"{place}.text has to be a text", f"{place}.text")
        texts.append(text)
    return "".join(texts)


def _read_message(item: MessageItem, place: str, called: set[str]) -> Message:
    calls = item.tool_calls or []
    if calls and item.role != "assistant":
        raise invalid(f"{place}.tool_calls: only the assistant calls tools", f"{place}.tool_calls")
    if item.role == "tool":
        if item.tool_call_id is None or item.tool_call_id not in called:
            param = f"{place}.tool_call_id"
            raise invalid(f"{param} has to be the id of a call in an earlier message", param)
        return Message(
            "tool",
            join_text(item.content, f"{place}.content"),
            tool_call_id=item.tool_call_id,
        )
    if item.content is None:
        if not calls:
            raise invalid(f"{place}.content is missing", f"{place}.content")
        text = ""
    else:
        text = join_text(item.content, f"{place}.content")
    called.update(call.id for call in calls)
    role = "system" if item.role == "developer" else item.role
    listed = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
        for call in calls
    ]
    written = json.dumps(listed, ensure_ascii=False, separators=(",", ":")) if listed else ""
    return Message(role, text, tool_calls=written)


HARMLESS = frozenset(
    {
        "user",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",  # a guess of the answer that may make it faster
        "cache_prompt",  # llama-server; the prompt's prefix is cached anyway
        "timings_per_token",
        "return_progress",
    }
)
"""They change no answer: whose request it is, and how it is stored, queued or cached."""


_NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    "frequency_penalty": lambda value: value == 0,
    "presence_penalty": lambda value: value == 0,
    "repetition_penalty": lambda value: value == 1,
    "repeat_penalty": lambda value: value == 1,
    "logit_bias": lambda value: value in ({}, []),
    "modalities": lambda value: value == ["text"],
    "verbosity": lambda value: value == "medium",
    "functions": lambda value: value == [],
    "function_call": lambda value: value in ("none", "auto"),
    "suffix": lambda value: value == "",
    "echo": lambda value: value is False,
    "best_of": lambda value: value == 1,
    "audio": lambda value: False,
    "web_search_options": lambda value: False,
    "top_k": lambda value: False,
    "min_p": lambda value: False,
    "chat_template": lambda value: False,
    "documents": lambda value: False,
    "images": lambda value: False,
    "grammar": lambda value: False,
    "json_schema": lambda value: False,
    "guided_json": lambda value: False,
    "structured_outputs": lambda value: False,
    "ignore_eos": lambda value: value is False,
    "min_tokens": lambda value: value == 0,
    "options": lambda value: value == {},
    "keep_alive": lambda value: False,
    "truncation": lambda value: value == "disabled",
    "background": lambda value: value is False,
}
"""Well-known parameters that etui does not support, with the values that ask for nothing.

These are accepted, since many clients always send them.
"""


def take_known(body: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the parameters of a request that etui uses; a null is as good as none.

    Raises:
        ApiError: A parameter is not supported with its value, or not known at all; status 400.
    """
    used = {}
    for name, value in body.items():
        if name in known:
            if value is not None:
                used[name] = value
        elif value is None or name in HARMLESS:
            continue
        elif name in _NEUTRAL:
            if not _asks_nothing(name, value):
                raise unsupported(name)
        else:
            raise _unknown(name)
    return used


def _asks_nothing(name: str, value: Any) -> bool:
    if isinstance(value, bool) and name not in ("echo", "ignore_eos", "background"):
        return False  # True == 1 in Python
    return _NEUTRAL[name](value)


def _unknown(name: str) -> ApiError:
    shown = quote(name)
    return invalid(f"unknown parameter: {shown}", param=shown, code="unknown_parameter")


DEFAULT_MODELS = ("", "default", "etui")
"""Ids of what ``etui serve`` was started with, for clients that insist on one."""

_MOST_PROMPT_TOKENS = 2**18
_LARGEST_TOKEN = 2**22
"""No vocabulary is larger; the engine compares with that of the model."""


def parse_chat(document: Mapping[str, Any]) -> ChatBody:
    """Parse the body of a chat completion.

    Raises:
        ApiError: It is not valid, or asks for what etui does not support; status 400.
    """
    return validate(ChatBody, take_known(document, CHAT_FIELDS))


def parse_completion(document: Mapping[str, Any]) -> CompletionBody:
    """Parse the body of a completion.

    Raises:
        ApiError: It is not valid, or asks for what etui does not support; status 400.
    """
    if document.get("best_of") is not None and document["best_of"] == document.get("n"):
        document = {name: value for name, value in document.items() if name != "best_of"}
    return validate(CompletionBody, take_known(document, COMPLETION_FIELDS))


def build_chat_turn(
    body: ChatBody, context: ServerContext, *, endpoint: str, key: str, request_id: str
) -> TurnRequest:
    """Build the turn of a chat completion.

    Args:
        endpoint: Path of the request.
        key: Name of the client's key.

    Raises:
        ApiError: A value is out of its bounds (400), or the model is unknown (404).
    """
    conversation = read_conversation(body.messages, context.settings.max_messages)
    query = Query(
        conversation.question,
        system=conversation.system,
        history=conversation.history,
        last=conversation.last,
        options=_build_options(body, context.settings),
        owner=key,
    )
    overrides = replace(
        parse_model(body.model, context),
        temperature=body.temperature,
        top_p=body.top_p,
        seed=fold_seed(body.seed),
        max_tokens=cut_tokens(body.max_completion_tokens or body.max_tokens),
        lenient=True,
    )
    return TurnRequest(
        query,
        overrides,
        endpoint=endpoint,
        key=key,
        request_id=request_id,
        effort=_read_effort(body),
        metadata=body.metadata or {},
    )


def build_completion_turn(
    body: CompletionBody, context: ServerContext, *, endpoint: str, key: str, request_id: str
) -> TurnRequest:
    """Build the turn of a completion of a raw prompt; arguments as in ``build_chat_turn``.

    Raises:
        ApiError: A value is out of its bounds (400), or the model is unknown (404).
    """
    settings = context.settings
    text, tokens = _read_prompt(body.prompt)
    refuse_more(body.n, settings.max_n, "n", "answers")
    if body.logprobs is not None:
        refuse_more(body.logprobs, settings.max_top_logprobs, "logprobs", "alternatives")
    options = OutputOptions(
        stop=read_stop(body.stop, settings.max_stop, settings.max_stop_characters),
        top_logprobs=body.logprobs,
        count=body.n,
        raw=True,
        prompt_tokens=tokens,
    )
    overrides = replace(
        parse_model(body.model, context),
        reasoning="direct",
        temperature=body.temperature,
        top_p=body.top_p,
        seed=fold_seed(body.seed),
        max_tokens=cut_tokens(body.max_tokens),
        lenient=True,
    )
    return TurnRequest(
        Query(text, options=options, owner=key),
        overrides,
        endpoint=endpoint,
        key=key,
        request_id=request_id,
        metadata=body.metadata or {},
    )


def parse_model(text: str, context: ServerContext) -> Overrides:
    """Return the policy, arm or model that the id of a request names.

    Raises:
        ApiError: There is none, status 404, with the nearest names.
    """
    settings = context.settings
    if text in DEFAULT_MODELS:
        return Overrides(model=settings.model, policy=settings.policy)
    try:
        if context.parse_model is not None:
            return context.parse_model(text)
        from etui.runtime.model_ids import parse_model_id

        return parse_model_id(text, context.runtime)
    except EtuiError as error:
        raise to_api_error(error) from error


def fold_seed(seed: int | None) -> int | None:
    """Return a seed within the engine's range of 31 bits; None for none."""
    return None if seed is None else seed % 2**31


def cut_tokens(limit: int | None) -> int | None:
    """Cut a limit of tokens to the largest that any context may have; None for none."""
    return None if limit is None else min(limit, MOST_TOKENS)


def _build_options(body: ChatBody, settings: ServerSettings) -> OutputOptions:
    refuse_more(body.n, settings.max_n, "n", "answers")
    top = body.top_logprobs
    if top is not None:
        refuse_more(top, settings.max_top_logprobs, "top_logprobs", "alternatives")
        if top and not body.logprobs:
            raise invalid("top_logprobs needs `logprobs: true`", "top_logprobs")
    tools, choice = _read_tools(body, settings)
    schema = read_format(body.response_format, settings.max_schema_bytes)
    if schema and tools and choice != "none":
        raise unsupported(
            "response_format", "response_format cannot be combined with tools that may be called"
        )
    return OutputOptions(
        stop=read_stop(body.stop, settings.max_stop, settings.max_stop_characters),
        json_schema=schema,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        top_logprobs=(top or 0) if body.logprobs else None,
        count=body.n,
    )


def read_format(form: ResponseFormat | None, limit_bytes: int) -> str:
    """Return the JSON schema of a response format as text; empty for any text.

    Raises:
        ApiError: There is no schema, or it is too large; status 400.
    """
    if form is None or form.type == "text":
        return ""
    if form.type == "json_object":
        return '{"type":"object"}'
    param = "response_format.json_schema"
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise invalid(f"{param}.schema is missing", f"{param}.schema")
    return dump_schema(form.json_schema.schema_, limit_bytes, f"{param}.schema")


def _read_tools(body: ChatBody, settings: ServerSettings) -> tuple[str, str]:
    """Return the tools as JSON text, and the choice among them."""
    names = [tool.function.name for tool in body.tools or ()]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"tools[{index}].function.name"
            raise invalid(f"{param}: {name} is the name of an earlier tool", param)
    choice = read_tool_choice(body.tool_choice, names)
    if not names:
        return "", "auto"
    listed = [
        {
            "type": "function",
            "function": tool.function.model_dump(exclude_none=True, exclude={"strict"}),
        }
        for tool in body.tools or ()
    ]
    return dump_schema(listed, settings.max_schema_bytes, "tools"), choice


def read_tool_choice(choice: Any, names: list[str]) -> str:
    """Return the choice among tools: ``auto``, ``none``, ``required`` or ``function:NAME``.

    Args:
        choice: The field as parsed; None for none.

    Raises:
        ApiError: It is none of these, or names no tool; status 400.
    """
    param = "tool_choice"
    if choice is None:
        return "auto"
    if choice in ("auto", "none"):
        return str(choice)
    if choice == "required":
        if not names:
            raise invalid("tool_choice: required needs tools", param)
        return "required"
    if not isinstance(choice, dict):
        raise invalid("tool_choice has to be none, auto, required, or one function", param)
    if choice.get("type") not in ("function", None):
        raise unsupported(param)
    name = validate(ToolChoice, {"tool_choice": choice}).tool_choice.function.name
    if name not in names:
        raise invalid(f"tool_choice: there is no tool {name}", f"{param}.function.name")
    return f"function:{name}"


def _read_effort(body: ChatBody) -> str | None:
    thinks = body.chat_template_kwargs and body.chat_template_kwargs.enable_thinking
    if thinks is None:
        return body.reasoning_effort
    effort = body.reasoning_effort
    if effort is None:
        return "medium" if thinks else "none"
    if thinks == (effort == "none"):
        raise invalid(
            "chat_template_kwargs.enable_thinking contradicts reasoning_effort",
            "chat_template_kwargs.enable_thinking",
        )
    return effort


def _read_prompt(prompt: Any) -> tuple[str, tuple[int, ...]]:
    """Return the text of a prompt and its token ids, if these were sent."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        if not prompt:
            raise invalid("prompt is empty", "prompt")
        return prompt, ()
    if not isinstance(prompt, list) or not prompt:
        raise invalid("prompt has to be a text or a list of token ids", "prompt")
    if all(isinstance(part, str | list) for part in prompt):
        raise unsupported("prompt", "prompt: only one prompt a request is supported")
    refuse_more(len(prompt), _MOST_PROMPT_TOKENS, "prompt", "token ids")
    for index, token in enumerate(prompt):
        if type(token) is not int or not 0 <= token < _LARGEST_TOKEN:
            param = f"prompt[{index}]"
            raise invalid(f"{param} is no token id", param)
    return f"({len(prompt)} token ids)", tuple(prompt)
