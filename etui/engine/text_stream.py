"""Text out of token bytes, as it streams: whole characters, up to a stop string.

Whatever way the bytes are cut into tokens, the same text comes out.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Bytes in, text out, up to a stop string.

    A character is held back until all its bytes are there, and text that could be the beginning of
    a stop string until it is known whether it is one. Bytes that are no UTF-8 become U+FFFD.

    Attributes:
        stopped: The stop string that was found; None as long as there is none.
        rest: Text behind the stop string.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped: str | None = None
        self.rest = ""

    def push(self, piece: bytes) -> str:
        """The text that is certain once ``piece`` is there; empty after a stop string."""
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """The text that was held back, at the end of the stream."""
        shown = self._take(self._decoder.decode(b"", final=True))
        shown += self._held
        self._held = ""
        return shown

    def _take(self, text: str) -> str:
        if self.stopped is not None:
            self.rest += text
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = first_stop(text, self._stops)
        if found is not None:
            at, self.stopped = found
            self._held = ""
            self.rest = text[at + len(self.stopped) :]
            return text[:at]
        keep = held_back(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the stop string that is complete first begins, and which it is.

    Complete first, not begun first: only so the result is the same however the text was cut.
    """
    found: tuple[int, int, str] | None = None
    for stop in stops:
        at = text.find(stop)
        if at >= 0 and (found is None or (at + len(stop), at) < found[:2]):
            found = (at + len(stop), at, stop)
    return None if found is None else (found[1], found[2])


def held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of ``text`` that could be the beginning of a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(stop.startswith(tail) for stop in stops):
            return length
    return 0
