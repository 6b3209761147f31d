"""Hold back streamed text that may turn out to be a repetition, until that is clear."""

from __future__ import annotations

import re

_WORDS = 4
"""Words that must have occurred together before, for the text to be held back from the first."""

_PIECE = re.compile(r"\s*\w+|\s*[^\w\s]")
"""A word or a mark with the white space before it."""


class RepeatHold:
    """Split a stream into text to print now and text to hold.

    A word is held while it and the words after it have occurred together before. So a loop is held
    from its second round on, and other text for a few words at most.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._held: list[str] = []
        self._words: list[str] = []
        self._seen: set[tuple[str, ...]] = set()

    def push(self, text: str) -> str:
        """Add streamed text; return what can be printed."""
        self._rest += text
        found = list(_PIECE.finditer(self._rest))
        # The last piece may go on in the next text.
        printed = "".join(self._add(piece[0]) for piece in found[:-1])
        if found:
            self._rest = self._rest[found[-1].start() :]
        return printed

    def _add(self, piece: str) -> str:
        self._held.append(piece)
        self._words.append(piece.strip())
        seen = [tuple(self._words[-size:]) in self._seen for size in range(1, _WORDS + 1)]
        for size in range(1, min(_WORDS, len(self._words)) + 1):
            self._seen.add(tuple(self._words[-size:]))
        # The word ``back`` places ago may begin a repetition if the words from it on are not new.
        back = next((size for size in range(_WORDS, 0, -1) if seen[size - 1]), 0)
        if back == _WORDS:
            return ""
        keep = min(back, len(self._held))
        out = "".join(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return out

    def finish(self) -> str:
        """Return the text that is still held."""
        held = "".join(self._held) + self._rest
        self._held, self._rest = [], ""
        return held
