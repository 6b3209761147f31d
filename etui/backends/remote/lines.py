"""Split the body of an answer into JSON documents, with a bound on every line and on the whole."""

from __future__ import annotations

import json
from typing import Any

MOST_LINE_BYTES = 4 << 20
"""Longest line of a stream; a whole answer of 100,000 tokens with probabilities is shorter."""

MOST_BODY_BYTES = 256 << 20
"""Most bytes of a stream, and a bound against a server that never ends."""

DONE = "[DONE]"


class StreamFault(ValueError):
    """A stream that breaks its format or a bound."""


class LineReader:
    """Splits bytes into lines, however they are cut into chunks."""

    def __init__(
        self, most_line_bytes: int = MOST_LINE_BYTES, most_body_bytes: int = MOST_BODY_BYTES
    ) -> None:
        self._most_line = most_line_bytes
        self._most_body = most_body_bytes
        self._held = bytearray()
        self._total = 0

    def push(self, chunk: bytes) -> list[str]:
        """Add bytes and return the lines that are whole now, without their ends.

        Raises:
            StreamFault: A line or the whole is longer than its bound, or not UTF-8.
        """
        self._total += len(chunk)
        if self._total > self._most_body:
            raise StreamFault(f"the answer is longer than {self._most_body:,} bytes")
        if b"\n" not in chunk:
            self._held += chunk
            self._check(len(self._held))
            return []
        *whole, rest = (bytes(self._held) + chunk).split(b"\n")
        self._held = bytearray(rest)
        for line in (*whole, rest):
            self._check(len(line))
        return [_decode(line.removesuffix(b"\r")) for line in whole]

    def finish(self) -> list[str]:
        """Return the last line if it has no end."""
        line, self._held = bytes(self._held), bytearray()
        return [_decode(line.removesuffix(b"\r"))] if line else []

    def _check(self, length: int) -> None:
        if length > self._most_line:
            raise StreamFault(f"a line of the answer is longer than {self._most_line:,} bytes")


class EventReader:
    """Reads the data of server-sent events from lines; comments and other fields are skipped."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def push(self, line: str) -> str | None:
        """Add a line; return the data of the event that ends with it, None if none does."""
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        return None


def parse_document(text: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        StreamFault: It is something else.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise StreamFault(f"the answer has a part that is not JSON: {text[:80]!r}") from None
    if not isinstance(document, dict):
        raise StreamFault(f"the answer has a part that is not a JSON object: {text[:80]!r}")
    return document


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise StreamFault("the answer is not UTF-8 text") from None
