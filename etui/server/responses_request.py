"""Map the body of ``POST /v1/responses`` onto that of ``POST /v1/chat/completions``.

The mapping is that of llama-server: instructions are the system message, items are messages, and
the flat form of a tool becomes the nested one. Nothing is stored, so whatever refers to an earlier
response is refused, as is everything that would have no effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from etui.server.errors import ApiError, invalid, unsupported

_ROLES = ("user", "assistant", "system", "developer")

_TEXT_PARTS = ("input_text", "output_text", "text")


@dataclass(slots=True)
class InputMessages:
    """The messages of a chat completion as they are collected."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    """Where each comes from: ``instructions``, ``input``, or an item, ``input[2]``."""

    def add(self, message: dict[str, Any], origin: str) -> None:
        """Add a message."""
        self.messages.append(message)
        self.origins.append(origin)

    def open_assistant(self, origin: str) -> dict[str, Any]:
        """Return the assistant's message at the end, a new one if the last is of another role.

        What an assistant says and the tools that it calls are items of their own, and one message.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add({"role": "assistant", "content": None}, origin)
        return self.messages[-1]


def refuse(what: str, fix: str, param: str) -> ApiError:
    """Create the error of an invalid value, status 400."""
    return invalid(f"{what}; {fix}", param)


def refuse_support(what: str, fix: str, param: str) -> ApiError:
    """Create the error of something that is not supported, status 400."""
    return unsupported(param, f"{what}; {fix}")


def build_messages(instructions: object, items: str | Sequence[Any]) -> InputMessages:
    """Build the messages of a chat completion.

    Args:
        instructions: The system message; None for none.
        items: A question, or the items of a conversation.

    Raises:
        ApiError: An item is invalid, or of a type that is not supported.
    """
    found = InputMessages()
    if instructions is not None:
        if not isinstance(instructions, str):
            raise refuse("`instructions` must be a text", "put items into `input`", "instructions")
        found.add({"role": "system", "content": instructions}, "instructions")
    if isinstance(items, str):
        found.add({"role": "user", "content": items}, "input")
        return found
    for index, item in enumerate(items):
        _add_item(found, item, f"input[{index}]")
    return found


def _add_item(found: InputMessages, item: object, at: str) -> None:
    if not isinstance(item, Mapping):
        raise refuse(f"`{at}` must be an object", "see docs/serve.md", at)
    match item.get("type", "message"):
        case "message":
            _add_message(found, item, at)
        case "function_call":
            call = {
                "id": _require_text(item, "call_id", at),
                "type": "function",
                "function": {
                    "name": _require_text(item, "name", at),
                    "arguments": _require_text(item, "arguments", at),
                },
            }
            found.open_assistant(at).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            content = _read_content(item.get("output"), f"{at}.output")
            call_id = _require_text(item, "call_id", at)
            found.add({"role": "tool", "tool_call_id": call_id, "content": content}, at)
        case "reasoning":
            pass  # chat templates leave earlier thinking out as well
        case "item_reference":
            raise refuse_support(
                f"`{at}` refers to a stored item, and nothing is stored here",
                "send the item itself",
                at,
            )
        case other:
            raise refuse_support(f"items of the type {other!r} are not supported", "remove it", at)


def _add_message(found: InputMessages, item: Mapping[str, Any], at: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise refuse(
            f"`{at}.role` must be one of {', '.join(_ROLES)}", "choose one of them", f"{at}.role"
        )
    text = _read_content(item.get("content"), f"{at}.content")
    if role != "assistant":
        found.add({"role": role, "content": text}, at)
        return
    message = found.open_assistant(at)
    message["content"] = (message["content"] or "") + text


def _read_content(content: object, at: str) -> str:
    """Join the texts of a content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refuse(f"`{at}` must be a text or a list of parts", "add the text", at)
    texts = []
    for index, part in enumerate(content):
        where = f"{at}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _TEXT_PARTS:
            texts.append(_require_text(part, "text", where))
        elif kind == "refusal":
            texts.append(_require_text(part, "refusal", where))
        else:
            what = f"parts of the type {kind!r} are not supported"
            raise refuse_support(what, "send text only", where)
    return "".join(texts)


def _require_text(item: Mapping[str, Any], key: str, at: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise refuse(f"`{at}.{key}` must be a text", f"add `{key}`", f"{at}.{key}")
    return value


_SAME = ("model", "temperature", "top_p", "parallel_tool_calls", "metadata", "stream")
"""Parameters that chat completions name and mean alike."""

_HARMLESS = frozenset(
    {
        "client_metadata",
        "max_tool_calls",  # bounds tools that the server runs, and there are none
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",  # its one option pads the events
        "user",
    }
)
"""Parameters that change nothing in an answer of this machine."""

_STORED = {
    "background": "the answer is sent with the response",
    "conversation": "send the whole conversation as `input`",
    "previous_response_id": "send the whole conversation as `input`",
    "store": "nothing is stored here; the turn is in the log: GET /v1/turns/ID",
}
"""Parameters that need stored responses, with what to do instead."""

_NOT_DONE = {
    "context_management": "",
    "moderation": "",
    "prompt": "send its text as `input`",
}

_INCLUDES = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs"})
"""Thinking is sent as plain text, so a client that wants it back later has it."""

_FORMATS = ("text", "json_object", "json_schema")

_NEUTRAL_REASONING: Mapping[str, object] = {"context": "auto", "mode": "standard"}
_NEUTRAL_TOOL: Mapping[str, object] = {"async": False, "defer_loading": False}
"""Values that clients send although they ask for nothing."""

_RENAMED = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "top_logprobs",
}
"""Parameters of chat completions under their names here."""


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request for a response, as one for a chat completion."""

    chat: Mapping[str, Any]  # The body of the chat completion
    stream: bool
    echo: Mapping[str, Any]
    origins: tuple[str, ...] = field(default=())
    """Where each message comes from (``instructions``, ``input``, ``input[2]``)."""

    def rename(self, param: str) -> str:
        """Return the name here of a parameter of chat completions."""
        if found := re.match(r"messages\[(\d+)\]", param):
            index = int(found.group(1))
            return self.origins[index] if index < len(self.origins) else "input"
        if param == "messages":
            return "input"
        if param.startswith("response_format.json_schema"):
            return "text.format" + param.removeprefix("response_format.json_schema")
        if param.startswith("response_format"):
            return "text.format" + param.removeprefix("response_format")
        if found := re.match(r"(tools\[\d+\])\.function(.*)", param):
            return found.group(1) + found.group(2)
        return _RENAMED.get(param, param)


def parse_response_request(body: Mapping[str, Any]) -> ResponseRequest:
    """Map a request for a response onto one for a chat completion.

    Values that both have alike are passed on unchecked: the parser of chat completions checks them.

    Raises:
        ApiError: A parameter is missing, invalid, or not supported.
    """
    _refuse_unsupported(body)
    messages = build_messages(body.get("instructions"), _require_input(body))
    chat: dict[str, Any] = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat["messages"] = list(messages.messages)
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    reasoning = _read_object(
        body, "reasoning", {"effort", "summary", "generate_summary"}, _NEUTRAL_REASONING
    )
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    text_format = _read_text_format(body)
    if text_format["type"] != "text":
        chat["response_format"] = _build_chat_format(text_format)
    tools = _read_tools(body)
    if tools:
        chat["tools"] = [_build_chat_tool(tool) for tool in tools]
    if body.get("tool_choice") is not None:
        chat["tool_choice"] = _build_chat_choice(body["tool_choice"])
    chat |= _read_logprobs(body)
    return ResponseRequest(
        chat,
        body.get("stream") is True,
        _build_echo(body, reasoning, text_format, tools),
        _origins(messages),
    )


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for name, fix in _STORED.items():
        if body.get(name) not in (None, False):
            raise refuse_support(
                f"`{name}` is not supported: responses are not stored here", fix, name
            )
    for name, fix in _NOT_DONE.items():
        if body.get(name) is not None:
            raise refuse_support(f"`{name}` is not supported", fix or "remove it", name)
    if body.get("truncation") not in (None, "disabled"):
        raise refuse_support(
            "`truncation` can only be `disabled` here", "send fewer items", "truncation"
        )
    known = {
        *_SAME,
        *_HARMLESS,
        *_STORED,
        *_NOT_DONE,
        *("include", "input", "instructions", "max_output_tokens", "reasoning", "text"),
        *("tool_choice", "tools", "top_logprobs", "truncation"),
    }
    for name in body:
        if name not in known:
            raise refuse_support(f"the parameter `{name}` is not supported", "remove it", name)


def _require_input(body: Mapping[str, Any]) -> str | Sequence[Any]:
    given = body.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given):
        return given
    raise refuse("`input` must be a text or a list of items", "add the question", "input")


def _origins(messages: InputMessages) -> tuple[str, ...]:
    return tuple(messages.origins)


def _read_object(
    body: Mapping[str, Any],
    name: str,
    keys: set[str],
    neutral: Mapping[str, object] = MappingProxyType({}),
) -> Mapping[str, Any]:
    """Return an object of the body, empty where there is none."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refuse(f"`{name}` must be an object", "see docs/serve.md", name)
    for key, item in value.items():
        if key not in keys and item is not None and item != neutral.get(key):
            raise refuse_support(f"`{name}.{key}` is not supported", "remove it", f"{name}.{key}")
    return value


def _read_text_format(body: Mapping[str, Any]) -> Mapping[str, Any]:
    text = _read_object(body, "text", {"format", "verbosity"})
    if text.get("verbosity") not in (None, "medium"):
        raise refuse(
            "`text.verbosity` can only be `medium` here", "say it in `instructions`",
            "text.verbosity",
        )  # fmt: skip
    given = text.get("format")
    if given is None:
        return {"type": "text"}
    if not isinstance(given, Mapping) or given.get("type") not in _FORMATS:
        raise refuse(
            "`text.format.type` must be `text`, `json_object` or `json_schema`",
            "choose one of them",
            "text.format",
        )
    return given


def _build_chat_format(text_format: Mapping[str, Any]) -> dict[str, Any]:
    kind = text_format["type"]
    if kind == "json_object":
        return {"type": kind}
    inner = {key: value for key, value in text_format.items() if key != "type"}
    return {"type": kind, "json_schema": inner}


def _read_tools(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise refuse("`tools` must be a list", "see docs/serve.md", "tools")
    for index, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind != "function":
            what = f"tools of the type {kind!r} do not run here; only `function` tools are offered"
            fix = 'leave it out (in Codex: web_search = "disabled" in config.toml)'
            raise refuse_support(what, fix, f"tools[{index}]")
    return tools


def _build_chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            key: value
            for key, value in tool.items()
            if key != "type"
            and value is not None
            and not (key in _NEUTRAL_TOOL and value is _NEUTRAL_TOOL[key])
        },
    }


def _build_chat_choice(choice: object) -> object:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    raise refuse(
        "`tool_choice` must be auto, none, required, or {type: function, name: NAME}",
        "choose one of them",
        "tool_choice",
    )


def _read_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    include = body.get("include") or []
    if not isinstance(include, list):
        raise refuse("`include` must be a list", "see docs/serve.md", "include")
    for index, name in enumerate(include):
        if not isinstance(name, str) or name not in _INCLUDES:
            raise refuse(f"`include` cannot have {name!r} here", "remove it", f"include[{index}]")
    top = body.get("top_logprobs")
    if top is None and "message.output_text.logprobs" not in include:
        return {}
    return {"logprobs": True} | ({} if top is None else {"top_logprobs": top})


def _build_echo(
    body: Mapping[str, Any],
    reasoning: Mapping[str, Any],
    text_format: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Build the part of a response that repeats the request; null is what the arm decided."""
    return {
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "temperature": body.get("temperature"),
        "tool_choice": "auto" if body.get("tool_choice") is None else body["tool_choice"],
        "tools": [dict(tool) for tool in tools],
        "top_p": body.get("top_p"),
        "background": False,
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": "default",
        "store": False,
        "text": {"format": dict(text_format), "verbosity": "medium"},
        "top_logprobs": body.get("top_logprobs"),
        "truncation": "disabled",
        "user": body.get("user"),
    }
