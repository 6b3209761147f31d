"""Code fences of a Markdown text that still grows."""

from __future__ import annotations

LIVE_LINES = 16
"""Most lines of a fence that is highlighted and laid out again with each new line."""

CONTINUED = "+"
"""Word in the first line of a fence that goes on with the one before it."""

_FENCES = ("```", "~~~")


class FenceTracker:
    """Tracks whether a growing Markdown text ends inside a fenced code block."""

    def __init__(self) -> None:
        self._line = ""
        self._opened_by: str | None = None

    @property
    def marker(self) -> str | None:
        """Backticks or tildes that opened the current fence; None outside of a fence."""
        return self._opened_by

    @property
    def inside(self) -> bool:
        """Whether a fence is open at the end of the text so far."""
        marker = _parse_fence_marker(self._line)
        if self._opened_by is None:
            return marker is not None
        return not (marker and marker.startswith(self._opened_by))

    def feed(self, text: str) -> None:
        """Process the next piece of the text."""
        *ended, self._line = (self._line + text).split("\n")
        for line in ended:
            marker = _parse_fence_marker(line)
            if self._opened_by is None:
                self._opened_by = marker
            elif marker and marker.startswith(self._opened_by) and not line.strip().strip(marker):
                self._opened_by = None


class ShortFences:
    """A growing text in which a long fence is closed and opened again every few lines.

    Each append lays out the whole block that it belongs to, so a fence of a thousand lines would
    cost more and more while it grows, and keys would wait for it. With short fences only the last
    few lines are laid out again; those before them are blocks of their own.
    """

    def __init__(self, most_lines: int = LIVE_LINES) -> None:
        self._most_lines = most_lines
        self._tracker = FenceTracker()
        self._line = ""
        self._opener = ""
        self._lines = 0

    def feed(self, text: str) -> str:
        """Return the next piece of the text, with the lines that close and reopen a fence."""
        *ended, unended = text.split("\n")
        out: list[str] = []
        for end in ended:
            out.append(f"{end}\n")
            out.append(self._end_line(self._line + end))
            self._line = ""
        self._line += unended
        return "".join([*out, unended])

    def _end_line(self, line: str) -> str:
        before = self._tracker.marker
        self._tracker.feed(f"{line}\n")
        marker = self._tracker.marker
        if marker is None:
            return ""
        if before is None:
            self._opener, self._lines = line, 0
            return ""
        self._lines += 1
        if self._lines < self._most_lines:
            return ""
        self._lines = 0
        indent = self._opener[: len(self._opener) - len(self._opener.lstrip(" "))]
        return f"{indent}{marker}\n{self._opener} {CONTINUED}\n"


def _parse_fence_marker(line: str) -> str | None:
    """Return the backticks or tildes that begin a fence line; None for any other line."""
    stripped = line.lstrip(" ")
    if len(line) - len(stripped) > 3 or not stripped.startswith(_FENCES):
        return None
    return stripped[: len(stripped) - len(stripped.lstrip(stripped[0]))]
