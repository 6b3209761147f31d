"""Graph of watts over time in braille, for live power and for the past.

The scale is fixed by the power limit, so that a steady 250 W looks steady and high.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from etui.plots.braille import Graph, Run, draw_graph, gutter_width
from etui.plots.power_history import Buckets

EMPTY = Graph(Buckets(1.0, (), (), ""))


class PowerGraph(Widget):
    """A graph of watts over time: axes, idle line, and the phases as colours and words."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "power-graph--plain",
        "power-graph--load",
        "power-graph--prefill",
        "power-graph--thinking",
        "power-graph--answer",
        "power-graph--own",
        "power-graph--others",
        "power-graph--limit",
        "power-graph--idle",
        "power-graph--axis",
    }

    def __init__(
        self,
        *,
        id: str | None = None,  # noqa: A002 as Textual has it
    ) -> None:
        super().__init__(id=id)
        self._graph = EMPTY
        self._drawn: tuple[tuple[int, int], list[list[Run]]] | None = None

    @property
    def values(self) -> int:
        """Number of values that fit: two a cell, right of the axis."""
        return max(2, 2 * (self.size.width - gutter_width(self._graph)))

    def show(self, graph: Graph) -> None:
        if graph != self._graph:
            self._graph = graph
            self._drawn = None
            self.refresh()

    def render_line(self, y: int) -> Strip:
        size = (self.size.width, self.size.height)
        if self._drawn is None or self._drawn[0] != size:
            self._drawn = (size, draw_graph(self._graph, *size))
        rows = self._drawn[1]
        if y >= len(rows):
            return Strip.blank(size[0], self.rich_style)
        style = self.get_component_rich_style
        strip = Strip([Segment(text, style(f"power-graph--{ink}")) for text, ink in rows[y]])
        return strip.adjust_cell_length(size[0], self.rich_style)
