"""The documents of ``POST /v1/responses``: a response, its items, and its usage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etui.server.documents import (
    energy_document_of,
    logprob_document,
    tokens_of_answer,
    turn_documents,
)

if TYPE_CHECKING:
    from etui.events import TokenLogprob
    from etui.turn.record import TurnRecord

_STATUS = {"complete": "completed", "truncated": "incomplete", "budget": "incomplete"}
"""By the status of a turn; one that was stopped or failed is ``failed``."""


def response_id(turn_id: str) -> str:
    """Return the id of a response."""
    return f"resp_{turn_id}"


def response_status(turn_status: str) -> str:
    """Return the status of a response: ``completed``, ``incomplete`` or ``failed``."""
    return _STATUS.get(turn_status, "failed")


@dataclass(slots=True)
class ReasoningItem:
    """The thinking before an answer, as text."""

    item_id: str
    text: str = ""

    def document(self, status: str) -> dict[str, Any]:
        """Build the item; thinking is not summarised."""
        content = [{"type": "reasoning_text", "text": self.text}] if self.text else []
        return {
            "id": self.item_id,
            "type": "reasoning",
            "summary": [],
            "content": content,
            "encrypted_content": None,
            "status": status,
        }


@dataclass(slots=True)
class MessageItem:
    """The answer as text, with the log-probabilities that were asked for."""

    item_id: str
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def part(self) -> dict[str, Any]:
        """Build the one part of the content."""
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": [logprob_document(each) for each in self.logprobs],
        }

    def document(self, status: str) -> dict[str, Any]:
        """Build the item; its content is still empty while it is in progress."""
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "content": [] if status == "in_progress" else [self.part()],
            "status": status,
        }


@dataclass(slots=True)
class CallItem:
    """One call of a tool."""

    item_id: str
    call_id: str
    name: str
    arguments: str = ""

    def document(self, status: str) -> dict[str, Any]:
        """Build the item."""
        return {
            "id": self.item_id,
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
            "status": status,
        }


OutputItem = ReasoningItem | MessageItem | CallItem


def build_items(
    record: TurnRecord, logprobs: Sequence[TokenLogprob] = (), text: str | None = None
) -> list[OutputItem]:
    """Build the items of an answer: its thinking, its text, and the tools that it calls.

    Args:
        logprobs: Log-probabilities of the tokens of its text.
        text: The text as a stream has it; None takes the one of the record.
    """
    items: list[OutputItem] = []
    if record.thinking:
        items.append(ReasoningItem(f"rs_{record.turn_id}", record.thinking))
    calls = json.loads(record.tool_calls) if record.tool_calls else []
    if record.answer or not calls:
        items.append(MessageItem(f"msg_{record.turn_id}", text or record.answer, list(logprobs)))
    for index, call in enumerate(calls):
        function = call["function"]
        items.append(
            CallItem(
                call_item_id(record.turn_id, index),
                call["id"],
                function["name"],
                function["arguments"],
            )
        )
    return items


def call_item_id(turn_id: str, index: int) -> str:
    """Return the id of the item of a tool call."""
    return f"fc_{turn_id}_{index}"


def response_usage(record: TurnRecord) -> dict[str, Any]:
    """Build ``usage``: tokens of the accepted answer, and the joules of the whole turn."""
    tokens = tokens_of_answer(record)
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": 0},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.thinking},
        "total_tokens": tokens.prompt + tokens.output,
        "energy": energy_document_of(record),
    }


def started_document(
    turn_id: str, created_at: int, model: str, echo: Mapping[str, Any]
) -> dict[str, Any]:
    """Build a response that is in progress.

    Args:
        created_at: When the response was created, seconds since 1970.
        echo: What is repeated of the request.
    """
    return {
        "id": response_id(turn_id),
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


def ended_document(
    started: Mapping[str, Any], record: TurnRecord, output: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Build a response that has ended.

    Args:
        started: The response while it was in progress.
    """
    status = response_status(record.status)
    error = None
    if status == "failed":
        what = "the answer was stopped" if record.status == "stopped" else "the answer failed"
        error = {"code": "server_error", "message": what}
    return {
        **started,
        "completed_at": started["created_at"] + round(record.seconds.total)
        if status == "completed"
        else None,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": record.model,
        "output": list(output),
        **turn_documents(record),
        "usage": response_usage(record),
    }


def failed_document(
    started: Mapping[str, Any], message: str, output: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Build a response that failed without a record; its joules are not known."""
    return {
        **started,
        "status": "failed",
        "error": {"code": "server_error", "message": message},
        "output": list(output),
    }
