"""Which turns of a long chat are mounted."""

from __future__ import annotations

from dataclasses import dataclass

MOST_TURNS = 20
"""Turns kept mounted while answers stream: each one makes a new token more expensive to draw."""


PAGE_TURNS = 10
"""Turns mounted at a time when the reader scrolls."""


MOST_TURNS_READING = 40
"""Turns kept mounted while the reader scrolls through earlier ones."""


@dataclass(frozen=True, slots=True)
class TurnWindow:
    """Range of the mounted turns of a chat: ``first <= index < end``."""

    first: int = 0
    end: int = 0

    def earlier(self) -> TurnWindow:
        """Return the window one page further up, without the turns too far below."""
        first = max(0, self.first - PAGE_TURNS)
        return TurnWindow(first, min(self.end, first + MOST_TURNS_READING))

    def later(self, total: int) -> TurnWindow:
        """Return the window one page further down, without the turns too far above."""
        end = min(total, self.end + PAGE_TURNS)
        return TurnWindow(max(self.first, end - MOST_TURNS_READING), end)


def latest_window(total: int, most: int = MOST_TURNS) -> TurnWindow:
    """Return the window of the last turns of a chat."""
    return TurnWindow(max(0, total - most), total)


def window_around(index: int, total: int, most: int = MOST_TURNS) -> TurnWindow:
    """Return a window of turns with the turn at ``index`` in its middle, where that is possible."""
    first = max(0, min(index - most // 2, total - most))
    return TurnWindow(first, min(total, first + most))
