"""Build the turn that a request asks for; the bodies of all endpoints become one of these."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.chat import Message, OutputOptions, Query
from etui.errors import EtuiError
from etui.runtime.overrides import Overrides
from etui.runtime.turn_request import TurnRequest
from etui.server.chat_request import ChatBody, CompletionBody, ResponseFormat, ToolChoice
from etui.server.errors import invalid, quote, to_api_error, unsupported
from etui.server.validation import dump_schema, refuse_more, validate

if TYPE_CHECKING:
    from etui.server.chat_request import MessageItem, SampledBody
    from etui.server.context import ServerContext, ServerSettings
    from etui.turn.record import ClientRecord

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")

DEFAULT_MODELS = ("", "default", "etui")
"""Ids of what ``etui serve`` was started with, for clients that insist on one."""

_MOST_TOKENS = 2**20
"""Largest limit of tokens that is passed on; each model cuts it to its context."""

_MOST_PROMPT_TOKENS = 2**18
_LARGEST_TOKEN = 2**22
"""No vocabulary is larger; the engine compares with that of the model."""

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "repeat_penalty": (1, 1.0),
    "logit_bias": ({}, []),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1, 1.0),
    "ignore_eos": (False,),
    "min_tokens": (0, 0.0),
    "options": ({},),
    "truncation": ("disabled",),
    "background": (False,),
    **dict.fromkeys(("audio", "web_search_options", "top_k", "min_p", "chat_template"), ()),
    **dict.fromkeys(("documents", "images", "grammar", "json_schema", "guided_json"), ()),
    **dict.fromkeys(("structured_outputs", "keep_alive"), ()),
}
"""Well-known parameters that etui does not support, with the values that ask for nothing.

These are accepted, since many clients always send them.
"""


def take_known(
    body: Mapping[str, Any], known: Collection[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters of a request that etui uses, and the names of those it ignores.

    A null is as good as none. A parameter that nobody knows is ignored and named, as is one that
    changes no answer: clients add fields of their own.

    Raises:
        ApiError: A parameter would change the answer, and is not supported; status 400.
    """
    used, ignored = {}, []
    for name, value in body.items():
        if value is None:
            continue
        if name in known:
            used[name] = value
        elif name in _NEUTRAL:
            # True == 1 in Python
            if not any(value == each and type(value) is type(each) for each in _NEUTRAL[name]):
                raise unsupported(name)
        else:
            ignored.append(name)
    return used, tuple(ignored)


def parse_chat(document: Mapping[str, Any]) -> tuple[ChatBody, tuple[str, ...]]:
    """Parse the body of a chat completion; return it with the names of fields that are ignored.

    Raises:
        ApiError: It is not valid, or asks for what etui does not support; status 400.
    """
    used, ignored = take_known(document, ChatBody.model_fields)
    return validate(ChatBody, used), ignored


def parse_completion(document: Mapping[str, Any]) -> tuple[CompletionBody, tuple[str, ...]]:
    """Parse the body of a completion; raises as :func:`parse_chat`."""
    if document.get("best_of") is not None and document["best_of"] == document.get("n"):
        document = {name: value for name, value in document.items() if name != "best_of"}
    used, ignored = take_known(document, CompletionBody.model_fields)
    return validate(CompletionBody, used), ignored


def build_chat_turn(body: ChatBody, context: ServerContext, client: ClientRecord) -> TurnRequest:
    """Build the turn of a chat completion.

    Raises:
        ApiError: A value is out of its bounds (400), or the model is unknown (404).
    """
    settings = context.settings
    query = _read_conversation(body.messages, settings.max_messages)
    options = _read_options(body, settings)
    top = body.top_logprobs
    if top is not None:
        refuse_more(top, settings.max_top_logprobs, "top_logprobs", "alternatives")
        if top and not body.logprobs:
            raise invalid("top_logprobs needs `logprobs: true`", "top_logprobs")
    tools, choice = _read_tools(body, settings)
    schema = _read_format(body.response_format, settings.max_schema_bytes)
    if schema and tools and choice != "none":
        raise unsupported(
            "response_format", "response_format cannot be combined with tools that may be called"
        )
    options = replace(
        options,
        json_schema=schema,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        top_logprobs=(top or 0) if body.logprobs else None,
    )
    limit = body.max_completion_tokens or body.max_tokens
    turn = _build_turn(body, replace(query, options=options), context, client, limit)
    return replace(turn, effort=_read_effort(body))


def build_completion_turn(
    body: CompletionBody, context: ServerContext, client: ClientRecord
) -> TurnRequest:
    """Build the turn of a completion of a raw prompt; raises as :func:`build_chat_turn`."""
    text, tokens = _read_prompt(body.prompt)
    options = _read_options(body, context.settings)
    if body.logprobs is not None:
        most = context.settings.max_top_logprobs
        refuse_more(body.logprobs, most, "logprobs", "alternatives")
    options = replace(options, top_logprobs=body.logprobs, raw=True, prompt_tokens=tokens)
    turn = _build_turn(body, Query(text, options=options), context, client, body.max_tokens)
    return replace(turn, overrides=replace(turn.overrides, reasoning="direct"))


def _build_turn(
    body: SampledBody,
    query: Query,
    context: ServerContext,
    client: ClientRecord,
    limit: int | None,
) -> TurnRequest:
    metadata = tuple(sorted((body.metadata or {}).items()))
    overrides = replace(
        parse_model(body.model, context),
        temperature=body.temperature,
        top_p=body.top_p,
        presence_penalty=body.presence_penalty,
        seed=None if body.seed is None else body.seed % 2**31,  # the engine's range
        max_tokens=None if limit is None else min(limit, _MOST_TOKENS),
        lenient=True,
    )
    return TurnRequest(
        replace(query, owner=f"serve:{client.key}", metadata=metadata), overrides, client
    )


def parse_model(text: str, context: ServerContext) -> Overrides:
    """Return the policy, arm or model that the id of a request names.

    Raises:
        ApiError: There is none, status 404, with the nearest names.
    """
    if text in DEFAULT_MODELS:
        return Overrides(model=context.settings.model, policy=context.settings.policy)
    try:
        if context.parse_model is not None:
            return context.parse_model(text)
        from etui.runtime.model_ids import parse_model_id

        return parse_model_id(text, context.runtime)
    except EtuiError as error:
        raise to_api_error(error) from error


def _read_conversation(items: Sequence[MessageItem], most: int) -> Query:
    """Read the messages of a request.

    All system and developer messages are gathered in one at the beginning, since most chat
    templates accept only that.
    """
    if len(items) > most:
        raise invalid(f"messages: at most {most} are accepted; got {len(items)}", "messages")
    called: set[str] = set()
    messages = [
        _read_message(item, f"messages[{index}]", called) for index, item in enumerate(items)
    ]
    systems = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    questions = [message.content for message in others if message.role == "user"]
    if not questions:
        raise invalid("messages: a message of the role user is needed", "messages")
    return Query(
        questions[-1],
        system="\n\n".join(systems) or None,
        history=tuple(others[:-1]),
        last=None if others[-1].role == "user" else others[-1],
    )


def _read_message(item: MessageItem, place: str, called: set[str]) -> Message:
    calls = item.tool_calls or []
    if calls and item.role != "assistant":
        raise invalid(f"{place}.tool_calls: only the assistant calls tools", f"{place}.tool_calls")
    if item.role == "tool":
        if item.tool_call_id is None or item.tool_call_id not in called:
            param = f"{place}.tool_call_id"
            raise invalid(f"{param} has to be the id of a call in an earlier message", param)
        text = join_text(item.content, f"{place}.content")
        return Message("tool", text, tool_call_id=item.tool_call_id)
    if item.content is None and not calls:
        raise invalid(f"{place}.content is missing", f"{place}.content")
    text = "" if item.content is None else join_text(item.content, f"{place}.content")
    called.update(call.id for call in calls)
    listed = [call.model_dump() for call in calls]
    written = json.dumps(listed, ensure_ascii=False, separators=(",", ":")) if listed else ""
    return Message("system" if item.role == "developer" else item.role, text, tool_calls=written)


def join_text(content: Any, param: str) -> str:
    """Return a text, or the joined text parts of a list; other parts are never fetched."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{param} has to be a text or a list of text parts", param)
    texts = []
    for index, part in enumerate(content):
        place = f"{param}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise invalid(f"{place} has to be an object with a type", place)
        if kind not in _TEXT_PARTS:
            what = f"parts of the type {quote(kind, 32)} are not supported"
            raise unsupported(place, f"{place}: {what}")
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise invalid(f"{place}.text has to be a text", f"{place}.text")
        texts.append(text)
    return "".join(texts)


def _read_options(body: SampledBody, settings: ServerSettings) -> OutputOptions:
    refuse_more(body.n, settings.max_n, "n", "answers")
    refuse_more(len(body.stop), settings.max_stop, "stop", "stop strings")
    most = settings.max_stop_characters
    for index, text in enumerate(body.stop):
        if not text or len(text) > most:
            param = f"stop[{index}]"
            raise invalid(f"{param}: a stop string has 1 to {most} characters", param)
    return OutputOptions(stop=tuple(body.stop), count=body.n)


def _read_format(form: ResponseFormat | None, limit_bytes: int) -> str:
    """Return the JSON schema of a response format as text; empty for any text."""
    if form is None or form.type == "text":
        return ""
    if form.type == "json_object":
        return '{"type":"object"}'
    param = "response_format.json_schema.schema"
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise invalid(f"{param} is missing", param)
    return dump_schema(form.json_schema.schema_, limit_bytes, param)


def _read_tools(body: ChatBody, settings: ServerSettings) -> tuple[str, str]:
    """Return the tools as JSON text, and the choice among them."""
    names = [tool.function.name for tool in body.tools or ()]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"tools[{index}].function.name"
            raise invalid(f"{param}: {name} is the name of an earlier tool", param)
    choice = _read_tool_choice(body.tool_choice, names)
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


def _read_tool_choice(choice: Any, names: list[str]) -> str:
    """Return the choice among tools: ``auto``, ``none``, ``required`` or ``function:NAME``."""
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
    effort = body.reasoning_effort
    if thinks is None:
        return effort
    if effort is None:
        return "medium" if thinks else "none"
    if thinks == (effort == "none"):
        param = "chat_template_kwargs.enable_thinking"
        raise invalid(f"{param} contradicts reasoning_effort", param)
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
