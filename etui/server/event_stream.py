"""Server-sent events, and what the streams of both kinds of completions have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from etui import __version__
from etui.server.deltas import Delta, DeltaReader
from etui.server.documents import encode, energy_document_of, turn_documents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from etui.chat import Query
    from etui.runtime.turn_request import PoolEvent
    from etui.server.errors import ApiError
    from etui.turn.record import TurnRecord

_FINGERPRINT = f"etui-{__version__}"

_DONE = b"data: [DONE]\n\n"


def frame(document: Mapping[str, Any]) -> bytes:
    """Return a document as one server-sent event."""
    return b"data: " + encode(document) + b"\n\n"


def energy_comment(record: TurnRecord) -> bytes:
    """Return the joules of a turn as a comment of server-sent events, as Neuralwatt sends them."""
    return b": energy " + encode(energy_document_of(record)) + b"\n\n"


class CompletionStream(ABC):
    """The chunks of one completion, of a chat or of a raw prompt.

    Args:
        prefix: Start of the response's id, before the id of the turn.
        include_usage: Whether the stream ends with a chunk of its usage.
    """

    def __init__(self, query: Query, prefix: str, kind: str, *, include_usage: bool) -> None:
        self._query = query
        self._prefix = prefix
        self._kind = kind
        self._include_usage = include_usage
        self._reader = DeltaReader(query)
        self._created = int(time.time())
        self._id = ""

    def begin(self, turn_id: str) -> None:
        """Note the id of the turn, which is a part of the response's."""
        self._id = self._prefix + turn_id

    def add(self, event: PoolEvent) -> bytes:
        """Take an event; return the chunks that it causes."""
        return b"".join(self._write(delta) for delta in self._reader.add(event))

    def end(self, record: TurnRecord) -> bytes:
        """Return the chunk of the usage if it was asked for, the joules, and the end."""
        usage = b""
        if self._include_usage:
            usage = frame({**self._head(), "choices": [], **turn_documents(record)})
        return usage + energy_comment(record) + _DONE

    def fail(self, error: ApiError) -> bytes:
        """Return the error, after which a stream ends without ``[DONE]``."""
        return frame(error.document())

    @abstractmethod
    def _write(self, delta: Delta) -> bytes:
        """Return the chunks of a part of the answer."""

    def _chunk(self, choice: Mapping[str, Any]) -> bytes:
        usage = {"usage": None} if self._include_usage else {}
        return frame({**self._head(), "choices": [choice], **usage})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": self._kind,
            "created": self._created,
            "model": self._reader.model,
            "system_fingerprint": _FINGERPRINT,
        }
