"""Map the body of ``POST /v1/responses`` onto that of ``POST /v1/chat/completions``.

The mapping is that of llama-server: instructions are the system message, items are messages, and
the flat form of a tool becomes the nested one. Nothing is stored, so whatever refers to an earlier
response is refused. What has no effect here is left out and named: tools that another server would
run, and items of their calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etui.server.build_request import join_text
from etui.server.errors import ApiError, invalid, unsupported

_ROLES = ("user", "assistant", "system", "developer")
_FORMATS = ("text", "json_object", "json_schema")

_SAME = ("model", "temperature", "top_p", "parallel_tool_calls", "metadata", "stream")
"""Parameters that chat completions name and mean alike."""

_MAPPED = (
    *("include", "input", "instructions", "max_output_tokens", "reasoning", "text"),
    *("tool_choice", "tools", "top_logprobs", "truncation"),
)
"""Parameters that chat completions name or write in another way."""

_STORED = {
    "conversation": "send the whole conversation as `input`",
    "previous_response_id": "send the whole conversation as `input`",
    "prompt": "send its text as `input`",
}
"""Parameters that refer to what is stored elsewhere, with what to do instead."""

_KNOWN = frozenset((*_SAME, *_MAPPED, *_STORED))

_INCLUDES = ("reasoning.encrypted_content", "message.output_text.logprobs")
"""Thinking is sent as plain text, so a client that wants it back later has it."""

_TOOL_KEYS = ("name", "description", "parameters", "strict")

_RENAMED = (
    (r"messages$", "input"),
    (r"response_format\.json_schema", "text.format"),
    (r"response_format", "text.format"),
    (r"(tools\[\d+\])\.function", r"\1"),
    (r"max_(completion_)?tokens$", "max_output_tokens"),
    (r"reasoning_effort$", "reasoning.effort"),
    (r"logprobs$", "top_logprobs"),
)
"""Begins of parameters of chat completions under their names here."""


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request for a response, as one for a chat completion."""

    chat: Mapping[str, Any]  # The body of the chat completion
    echo: Mapping[str, Any]  # What the response repeats of it; null is what the arm decided
    origins: Sequence[str]
    """Where each message comes from (``instructions``, ``input``, ``input[2]``)."""
    ignored: Sequence[str] = ()  # What was left out

    def rename(self, param: str) -> str:
        """Return the name here of a parameter of chat completions."""
        if found := re.match(r"messages\[(\d+)\]", param):
            index = int(found[1])
            return self.origins[index] if index < len(self.origins) else "input"
        for pattern, name in _RENAMED:
            if found := re.match(pattern, param):
                return found.expand(name) + param[found.end() :]
        return param


def parse_response_request(body: Mapping[str, Any]) -> ResponseRequest:
    """Map a request for a response onto one for a chat completion.

    Values that both have alike are passed on unchecked: the parser of chat completions checks them.

    Raises:
        ApiError: A parameter is missing, invalid, or not supported; status 400.
    """
    ignored = list(_refuse_unsupported(body))
    messages = _Messages()
    messages.read(body.get("instructions"), body.get("input"))
    ignored += messages.ignored
    chat: dict[str, Any] = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat["messages"] = messages.messages
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    effort = _read_object(body, "reasoning", ("effort", "summary"), ignored).get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    text_format = _read_text_format(body, ignored)
    if (kind := text_format["type"]) != "text":
        inner = {key: value for key, value in text_format.items() if key != "type"}
        schema = {"json_schema": inner} if kind == "json_schema" else {}
        chat["response_format"] = {"type": kind, **schema}
    tools, choice = _read_tools(body, ignored), body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        tools, choice = _allow(tools, choice)
    if tools:
        chat["tools"] = [_build_chat_tool(tool) for tool in tools]
    if choice is not None:
        chat["tool_choice"] = _build_chat_choice(choice)
    chat |= _read_logprobs(body, ignored)
    echo = {
        **{name: body.get(name) for name in ("instructions", "temperature", "top_p", "user")},
        **{name: body.get(name) for name in ("max_output_tokens", "max_tool_calls")},
        **{name: body.get(name) for name in ("prompt_cache_key", "safety_identifier")},
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "tool_choice": "auto" if choice is None else choice,
        "tools": [dict(tool) for tool in tools],
        "background": False,
        "previous_response_id": None,
        "reasoning": {"effort": effort, "summary": None},
        "service_tier": "default",
        "store": False,
        "text": {"format": dict(text_format), "verbosity": "medium"},
        "top_logprobs": body.get("top_logprobs"),
        "truncation": "disabled",
    }
    return ResponseRequest(chat, echo, messages.origins, ignored)


def _refuse(what: str, fix: str, param: str) -> ApiError:
    return invalid(f"{what}; {fix}", param)


def _refuse_support(what: str, fix: str, param: str) -> ApiError:
    return unsupported(param, f"{what}; {fix}")


def _refuse_unsupported(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters that are ignored."""
    for name, fix in _STORED.items():
        if body.get(name) is not None:
            what = f"`{name}` is not supported: responses are not stored here"
            raise _refuse_support(what, fix, name)
    yield from (name for name in body if name not in _KNOWN and body[name] not in (None, False))


class _Messages:
    """The messages of a chat completion, from the items of a conversation.

    Attributes:
        origins: Where each comes from: ``instructions``, ``input``, or an item, ``input[2]``.
        ignored: Items that have no place in a chat.
    """

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self._called: set[str] = set()
        self.messages: list[dict[str, Any]] = []
        self.origins: list[str] = []

    def read(self, instructions: object, items: object) -> None:
        """Read the system message, None for none, and a question or the items of a conversation."""
        if not isinstance(items, str) and not (isinstance(items, list) and items):
            raise _refuse("`input` must be a text or a list of items", "add the question", "input")
        if instructions is not None:
            if not isinstance(instructions, str):
                what = "`instructions` must be a text"
                raise _refuse(what, "put items into `input`", "instructions")
            self._add("instructions", role="system", content=instructions)
        if isinstance(items, str):
            self._add("input", role="user", content=items)
            return
        for index, item in enumerate(items):
            self._read_item(item, f"input[{index}]")

    def _add(self, at: str, **message: object) -> None:
        self.messages.append(message)
        self.origins.append(at)

    def _open_assistant(self, at: str) -> dict[str, Any]:
        """Return the assistant's message at the end, a new one if the last is of another role.

        What an assistant says and the tools that it calls are items of their own, and one message.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._add(at, role="assistant", content=None)
        return self.messages[-1]

    def _read_item(self, item: object, at: str) -> None:
        if not isinstance(item, Mapping):
            raise _refuse(f"`{at}` must be an object", "see docs/serve.md", at)
        match item.get("type", "message"):
            case "message":
                self._read_message(item, at)
            case "function_call":
                call_id = _require_text(item, "call_id", at)
                function = {key: _require_text(item, key, at) for key in ("name", "arguments")}
                self._called.add(call_id)
                call = {"id": call_id, "type": "function", "function": function}
                self._open_assistant(at).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                content = join_text(item.get("output"), f"{at}.output")
                call_id = _require_text(item, "call_id", at)
                if call_id not in self._called:  # that of a call which was left out
                    self.ignored.append(f"{at}:function_call_output")
                    return
                self._add(at, role="tool", tool_call_id=call_id, content=content)
            case "reasoning":
                pass  # chat templates leave earlier thinking out as well
            case "item_reference":
                what = f"`{at}` refers to a stored item, and nothing is stored here"
                raise _refuse_support(what, "send the item itself", at)
            case other:  # calls of tools that another server runs, and their results
                self.ignored.append(f"{at}:{other}")

    def _read_message(self, item: Mapping[str, Any], at: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            what = f"`{at}.role` must be one of {', '.join(_ROLES)}"
            raise _refuse(what, "choose one of them", f"{at}.role")
        content = item.get("content")
        if role == "user" and isinstance(content, list) and any(map(_is_picture, content)):
            self._add(at, role=role, content=content)
            return
        text = join_text(content, f"{at}.content")
        if role != "assistant":
            self._add(at, role=role, content=text)
            return
        message = self._open_assistant(at)
        message["content"] = (message["content"] or "") + text


def _is_picture(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "input_image"


def _require_text(item: Mapping[str, Any], key: str, at: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise _refuse(f"`{at}.{key}` must be a text", f"add `{key}`", f"{at}.{key}")
    return value


def _read_object(
    body: Mapping[str, Any], name: str, keys: Sequence[str], ignored: list[str]
) -> Mapping[str, Any]:
    """Return an object of the body, empty where there is none; note its other keys."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refuse(f"`{name}` must be an object", "see docs/serve.md", name)
    ignored += [f"{name}.{key}" for key in value if key not in keys and value[key] is not None]
    return value


def _read_text_format(body: Mapping[str, Any], ignored: list[str]) -> Mapping[str, Any]:
    given = _read_object(body, "text", ("format",), ignored).get("format")
    if given is None:
        return {"type": "text"}
    if not isinstance(given, Mapping) or given.get("type") not in _FORMATS:
        what = "`text.format.type` must be `text`, `json_object` or `json_schema`"
        raise _refuse(what, "choose one of them", "text.format")
    return given


def _read_tools(body: Mapping[str, Any], ignored: list[str]) -> Sequence[Mapping[str, Any]]:
    """Return the functions among the tools; others, such as a search of the web, do not run."""
    tools = body.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise _refuse("`tools` must be a list", "see docs/serve.md", "tools")
    functions = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise _refuse(f"`tools[{index}]` must be an object", "see docs/serve.md", "tools")
        kind, name = tool.get("type"), tool.get("name")
        if kind == "function":
            functions.append(tool)
        else:
            ignored.append(f"tools[{index}]:{kind}" + (f":{name}" if name else ""))
    return functions


def _allow(
    tools: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]
) -> tuple[Sequence[Mapping[str, Any]], object]:
    """Return the tools that a choice allows, and the choice among them."""
    listed = choice.get("tools")
    names = [each.get("name") for each in listed or () if isinstance(each, Mapping)]
    kept = [tool for tool in tools if tool.get("name") in names]
    return kept, choice.get("mode", "auto") if kept else "auto"


def _build_chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: tool[key] for key in _TOOL_KEYS if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _build_chat_choice(choice: object) -> object:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    what = "`tool_choice` must be auto, none, required, or {type: function, name: NAME}"
    raise _refuse(what, "choose one of them", "tool_choice")


def _read_logprobs(body: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    include = body.get("include") or []
    if not isinstance(include, list):
        raise _refuse("`include` must be a list", "see docs/serve.md", "include")
    ignored += [f"include:{name}" for name in include if name not in _INCLUDES]
    top = body.get("top_logprobs")
    if top is None and "message.output_text.logprobs" not in include:
        return {}
    return {"logprobs": True} | ({} if top is None else {"top_logprobs": top})
