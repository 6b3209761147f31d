"""The form of completions of a raw prompt, streamed and whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etui.server.deltas import Delta
from etui.server.documents import completion_logprobs, finish_reason, turn_documents
from etui.server.event_stream import CompletionStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etui.chat import Query
    from etui.events import TokenLogprob
    from etui.turn.record import TurnRecord


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
