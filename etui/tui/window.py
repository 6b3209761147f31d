"""Which turns of a long chat are on the screen: pure arithmetic on their indices."""

from __future__ import annotations

from dataclasses import dataclass

MOST_TURNS = 20
"""Turns kept on the screen while answers come: each more makes every new token dearer to draw."""

PAGE_TURNS = 10
"""Turns brought in at a time when the reader scrolls."""

MOST_TURNS_READING = 40
"""Turns kept while the reader scrolls through earlier ones."""


@dataclass(frozen=True, slots=True)
class Window:
    """The turns ``first <= index < end`` of a chat are on the screen."""

    first: int = 0
    end: int = 0

    def earlier(self) -> Window:
        """A page further up; what is too far below is let go."""
        first = max(0, self.first - PAGE_TURNS)
        return Window(first, min(self.end, first + MOST_TURNS_READING))

    def later(self, total: int) -> Window:
        """A page further down; what is too far above is let go."""
        end = min(total, self.end + PAGE_TURNS)
        return Window(max(self.first, end - MOST_TURNS_READING), end)


def latest(total: int, most: int = MOST_TURNS) -> Window:
    """The last turns of a chat."""
    return Window(max(0, total - most), total)
