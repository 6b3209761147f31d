"""Draft by lookup: what followed the last tokens when they occurred before.

Works where an answer repeats its prompt or itself: edits of code, quotes, summaries, lists. It
costs no model (Saxena, "Prompt Lookup Decoding", 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_GRAMS = (4, 2)
"""Lengths of the n-grams that are looked up, the longest first."""

_CANDIDATES = 16
"""Occurrences compared, the latest first."""

LONGEST_MATCH = 24
"""Longer matches are no better evidence."""


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier occurrence of the last tokens."""

    end: int  # Index of the token after it
    length: int  # Number of equal tokens, at most `LONGEST_MATCH`


class LookupIndex:
    """Index of the n-grams of one sequence, kept up with its tokens."""

    def __init__(self) -> None:
        self._ends: tuple[dict[tuple[int, ...], list[int]], ...] = tuple({} for _ in _GRAMS)
        self._indexed = 0

    def truncate(self, length: int) -> None:
        """Note that the tokens from ``length`` on were removed; entries of them fail to match."""
        self._indexed = min(self._indexed, length)

    def find(self, tokens: Sequence[int]) -> Match | None:
        """Find the longest match of the last tokens, of equally long ones the latest.

        Args:
            tokens: All tokens of the sequence; those seen before must not have changed, unless
                ``truncate`` said so.
        """
        self._extend(tokens)
        last = len(tokens)
        best: Match | None = None
        for size, ends in zip(_GRAMS, self._ends, strict=True):
            if last <= size:
                continue
            found = ends.get(tuple(tokens[last - size :]), ())
            for end in reversed(found[-_CANDIDATES:]):
                length = _match_length(tokens, end) if end < last else 0
                if length >= size and (best is None or length > best.length):
                    best = Match(end, length)
            if best is not None:
                return best
        return None

    def _extend(self, tokens: Sequence[int]) -> None:
        """Index the n-grams that end before the last token: they are followed by a known one."""
        stop = len(tokens) - 1
        for size, ends in zip(_GRAMS, self._ends, strict=True):
            for end in range(max(size, self._indexed + 1), stop + 1):
                ends.setdefault(tuple(tokens[end - size : end]), []).append(end)
        self._indexed = max(self._indexed, stop)


def continue_match(tokens: Sequence[int], match: Match, count: int) -> list[int]:
    """Return the ``count`` tokens after a match; one that reaches the end goes on in a circle."""
    drafted = list(tokens[match.end : match.end + count])
    while len(drafted) < count:
        drafted.append(drafted[len(drafted) - (len(tokens) - match.end)])
    return drafted


def _match_length(tokens: Sequence[int], end: int) -> int:
    last = len(tokens)
    longest = min(end, LONGEST_MATCH)
    length = 0
    while length < longest and tokens[end - 1 - length] == tokens[last - 1 - length]:
        length += 1
    return length
