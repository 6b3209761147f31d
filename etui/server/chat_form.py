"""The form of chat completions, streamed and whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from etui import __version__
from etui.events import ToolCall
from etui.server.deltas import Choice, Delta, DeltaReader
from etui.server.documents import (
    encode,
    energy_document_of,
    finish_reason,
    logprob_document,
    route_document,
    timings_document,
    tool_calls_document,
    usage_document,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etui.chat import Query
    from etui.events import TokenLogprob
    from etui.runtime.turn_request import PoolEvent
    from etui.server.errors import ApiError
    from etui.turn.record import TurnRecord

FINGERPRINT = f"etui-{__version__}"
DONE = b"data: [DONE]\n\n"


def frame(document: Mapping[str, Any]) -> bytes:
    """Return a document as one server-sent event."""
    return b"data: " + encode(document) + b"\n\n"


def energy_comment(record: TurnRecord) -> bytes:
    """Return the joules of a turn as a comment of server-sent events, as Neuralwatt sends them."""
    return b": energy " + encode(energy_document_of(record)) + b"\n\n"


def turn_documents(record: TurnRecord) -> dict[str, Any]:
    """Build what every response says of its turn."""
    return {
        "usage": usage_document(record),
        "energy": energy_document_of(record),
        "route": route_document(record),
        "timings": timings_document(record),
    }


class ChatForm:
    """The responses of one chat completion.

    Args:
        query: The question with the options of its output.
        include_usage: Whether a stream ends with a chunk of its usage.
    """

    def __init__(self, query: Query, *, include_usage: bool = False) -> None:
        self._query = query
        self._include_usage = include_usage
        self._reader = DeltaReader(query)
        self._created = int(time.time())
        self._id = ""
        self._opened: set[int] = set()

    def begin(self, turn_id: str) -> None:
        """Note the id of the turn, which is a part of the response's."""
        self._id = f"chatcmpl-{turn_id}"

    def add(self, event: PoolEvent) -> bytes:
        """Take an event; return the chunks that it causes."""
        return b"".join(self._write(delta) for delta in self._reader.add(event))

    def end(self, record: TurnRecord) -> bytes:
        """Return the chunk of the usage if it was asked for, the joules, and the end."""
        usage = b""
        if self._include_usage:
            usage = frame({**self._head(), "choices": [], **turn_documents(record)})
        return usage + energy_comment(record) + DONE

    def fail(self, error: ApiError) -> bytes:
        """Return the error, after which a stream ends without ``[DONE]``."""
        return frame(error.document())

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": record.model,
            "system_fingerprint": FINGERPRINT,
            "choices": self._choices(record),
            **turn_documents(record),
        }

    def _choices(self, record: TurnRecord) -> list[dict[str, Any]]:
        choices = self._reader.choices
        if choices:
            return [self._build_choice(index, choices[index]) for index in sorted(choices)]
        return [
            {
                "index": 0,
                "message": build_message(record.answer, record.thinking, record.tool_calls),
                "logprobs": self._build_logprobs(self._reader.logprobs),
                "finish_reason": finish_reason(record.status, record.tool_calls),
            }
        ]

    def _build_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        vote = choice.vote
        return {
            "index": index,
            "message": build_message(vote.answer, vote.thinking, vote.tool_calls),
            "logprobs": self._build_logprobs(choice.logprobs),
            "finish_reason": choice.finish,
        }

    def _build_logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._query.options.top_logprobs is None:
            return None
        return {"content": [logprob_document(each) for each in logprobs], "refusal": None}

    def _write(self, delta: Delta) -> bytes:
        opening = b""
        if delta.index not in self._opened:
            self._opened.add(delta.index)
            opening = self._chunk(delta.index, {"role": "assistant", "content": ""})
        parts: dict[str, Any] = {}
        if delta.content:
            parts["content"] = delta.content
        if delta.thinking:
            parts["reasoning_content"] = delta.thinking
        if delta.tool is not None:
            parts["tool_calls"] = [_tool_delta(delta.tool)]
        logprobs = self._build_logprobs(delta.logprobs) if delta.logprobs else None
        if not parts and logprobs is None and delta.finish is None:
            return opening
        return opening + self._chunk(delta.index, parts, logprobs, delta.finish)

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return frame({**self._head(), "choices": [choice], **usage})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._reader.model,
            "system_fingerprint": FINGERPRINT,
        }


def build_message(answer: str, thinking: str, tool_calls: str = "") -> dict[str, Any]:
    """Build the message of an answer; thinking and tool calls are keys only where there are any."""
    calls = tool_calls_document(tool_calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls and not answer else answer,
        "refusal": None,
    }
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_delta(call: ToolCall) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if not call.name:
        return {"index": call.index, "function": function}
    return {
        "index": call.index,
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, **function},
    }
