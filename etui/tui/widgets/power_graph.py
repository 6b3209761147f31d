"""Graph of watts over time on a fixed scale, so that a steady 250 W looks steady and high."""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from etui.plots.terminal import bar_rows, idle_row, scale_top

_MIDDLE_SHARE, _HIGH_SHARE = 0.5, 0.8
"""Shares of the scale above which a column is drawn as medium and as high."""

_IDLE_LINE = "┄"


class History(Widget):
    """Base of widgets that show a history: one column per fixed time, the newest at the right."""

    SAMPLES_PER_COLUMN = 2
    KEPT_COLUMNS = 400


class PowerGraph(History):
    """A graph of one channel's watts, from 0 to its limit, with its idle line."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "power-graph--low",
        "power-graph--middle",
        "power-graph--high",
        "power-graph--idle",
    }

    def __init__(self, limit_watts: float | None, *, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self._limit_watts = limit_watts
        self._idle_watts: float | None = None
        self._columns: deque[float | None] = deque(maxlen=self.KEPT_COLUMNS)
        self._pending: list[float] = []
        self._pushed = 0
        self._highest_watts = 0.0

    @property
    def top_watts(self) -> float:
        """Watts at the upper edge of the graph."""
        return scale_top(self._limit_watts, self._highest_watts)

    def push(self, watts: float | None, samples: int = 1) -> None:
        """Add a reading that covers ``samples`` samples; a column is the mean of its samples."""
        if watts is not None:
            self._highest_watts = max(self._highest_watts, watts)
        for _ in range(samples):
            if watts is not None:
                self._pending.append(watts)
            self._pushed += 1
            if self._pushed % self.SAMPLES_PER_COLUMN == 0:
                mean = sum(self._pending) / len(self._pending) if self._pending else None
                self._columns.append(mean)
                self._pending.clear()
                self.refresh()

    def show_idle(self, watts: float | None) -> None:
        """Draw the idle line at ``watts``, or none for None."""
        if watts != self._idle_watts:
            self._idle_watts = watts
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one row of the columns, and the idle line in its row."""
        width, height = self.size
        columns = list(self._columns)[-width:]
        row = bar_rows(columns, self.top_watts, width, height)[y]
        shades: list[Style] = [
            self._shade(watts) for watts in [*repeat(None, width - len(columns)), *columns]
        ]
        if y == idle_row(self._idle_watts, self.top_watts, height):
            line = self.get_component_rich_style("power-graph--idle")
            shades = [line if c == " " else s for c, s in zip(row, shades, strict=True)]
            row = row.replace(" ", _IDLE_LINE)
        segments = [Segment(c, style) for c, style in zip(row, shades, strict=True)]
        return Strip(segments, width).simplify()

    def _shade(self, watts: float | None) -> Style:
        share = (watts or 0.0) / self.top_watts
        level = "low" if share < _MIDDLE_SHARE else "middle" if share < _HIGH_SHARE else "high"
        return self.get_component_rich_style(f"power-graph--{level}")
