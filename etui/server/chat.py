"""The dialect ``POST /v1/chat/completions``, and what all answers as choices have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etui import __version__
from etui.server.answer import AnswerForm, Asked
from etui.server.build_request import build_chat_turn, parse_chat
from etui.server.documents import encode, energy_comment, logprob_document, turn_documents

if TYPE_CHECKING:
    from etui.events import TokenLogprob, ToolCall
    from etui.runtime.turn_request import TurnRequest
    from etui.server.chat_request import SampledBody
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta, WholeAnswer
    from etui.server.errors import ApiError
    from etui.turn.record import ClientRecord, TurnRecord


def read_chat(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request for a chat completion."""
    body, ignored = parse_chat(document)
    turn = build_chat_turn(body, context, client)
    return Asked(turn, ChatForm(turn, body), body.stream, ignored)


class ChoicesForm(AnswerForm):
    """An answer as choices, in chunks if it is streamed."""

    prefix: str  # Start of the response's id, before the id of the turn
    kind: str  # Its `object`
    chunk_kind: str

    def __init__(self, request: TurnRequest, body: SampledBody) -> None:
        super().__init__(request)
        options = body.stream_options
        self._include_usage = options is not None and options.include_usage

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        return {
            **self._head(self.kind),
            "model": record.model,
            "choices": self.list_choices(record),
            **turn_documents(record),
        }

    def list_choices(self, record: TurnRecord) -> list[dict[str, Any]]:
        """Build the choices of a turn."""
        return [self._build_choice(answer) for answer in self.reader.list_answers(record)]

    def end(self, record: TurnRecord) -> bytes:
        """Return the chunk of the usage if it was asked for, the joules, and the end."""
        usage = b""
        if self._include_usage:
            documents = {"choices": [], **turn_documents(record)}
            usage = frame({**self._head(self.chunk_kind), **documents})
        return usage + energy_comment(record) + b"data: [DONE]\n\n"

    def fail(self, error: ApiError) -> bytes:
        """Return the error, after which a stream ends without ``[DONE]``."""
        return frame(error.document())

    def _build_choice(self, answer: WholeAnswer) -> dict[str, Any]:
        raise NotImplementedError

    def _write_chunk(self, index: int, part: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "logprobs": None, **part, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return frame({**self._head(self.chunk_kind), "choices": [choice], **usage})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.prefix + self.turn_id,
            "object": kind,
            "created": self.created,
            "model": self.reader.model,
            "system_fingerprint": f"etui-{__version__}",
        }


class ChatForm(ChoicesForm):
    """The responses of one chat completion."""

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, request: TurnRequest, body: SampledBody) -> None:
        super().__init__(request, body)
        self._opened: set[int] = set()

    def write(self, delta: Delta) -> bytes:
        """Return the chunks of a part of the answer."""
        opening = b""
        if delta.index not in self._opened:
            self._opened.add(delta.index)
            first = {"role": "assistant", "content": ""}
            opening = self._write_chunk(delta.index, {"delta": first})
        parts: dict[str, Any] = {}
        if delta.content:
            parts["content"] = delta.content
        if delta.thinking:
            parts["reasoning_content"] = delta.thinking
        if delta.tool is not None:
            parts["tool_calls"] = [_tool_delta(delta.tool)]
        if not parts and not delta.logprobs and delta.finish is None:
            return opening
        logprobs = self._build_logprobs(delta.logprobs) if delta.logprobs else None
        part = {"delta": parts, "logprobs": logprobs}
        return opening + self._write_chunk(delta.index, part, delta.finish)

    def _build_choice(self, answer: WholeAnswer) -> dict[str, Any]:
        return {
            "index": answer.index,
            "message": _build_message(answer),
            "logprobs": self._build_logprobs(answer.logprobs),
            "finish_reason": answer.finish,
        }

    def _build_logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.reader.with_logprobs:
            return None
        return {"content": [logprob_document(each) for each in logprobs], "refusal": None}


def _build_message(answer: WholeAnswer) -> dict[str, Any]:
    """Build the message of an answer; thinking and tool calls are keys only where there are any."""
    calls = json.loads(answer.tool_calls) if answer.tool_calls else None
    content = None if calls and not answer.text else answer.text
    return {
        "role": "assistant",
        "content": content,
        "refusal": None,
        **({"reasoning_content": answer.thinking} if answer.thinking else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _tool_delta(call: ToolCall) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if not call.name:
        return {"index": call.index, "function": function}
    function = {"name": call.name, **function}
    return {"index": call.index, "id": call.call_id, "type": "function", "function": function}


def frame(document: Mapping[str, Any]) -> bytes:
    """Return a document as one server-sent event."""
    return b"data: " + encode(document) + b"\n\n"
