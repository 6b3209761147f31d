"""Decode streamed token bytes into text: whole characters, up to a stop string.

The text does not depend on how the bytes are split into tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Incremental decoder that stops at a stop string.

    A character is held back until all its bytes have arrived, and a possible beginning of a stop
    string until it is clear whether it is one. Invalid UTF-8 becomes U+FFFD.

    Attributes:
        stopped: The stop string found; None until then.
        remainder: Text after the stop string.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped: str | None = None
        self.remainder = ""

    def push(self, piece: bytes) -> str:
        """Add the bytes of a token and return the text that is final; empty after a stop string."""
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """End the stream and return the text that was held back."""
        shown = self._take(self._decoder.decode(b"", final=True))
        shown += self._held
        self._held = ""
        return shown

    def _take(self, text: str) -> str:
        if self.stopped is not None:
            self.remainder += text
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = first_stop(text, self._stops)
        if found is not None:
            at, self.stopped = found
            self._held = ""
            self.remainder = text[at + len(self.stopped) :]
            return text[:at]
        keep = held_back(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Find the stop string that is completed first; return its start and the string.

    The end decides, not the start, so that the result does not depend on how the text was split.
    """
    found: tuple[int, int, str] | None = None
    for stop in stops:
        at = text.find(stop)
        if at >= 0 and (found is None or (at + len(stop), at) < found[:2]):
            found = (at + len(stop), at, stop)
    return None if found is None else (found[1], found[2])


def held_back(text: str, stops: Sequence[str]) -> int:
    """Count the characters at the end of ``text`` that may begin a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(stop.startswith(tail) for stop in stops):
            return length
    return 0
