"""Map the items of a request for a response onto the messages of a chat completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        raise refuse(f"`{at}` must be an object", "see docs/serve-endpoints.md", at)
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
