"""Turn the messages of a request into a question with its conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etui.chat import Message
from etui.server.errors import invalid, quote, unsupported

if TYPE_CHECKING:
    from etui.server.chat_request import MessageItem

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
