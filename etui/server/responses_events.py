"""The events of a streamed response, from the parts of its answer; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etui.server.documents import logprob_document
from etui.server.responses_output import (
    CallItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
    call_item_id,
    ended_document,
    failed_document,
    response_status,
    started_document,
)

if TYPE_CHECKING:
    from etui.events import TokenLogprob, ToolCall
    from etui.server.deltas import Delta
    from etui.turn.record import TurnRecord

StreamEvent = dict[str, Any]

_LAST = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
}


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
        self._started = started_document(turn_id, created_at, model, echo)
        self._items: list[OutputItem] = []
        self._documents: list[dict[str, Any]] = []
        self._open = False
        self._call_index = -1
        self._number = -1

    def begin(self) -> Iterator[StreamEvent]:
        """Yield the events before the first token."""
        yield self._event("response.created", response=self._started)
        yield self._event("response.in_progress", response=self._started)

    def take(self, delta: Delta) -> Iterator[StreamEvent]:
        """Yield the events that follow from a part of the answer."""
        if delta.thinking:
            yield from self._take_thinking(delta.thinking)
        if delta.content or delta.logprobs:
            yield from self._take_text(delta.content, delta.logprobs)
        if delta.tool is not None:
            yield from self._take_call(delta.tool)
        if delta.finish is not None:
            yield from self._close("incomplete" if delta.finish == "length" else "completed")

    def end(self, record: TurnRecord) -> Iterator[StreamEvent]:
        """Yield the last event, with the usage; an answer without any text is an empty message."""
        status = "completed" if response_status(record.status) == "completed" else "incomplete"
        yield from self._close(status)
        if all(isinstance(item, ReasoningItem) for item in self._items):
            yield from self._take_text("", ())
            yield from self._close(status)
        document = ended_document(self._started, record, self._documents)
        yield self._event(_LAST[document["status"]], response=document)

    def fail(self, message: str) -> Iterator[StreamEvent]:
        """Yield the last events of a response that failed without a record."""
        yield from self._close("incomplete")
        document = failed_document(self._started, message, self._documents)
        yield self._event("response.failed", response=document)

    def _take_thinking(self, text: str) -> Iterator[StreamEvent]:
        if not (self._open and isinstance(self._items[-1], ReasoningItem)):
            yield from self._close()
            number = sum(isinstance(item, ReasoningItem) for item in self._items)
            yield from self._open_item(ReasoningItem(_item_id("rs", self._turn_id, number)))
            yield self._part_event("response.content_part.added", _reasoning_part(""))
        item = self._items[-1]
        assert isinstance(item, ReasoningItem)
        item.text += text
        yield self._content_event("response.reasoning_text.delta", delta=text)

    def _take_text(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[StreamEvent]:
        if not (self._open and isinstance(self._items[-1], MessageItem)):
            yield from self._close()
            number = sum(isinstance(item, MessageItem) for item in self._items)
            yield from self._open_item(MessageItem(_item_id("msg", self._turn_id, number)))
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._part_event("response.content_part.added", part)
        item = self._items[-1]
        assert isinstance(item, MessageItem)
        item.text += text
        item.logprobs.extend(logprobs)
        if text or logprobs:
            documents = [logprob_document(logprob) for logprob in logprobs]
            yield self._content_event("response.output_text.delta", delta=text, logprobs=documents)

    def _take_call(self, call: ToolCall) -> Iterator[StreamEvent]:
        if not (self._open and call.index == self._call_index):
            yield from self._close()
            self._call_index = call.index
            item_id = call_item_id(self._turn_id, call.index)
            yield from self._open_item(CallItem(item_id, call.call_id, call.name))
        item = self._items[-1]
        assert isinstance(item, CallItem)
        item.arguments += call.arguments
        if call.arguments:
            yield self._item_event("response.function_call_arguments.delta", delta=call.arguments)

    def _open_item(self, item: OutputItem) -> Iterator[StreamEvent]:
        self._items.append(item)
        self._open = True
        yield self._event(
            "response.output_item.added",
            output_index=len(self._items) - 1,
            item=item.document("in_progress"),
        )

    def _close(self, status: str = "completed") -> Iterator[StreamEvent]:
        """Yield the events that end the open item; none without one."""
        if not self._open:
            return
        self._open = False
        item = self._items[-1]
        match item:
            case ReasoningItem(text=text):
                yield self._content_event("response.reasoning_text.done", text=text)
                yield self._part_event("response.content_part.done", _reasoning_part(text))
            case MessageItem(text=text):
                part = item.part()
                yield self._content_event(
                    "response.output_text.done", text=text, logprobs=part["logprobs"]
                )
                yield self._part_event("response.content_part.done", part)
            case CallItem():
                yield self._item_event(
                    "response.function_call_arguments.done",
                    name=item.name,
                    arguments=item.arguments,
                )
        document = item.document(status)
        self._documents.append(document)
        yield self._event(
            "response.output_item.done", output_index=len(self._items) - 1, item=document
        )

    def _part_event(self, kind: str, part: dict[str, Any]) -> StreamEvent:
        return self._content_event(kind, part=part)

    def _content_event(self, kind: str, **fields: object) -> StreamEvent:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: object) -> StreamEvent:
        item = self._items[-1]
        return self._event(kind, item_id=item.item_id, output_index=len(self._items) - 1, **fields)

    def _event(self, kind: str, **fields: object) -> StreamEvent:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def _item_id(prefix: str, turn_id: str, number: int) -> str:
    return f"{prefix}_{turn_id}" if number == 0 else f"{prefix}_{turn_id}_{number}"


def _reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}
