"""What a turn was doing, as one letter a column under the graphs of its watts."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from etui.tui.widgets.power_graph import History


class Stage(StrEnum):
    """What a turn is doing, in the words the screen uses."""

    QUEUED = "queued"
    ROUTING = "routing"
    LOADING = "loading"
    PREFILL = "reading the prompt"
    THINKING = "thinking"
    ANSWERING = "answering"
    DONE = "done"


MARKS = {
    Stage.LOADING: ("L", "load"),
    Stage.PREFILL: ("P", "prefill"),
    Stage.THINKING: ("T", "think"),
    Stage.ANSWERING: ("A", "answer"),
}
"""Letter and word of the stages that have a mark."""


LEGEND = "  ".join(f"{letter} {word}" for letter, word in MARKS.values())


_NAMES = dict(MARKS.values())


def mark_of(stage: Stage) -> str:
    """The letter of a stage, a space for one that draws nothing of its own."""
    return MARKS[stage][0] if stage in MARKS else " "


def column_mark(marks: str) -> str:
    """The mark of a column by those of its samples: the last that is one.

    A phase shorter than a column is still seen, unless another begins in the same column.
    """
    letters = marks.replace(" ", "")
    return letters[-1] if letters else " "


class PhaseStrip(History):
    """One row of letters, in step with the graphs above it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"phase-strip--{word}" for word in _NAMES.values()}

    def __init__(self) -> None:
        super().__init__()
        self._columns: deque[str] = deque(maxlen=self.KEPT_COLUMNS)
        self._pending = ""
        self._pushed = 0

    def note(self, stage: Stage) -> None:
        """A stage was entered; one that is over before the next sample is marked all the same."""
        self._pending += mark_of(stage).strip()

    def push(self, stage: Stage, samples: int = 1) -> None:
        """Take the stage of so many samples."""
        for _ in range(samples):
            self._pending += mark_of(stage)
            self._pushed += 1
            if self._pushed % self.SAMPLES_PER_COLUMN == 0:
                self._columns.append(column_mark(self._pending))
                self._pending = ""
                self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        text = "".join(self._columns)[-width:].rjust(width) if width else ""
        segments = [Segment(letter, self._style_of(letter)) for letter in text]
        return Strip(segments, width).simplify()

    def _style_of(self, letter: str) -> Style:
        if letter not in _NAMES:
            return self.rich_style
        return self.get_component_rich_style(f"phase-strip--{_NAMES[letter]}")
