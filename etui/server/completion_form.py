"""The form of completions of a raw prompt, streamed and whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from etui.server.chat_form import DONE, FINGERPRINT, energy_comment, frame, turn_documents
from etui.server.deltas import Delta, DeltaReader
from etui.server.documents import completion_logprobs, finish_reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etui.chat import Query
    from etui.events import TokenLogprob
    from etui.runtime.turn_request import PoolEvent
    from etui.server.errors import ApiError
    from etui.turn.record import TurnRecord


class CompletionForm:
    """The responses of one completion.

    Args:
        query: The prompt with the options of its output.
        include_usage: Whether a stream ends with a chunk of its usage.
    """

    def __init__(self, query: Query, *, include_usage: bool = False) -> None:
        self._query = query
        self._include_usage = include_usage
        self._reader = DeltaReader(query)
        self._created = int(time.time())
        self._id = ""
        self._characters: dict[int, int] = {}

    def begin(self, turn_id: str) -> None:
        """Note the id of the turn, which is a part of the response's."""
        self._id = f"cmpl-{turn_id}"

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
        choice = _choice(delta.index, delta.content, logprobs, delta.finish)
        usage = {"usage": None} if self._include_usage else {}
        return frame({**self._head(), "choices": [choice], **usage})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._reader.model,
            "system_fingerprint": FINGERPRINT,
        }


def _choice(
    index: int, text: str, logprobs: Mapping[str, Any] | None, finish: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
