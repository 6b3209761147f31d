"""Code fences of a Markdown text that still grows."""

from __future__ import annotations

LIVE_LINES = 16
"""Most lines of a fence that is highlighted and laid out anew as its lines come."""

_FENCES = ("```", "~~~")


class FenceTracker:
    """Whether a growing Markdown text ends inside a fenced code block."""

    def __init__(self) -> None:
        self._line = ""
        self._opened_by: str | None = None

    @property
    def marker(self) -> str | None:
        """The run of backticks or tildes that opened the fence; None outside of one."""
        return self._opened_by

    @property
    def inside(self) -> bool:
        """A fence is open at the end of what was fed."""
        marker = _fence_marker(self._line)
        if self._opened_by is None:
            return marker is not None
        return not (marker and marker.startswith(self._opened_by))

    def feed(self, text: str) -> None:
        """Take the next piece of the text."""
        *ended, self._line = (self._line + text).split("\n")
        for line in ended:
            marker = _fence_marker(line)
            if self._opened_by is None:
                self._opened_by = marker
            elif marker and marker.startswith(self._opened_by) and not line.strip().strip(marker):
                self._opened_by = None


class ShortFences:
    """A growing text in which a long fence is closed and opened again every few lines.

    Each append lays the block out that it belongs to, so a fence of a thousand lines would cost
    more and more while it grows, and the keys would wait for it. What lies before the last few
    lines is a block of its own instead, and is left alone.
    """

    def __init__(self, most_lines: int = LIVE_LINES) -> None:
        self._most_lines = most_lines
        self._tracker = FenceTracker()
        self._line = ""
        self._opener = ""
        self._lines = 0

    def feed(self, text: str) -> str:
        """The next piece of the text, with what closes and opens a fence put in."""
        *ended, rest = text.split("\n")
        out: list[str] = []
        for end in ended:
            out.append(f"{end}\n")
            out.append(self._end_line(self._line + end))
            self._line = ""
        self._line += rest
        return "".join([*out, rest])

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
        return f"{indent}{marker}\n{self._opener}\n"


def _fence_marker(line: str) -> str | None:
    """The run of backticks or tildes that begins a fence line, None on any other line."""
    stripped = line.lstrip(" ")
    if len(line) - len(stripped) > 3 or not stripped.startswith(_FENCES):
        return None
    return stripped[: len(stripped) - len(stripped.lstrip(stripped[0]))]
