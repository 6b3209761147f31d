"""The dialect ``POST /v1/responses``: the same turns as chat completions; nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from etui.server.answer import AnswerForm, Asked
from etui.server.build_request import build_chat_turn, parse_chat
from etui.server.documents import (
    encode,
    energy_comment,
    energy_document_of,
    logprob_document,
    tokens_of_answer,
    turn_documents,
)
from etui.server.errors import ApiError, rename_param
from etui.server.responses_request import parse_response_request

if TYPE_CHECKING:
    from etui.errors import EtuiError
    from etui.events import TokenLogprob
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta, WholeAnswer
    from etui.server.responses_request import ResponseRequest
    from etui.turn.record import ClientRecord, TurnRecord

StreamEvent = dict[str, Any]

_STATUS = {"complete": "completed", "truncated": "incomplete", "budget": "incomplete"}
"""By the status of a turn; one that was stopped or failed is ``failed``."""


def read_response(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request for a response."""
    asked = parse_response_request(document)
    try:
        body, ignored = parse_chat(asked.chat)
        turn = build_chat_turn(body, context, client)
    except ApiError as error:
        raise rename_param(error, asked.rename) from None
    left_out = (*asked.ignored, *ignored)
    return Asked(turn, ResponsesForm(turn, body.model, asked), body.stream, left_out)


@dataclass(slots=True)
class Item:
    """An item of a response: the thinking before an answer, the answer, or a call of a tool."""

    kind: Literal["reasoning", "message", "function_call"]
    item_id: str
    text: str = ""  # The thinking, the answer, or the arguments of the call
    call_id: str = ""
    name: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)  # Those of an answer, if asked for

    def part(self) -> dict[str, Any]:
        """Build the one part of the content of a text."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        logprobs = [logprob_document(each) for each in self.logprobs]
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": logprobs,
        }

    def document(self, status: str) -> dict[str, Any]:
        """Build the item; the content of a message is still empty while it is in progress."""
        head = {"id": self.item_id, "type": self.kind}
        if self.kind == "function_call":
            call = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
            return {**head, **call, "status": status}
        if self.kind == "message":
            content = [] if status == "in_progress" else [self.part()]
            return {**head, "role": "assistant", "content": content, "status": status}
        content = [self.part()] if self.text else []
        thinking = {"summary": [], "content": content, "encrypted_content": None}
        return {**head, **thinking, "status": status}


def build_items(turn_id: str, answer: WholeAnswer) -> list[Item]:
    """Build the items of an answer: its thinking, its text, and the tools that it calls."""
    items = []
    if answer.thinking:
        items.append(Item("reasoning", f"rs_{turn_id}", answer.thinking))
    calls = json.loads(answer.tool_calls) if answer.tool_calls else []
    if answer.text.strip() or not calls:
        logprobs = list(answer.logprobs)
        items.append(Item("message", f"msg_{turn_id}", answer.text, logprobs=logprobs))
    for index, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        items.append(Item("function_call", f"fc_{turn_id}_{index}", arguments, call["id"], name))
    return items


class ResponseEvents:
    """Turns what is decoded into the events of a response.

    At most one item is open at a time: thinking, then text, then each call of a tool. An event
    opens the item that it belongs to, and closes the one before.

    Args:
        created_at: When the response was created, seconds since 1970.
        echo: What the response repeats of its request.
    """

    def __init__(self, turn_id: str, created_at: int, model: str, echo: Mapping[str, Any]) -> None:
        self._turn_id = turn_id
        self.started = {
            "id": f"resp_{turn_id}",
            "object": "response",
            "created_at": created_at,
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            **echo,
            "usage": None,
        }
        self._items: list[Item] = []
        self._documents: list[dict[str, Any]] = []
        self._open: Item | None = None
        self._call_index = -1
        self._number = -1

    def begin(self) -> Iterator[StreamEvent]:
        """Yield the events before the first token."""
        yield self._event("response.created", response=self.started)
        yield self._event("response.in_progress", response=self.started)

    def take(self, delta: Delta) -> Iterator[StreamEvent]:
        """Yield the events that follow from a part of the answer."""
        if delta.thinking:
            yield from self._take_text("reasoning", delta.thinking)
        if delta.content or delta.logprobs:
            yield from self._take_text("message", delta.content, delta.logprobs)
        if delta.tool is not None:
            call = delta.tool
            if not self._is_open("function_call") or call.index != self._call_index:
                self._call_index = call.index
                item_id = f"fc_{self._turn_id}_{call.index}"
                item = Item("function_call", item_id, call_id=call.call_id, name=call.name)
                yield from self._open_item(item)
            if call.arguments:
                self._items[-1].text += call.arguments
                kind = "response.function_call_arguments.delta"
                yield self._item_event(kind, delta=call.arguments)
        if delta.finish is not None:
            yield from self._close("incomplete" if delta.finish == "length" else "completed")

    def end(self, record: TurnRecord) -> Iterator[StreamEvent]:
        """Yield the last event, with the usage; an answer without any text is an empty message."""
        status = "completed" if record.status == "complete" else "incomplete"
        yield from self._close(status)
        if all(item.kind == "reasoning" for item in self._items):
            yield from self._take_text("message", "")
            yield from self._close(status)
        document = build_ended(self.started, record, self._documents)
        yield self._event(f"response.{document['status']}", response=document)

    def fail(self, message: str) -> Iterator[StreamEvent]:
        """Yield the last events of a response that failed without a record, so without joules."""
        yield from self._close("incomplete")
        error = {"code": "server_error", "message": message}
        document = {**self.started, "status": "failed", "error": error, "output": self._documents}
        yield self._event("response.failed", response=document)

    def _is_open(self, kind: str) -> bool:
        return self._open is not None and self._open.kind == kind

    def _take_text(
        self,
        kind: Literal["reasoning", "message"],
        text: str,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> Iterator[StreamEvent]:
        if not self._is_open(kind):
            number = sum(item.kind == kind for item in self._items)
            item_id = f"{'rs' if kind == 'reasoning' else 'msg'}_{self._turn_id}"
            yield from self._open_item(Item(kind, f"{item_id}_{number}" if number else item_id))
            yield self._content_event("response.content_part.added", part=self._items[-1].part())
        item = self._items[-1]
        item.text += text
        item.logprobs.extend(logprobs)
        if kind == "reasoning":
            yield self._content_event("response.reasoning_text.delta", delta=text)
        elif text or logprobs:
            documents = [logprob_document(logprob) for logprob in logprobs]
            yield self._content_event("response.output_text.delta", delta=text, logprobs=documents)

    def _open_item(self, item: Item) -> Iterator[StreamEvent]:
        yield from self._close()
        self._items.append(item)
        self._open = item
        document = item.document("in_progress")
        index = len(self._items) - 1
        yield self._event("response.output_item.added", output_index=index, item=document)

    def _close(self, status: str = "completed") -> Iterator[StreamEvent]:
        """Yield the events that end the open item; none without one."""
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "function_call":
            kind = "response.function_call_arguments.done"
            yield self._item_event(kind, name=item.name, arguments=item.text)
        else:
            part = item.part()
            kind, given = "response.reasoning_text.done", {"text": item.text}
            if item.kind == "message":
                kind, given = "response.output_text.done", given | {"logprobs": part["logprobs"]}
            yield self._content_event(kind, **given)
            yield self._content_event("response.content_part.done", part=part)
        document = item.document(status)
        self._documents.append(document)
        index = len(self._items) - 1
        yield self._event("response.output_item.done", output_index=index, item=document)

    def _content_event(self, kind: str, **fields: object) -> StreamEvent:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: object) -> StreamEvent:
        item_id, index = self._items[-1].item_id, len(self._items) - 1
        return self._event(kind, item_id=item_id, output_index=index, **fields)

    def _event(self, kind: str, **fields: object) -> StreamEvent:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def build_ended(
    started: Mapping[str, Any], record: TurnRecord, output: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Build a response that has ended from the one in progress.

    Its usage has the tokens of the accepted answer, and the joules of the whole turn.
    """
    status, completed_at = _STATUS.get(record.status, "failed"), None
    if status == "completed":
        completed_at = started["created_at"] + round(record.seconds.total)
    error = None
    if status == "failed":
        what = "the answer was stopped" if record.status == "stopped" else "the answer failed"
        error = {"code": "server_error", "message": what}
    tokens = tokens_of_answer(record)
    return {
        **started,
        "completed_at": completed_at,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": record.model,
        "output": list(output),
        **turn_documents(record),
        "usage": {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": 0},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": tokens.thinking},
            "total_tokens": tokens.prompt + tokens.output,
            "energy": energy_document_of(record),
        },
    }


class ResponsesForm(AnswerForm):
    """The response to one request; ``model`` is as the client named it."""

    def __init__(self, request: TurnRequest, model: str, asked: ResponseRequest) -> None:
        super().__init__(request)
        self._model = model
        self._asked = asked
        self._events: ResponseEvents | None = None

    def write(self, delta: Delta) -> bytes:
        """Return the frames of a part of the answer, the first events before the first."""
        opening, events = self._open()
        return opening + _frames(events.take(delta))

    def end(self, record: TurnRecord) -> bytes:
        """Return the last events. The joules come before them: at the last one, clients leave."""
        opening, events = self._open()
        *items, last = events.end(record)
        return opening + _frames(items) + energy_comment(record) + _frames([last])

    def fail(self, error: ApiError) -> bytes:
        """Return the last events of a stream that has failed."""
        opening, events = self._open()
        return opening + _frames(events.fail(error.message))

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        [answer] = self.reader.list_answers(record)
        echo = self._asked.echo
        started = ResponseEvents(self.turn_id, self.created, record.model, echo).started
        status = "completed" if record.status == "complete" else "incomplete"
        items = build_items(self.turn_id, answer)
        return build_ended(started, record, [item.document(status) for item in items])

    def convert(self, error: EtuiError) -> ApiError:
        """Return an error that names the parameter of this endpoint."""
        return rename_param(super().convert(error), self._asked.rename)

    def _open(self) -> tuple[bytes, ResponseEvents]:
        """Return the first events of the stream, if it was not open yet, and what follows them."""
        if self._events is not None:
            return b"", self._events
        model = self.reader.model or self._model
        self._events = ResponseEvents(self.turn_id, self.created, model, self._asked.echo)
        return _frames(self._events.begin()), self._events


def _frames(events: Iterable[StreamEvent]) -> bytes:
    """Return events as server-sent events, each with its type as its name."""
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"
        for event in events
    )
