"""The dialect ``POST /v1/messages`` (Anthropic), and the tokens that such a request has.

Blocks come one after another: thinking, if the client asked for it, then text, then each call of a
tool. A client is pinged while the prompt is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from etui.errors import ContextOverflow, EtuiError
from etui.server.answer import AnswerForm, Asked, client_of
from etui.server.build_request import build_chat_turn, parse_chat
from etui.server.documents import (
    encode,
    energy_comment,
    energy_document_of,
    headers_of,
    ignored_headers,
    tokens_of_answer,
    turn_documents,
)
from etui.server.errors import ApiError, anthropic_error, invalid, rename_param, to_api_error
from etui.server.messages_request import parse_messages_request
from etui.server.validation import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.events import ToolCall
    from etui.routing.decision import Decision
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta, WholeAnswer
    from etui.server.messages_request import MessagesRequest
    from etui.turn.record import ClientRecord, TurnRecord

_STOP_REASONS = {"tool_calls": "tool_use", "length": "max_tokens"}


def read_message(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request for a message."""
    asked, turn, streamed = _read(document, context, client)
    return Asked(turn, MessagesForm(turn, asked), streamed, asked.ignored)


def _read(
    document: dict[str, Any], context: ServerContext, client: ClientRecord
) -> tuple[MessagesRequest, TurnRequest, bool]:
    asked = parse_messages_request(document)
    try:
        body, ignored = parse_chat(asked.chat)
        turn = build_chat_turn(body, context, client)
    except ApiError as error:
        raise rename_param(error, asked.rename) from None
    asked.ignored += ignored
    if asked.think_tokens is not None:
        depth = replace(turn.overrides, reasoning="cot", think_tokens=asked.think_tokens)
        turn = replace(turn, overrides=depth)
    return asked, turn, body.stream


class MessagesForm(AnswerForm):
    """The responses to one request for a message."""

    def __init__(self, request: TurnRequest, asked: MessagesRequest) -> None:
        super().__init__(request)
        self._asked = asked
        self._begun = False
        self._open = ""  # kind of the open block
        self._index = -1
        self._call = -1
        self._blanks = ""  # before the first text: models write line breaks before calls

    def write(self, delta: Delta) -> bytes:
        """Return the events of a part of the answer."""
        frames = self._begin()
        if delta.thinking and self._asked.shows_thinking:
            frames += self._write_text("thinking", delta.thinking)
        if delta.content:
            text, self._blanks = self._blanks + delta.content, ""
            if self._open != "text" and not text.strip():
                self._blanks = text
            else:
                frames += self._write_text("text", text)
        if delta.tool is not None:
            frames += self._write_call(delta.tool)
        return frames + self._close() if delta.finish is not None else frames

    def end(self, record: TurnRecord) -> bytes:
        """Return the last events. The joules come before them: at the last one, clients leave."""
        frames = self._begin() + self._close()
        [answer] = self.reader.list_answers(record)
        documents = turn_documents(record) | {"usage": _usage(record)}
        frames += _frame("message_delta", delta=self._ending(answer), **documents)
        return frames + energy_comment(record) + _frame("message_stop")

    def fail(self, error: ApiError) -> bytes:
        """Return the event of an error, after which the stream ends."""
        _, document = anthropic_error(error, "")
        return _frame("error", error=document["error"])

    def keep_alive(self) -> bytes:
        """Return a ping, with the progress in a comment."""
        return super().keep_alive() + _frame("ping")

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole message."""
        [answer] = self.reader.list_answers(record)
        content: list[dict[str, Any]] = []
        calls = json.loads(answer.tool_calls) if answer.tool_calls else []
        if answer.thinking and self._asked.shows_thinking:
            thought = {"thinking": answer.thinking, "signature": self._signature()}
            content.append({"type": "thinking", **thought})
        if answer.text.strip() or not calls:
            content.append({"type": "text", "text": answer.text})
        for call in calls:
            function = call["function"]
            block = {"type": "tool_use", "id": call["id"], "name": function["name"]}
            content.append({**block, "input": _read_arguments(function["arguments"])})
        message = self._head(record.model, content) | self._ending(answer)
        return {**message, **turn_documents(record), "usage": _usage(record)}

    def convert(self, error: EtuiError) -> ApiError:
        """Return an error in the words by which clients know that they have to shorten."""
        if isinstance(error, ContextOverflow):
            asked = error.prompt_tokens + error.reserved_tokens
            text = f"prompt is too long: {asked} tokens > {error.context_tokens} maximum"
            return invalid(text, "messages", "context_length_exceeded")
        return rename_param(to_api_error(error), self._asked.rename)

    def _begin(self) -> bytes:
        """Return the first event, if it was not sent yet; the usage of the last events counts."""
        if self._begun:
            return b""
        self._begun = True
        prefilled = self.reader.prefilled
        usage = {
            "input_tokens": prefilled.computed_tokens if prefilled else 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": prefilled.cached_tokens if prefilled else 0,
            "output_tokens": 0,
        }
        message = {**self._head(self.reader.model, []), "stop_reason": None, "stop_sequence": None}
        return _frame("message_start", message={**message, "usage": usage})

    def _head(self, model: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": f"msg_{self.turn_id}", "type": "message", "role": "assistant"}
        return {**head, "model": model, "content": content}

    def _ending(self, answer: WholeAnswer) -> dict[str, Any]:
        reason, stop = _STOP_REASONS.get(answer.finish, "end_turn"), None
        if reason == "end_turn" and self.reader.stop:
            reason, stop = "stop_sequence", self.reader.stop
        return {"stop_reason": reason, "stop_sequence": stop}

    def _signature(self) -> str:
        """Return what marks a thought as this server's; it is not checked when it comes back."""
        return f"etui-{self.turn_id}"

    def _write_text(self, kind: str, text: str) -> bytes:
        frames = b""
        if self._open != kind:
            signature = {"signature": ""} if kind == "thinking" else {}
            frames = self._open_block(kind, {kind: "", **signature})
        delta = {"type": f"{kind}_delta", kind: text}
        return frames + _frame("content_block_delta", index=self._index, delta=delta)

    def _write_call(self, call: ToolCall) -> bytes:
        frames = b""
        if self._open != "tool_use" or call.index != self._call:
            self._call, self._blanks = call.index, ""
            block = {"id": call.call_id, "name": call.name, "input": {}}
            frames = self._open_block("tool_use", block)
        if not call.arguments:
            return frames
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        return frames + _frame("content_block_delta", index=self._index, delta=delta)

    def _open_block(self, kind: str, block: Mapping[str, Any]) -> bytes:
        frames = self._close()
        self._open, self._index = kind, self._index + 1
        begun = {"type": kind, **block}
        return frames + _frame("content_block_start", index=self._index, content_block=begun)

    def _close(self) -> bytes:
        """Return the events that end the open block; none without one."""
        kind, self._open = self._open, ""
        frames = b""
        if kind == "thinking":
            delta = {"type": "signature_delta", "signature": self._signature()}
            frames = _frame("content_block_delta", index=self._index, delta=delta)
        return frames + _frame("content_block_stop", index=self._index) if kind else b""


def build_count_route(context: ServerContext) -> Route:
    """Build the route that counts the tokens of a request for a message."""
    limiter = CapacityLimiter(1)  # one vocabulary works at a time; the other routes need threads

    async def count(request: Request) -> JSONResponse:
        document, client = await read_json(request), client_of(request)
        asked, turn, _ = await run_in_threadpool(_read, document, context, client)
        try:
            count_prompt = partial(_count_tokens, turn, context)
            decision, tokens = await to_thread.run_sync(count_prompt, limiter=limiter)
        except EtuiError as error:
            raise rename_param(to_api_error(error), asked.rename) from error
        headers = headers_of(decision) | ignored_headers(asked.ignored)
        return JSONResponse({"input_tokens": tokens}, headers=headers)

    return Route("/v1/messages/count_tokens", count, methods=["POST"])


def _read_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call as the object that the protocol wants, even if they broke off.

    A template that writes objects is given them in the same form when they come back.
    """
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"arguments": text}


def _count_tokens(turn: TurnRequest, context: ServerContext) -> tuple[Decision, int]:
    from etui.runtime.forecast import count_prompt

    decision = context.pool.decide(turn).decision
    return decision, count_prompt(turn.query, decision.arm, context.runtime, context.tokens)


def _usage(record: TurnRecord) -> dict[str, Any]:
    """Build ``usage``: tokens of the accepted answer, and the joules of the whole turn."""
    tokens = tokens_of_answer(record)
    return {
        "input_tokens": tokens.computed,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": tokens.output,
        "energy": energy_document_of(record),
    }


def _frame(kind: str, **fields: object) -> bytes:
    """Return one server-sent event with its type as its name."""
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **fields}) + b"\n\n"
