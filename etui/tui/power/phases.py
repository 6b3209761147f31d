"""Stages of a turn over time, as one letter per column under the power graphs."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget


class Stage(StrEnum):
    """What a turn is doing, in the words shown on the screen."""

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


def mark_stage(stage: Stage) -> str:
    """Return the letter of a stage, or a space for a stage without a mark."""
    return MARKS[stage][0] if stage in MARKS else " "


def mark_column(marks: str) -> str:
    """Return the mark of a column, given the marks of its samples: the last that is not a space.

    A stage shorter than a column is still shown, unless another begins in the same column.
    """
    letters = marks.replace(" ", "")
    return letters[-1] if letters else " "


class PhaseStrip(Widget):
    """One row of letters, aligned with the columns of the graphs above."""

    SAMPLES_PER_COLUMN = 2
    KEPT_COLUMNS = 400
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"phase-strip--{word}" for word in _NAMES.values()}

    def __init__(self) -> None:
        super().__init__()
        self._columns: deque[str] = deque(maxlen=self.KEPT_COLUMNS)
        self._pending = ""
        self._pushed = 0

    def note(self, stage: Stage) -> None:
        """Note a new stage, so that it is marked even if it ends before the next sample."""
        self._pending += mark_stage(stage).strip()

    def push(self, stage: Stage, samples: int = 1) -> None:
        """Add the stage of the next ``samples`` samples."""
        for _ in range(samples):
            self._pending += mark_stage(stage)
            self._pushed += 1
            if self._pushed % self.SAMPLES_PER_COLUMN == 0:
                self._columns.append(mark_column(self._pending))
                self._pending = ""
                self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the newest letters, right-aligned."""
        width = self.size.width
        text = "".join(self._columns)[-width:].rjust(width) if width else ""
        segments = [Segment(letter, self._style_of(letter)) for letter in text]
        return Strip(segments, width).simplify()

    def _style_of(self, letter: str) -> Style:
        if letter not in _NAMES:
            return self.rich_style
        return self.get_component_rich_style(f"phase-strip--{_NAMES[letter]}")
