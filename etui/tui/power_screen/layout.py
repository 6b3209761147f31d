"""How the power screen divides the terminal between its graph, its channels and what was spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["channels", "models", "days", "money"]
PARTS: tuple[Part, ...] = ("channels", "models", "days", "money")
"""Parts between which tab moves, in their order; the channels come with the graph."""

_COMPACT_HEIGHT, _COMPACT_WIDTH = 16, 60
_WIDE = 112
_FIXED_LINES = 4
"""The title, the titles of the columns, those of the parts, and the footer."""

_LEAST_GRAPH, _MOST_GRAPH = 5, 22
_LEAST_SPENT, _MOST_SPENT = 5, 16
_MOST_ROW = 4


@dataclass(frozen=True, slots=True)
class ScreenLayout:
    """Heights in lines, and the parts that are shown."""

    graph_height: int  # 0 hides the graph
    row_height: int  # Lines of a channel
    channels_height: int  # Lines of all channels together; they scroll if that is too few
    spent_height: int  # Lines below the titles of the parts; 0 hides them
    parts: tuple[Part, ...]  # The parts that are shown, from the left


def choose_layout(width: int, height: int, rows: int, focused: Part, left: Part) -> ScreenLayout:
    """Choose the layout for a terminal.

    Args:
        rows: Channels, with the total.
        left: Part that is shown beside the money where only two have room.
    """
    if height < _COMPACT_HEIGHT or width < _COMPACT_WIDTH:
        room = max(1, height - 3)
        if focused == "channels":
            return ScreenLayout(0, 1, room, 0, ())
        return ScreenLayout(0, 1, 0, room, (focused,))
    parts: tuple[Part, ...] = ("models", "days", "money") if width >= _WIDE else (left, "money")
    room = height - _FIXED_LINES
    spent = max(_LEAST_SPENT, min(_MOST_SPENT, room // 3))
    rows = max(1, rows)
    row_height = max(1, min(_MOST_ROW, (room - spent - room // 4) // rows))
    channels = min(rows * row_height, room - spent - _LEAST_GRAPH)
    graph = room - spent - channels
    if graph > _MOST_GRAPH:
        spent, graph = spent + graph - _MOST_GRAPH, _MOST_GRAPH
    return ScreenLayout(graph, row_height, channels, spent, parts)
