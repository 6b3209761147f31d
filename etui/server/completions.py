"""``POST /v1/chat/completions`` and ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.routing import Route

from etui.events import ToolCall
from etui.server.build_request import (
    build_chat_turn,
    build_completion_turn,
    parse_chat,
    parse_completion,
)
from etui.server.chat_request import ChatBody, CompletionBody
from etui.server.context import key_name, request_id
from etui.server.deltas import Choice, Delta
from etui.server.documents import (
    completion_logprobs,
    finish_reason,
    logprob_document,
    tool_calls_document,
    turn_documents,
)
from etui.server.event_stream import CompletionStream
from etui.server.turn_response import AnswerForm, TurnResponse
from etui.server.validation import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from etui.chat import Query
    from etui.events import TokenLogprob
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.turn.record import TurnRecord


class ChatForm(CompletionStream):
    """The responses of one chat completion.

    Args:
        include_usage: Whether a stream ends with a chunk of its usage.
    """

    def __init__(self, query: Query, *, include_usage: bool = False) -> None:
        super().__init__(query, "chatcmpl-", "chat.completion.chunk", include_usage=include_usage)
        self._opened: set[int] = set()

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        return {
            **self._head(),
            "object": "chat.completion",
            "model": record.model,
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
                "message": build_message(
                    self._reader.whole_text(record), record.thinking, record.tool_calls
                ),
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
            opening = self._build_chunk(delta.index, {"role": "assistant", "content": ""})
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
        return opening + self._build_chunk(delta.index, parts, logprobs, delta.finish)

    def _build_chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        return self._chunk(
            {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        )


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


class CompletionForm(CompletionStream):
    """The responses of one completion.

    Args:
        query: The prompt with the options of its output.
        include_usage: Whether a stream ends with a chunk of its usage.
    """

    def __init__(self, query: Query, *, include_usage: bool = False) -> None:
        super().__init__(query, "cmpl-", "text_completion", include_usage=include_usage)
        self._characters: dict[int, int] = {}

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        ended = self._reader.choices
        if ended:
            choices = [
                _choice(index, each.vote.answer, self._logprobs(each.logprobs), each.finish)
                for index, each in sorted(ended.items())
            ]
        else:
            text = self._reader.whole_text(record)
            logprobs = self._logprobs(self._reader.logprobs)
            choices = [_choice(0, text, logprobs, finish_reason(record.status))]
        return {**self._head(), "model": record.model, "choices": choices, **turn_documents(record)}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        asked = self._query.options.top_logprobs is not None
        return completion_logprobs(logprobs) if asked else None

    def _write(self, delta: Delta) -> bytes:
        before = self._characters.get(delta.index, 0)
        self._characters[delta.index] = before + len(delta.content)
        logprobs = completion_logprobs(delta.logprobs, before) if delta.logprobs else None
        if not delta.content and logprobs is None and delta.finish is None:
            return b""
        return self._chunk(_choice(delta.index, delta.content, logprobs, delta.finish))


def _choice(
    index: int, text: str, logprobs: Mapping[str, Any] | None, finish: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


B = TypeVar("B", ChatBody, CompletionBody)

CHAT_PATH = "/v1/chat/completions"
PATH = "/v1/completions"


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""
    return [
        _build_route(context, CHAT_PATH, parse_chat, build_chat_turn, ChatForm),
        _build_route(context, PATH, parse_completion, build_completion_turn, CompletionForm),
    ]


def _build_route(
    context: ServerContext,
    path: str,
    parse: Callable[[Mapping[str, Any]], B],
    build_turn: Callable[..., TurnRequest],
    form: Callable[..., AnswerForm],
) -> Route:
    async def complete(request: Request) -> Response:
        body = parse(await read_json(request))
        turn = build_turn(
            body, context, endpoint=path, key=key_name(request), request_id=request_id(request)
        )
        usage = body.stream_options is not None and body.stream_options.include_usage
        return TurnResponse(
            context, turn, form(turn.query, include_usage=usage), streamed=body.stream
        )

    return Route(path, complete, methods=["POST"])
