"""How the power panel divides its height."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_GRAPH_ROWS, _GRAPH_ROWS, _LEAST_GRAPH_ROWS = 26, 7, 5
_FIXED_ROWS, _AIRY_ROWS = 8, 4
"""Rows of the panel beside graph, channels and budgets; rows of its gaps and of its last line."""


@dataclass(frozen=True, slots=True)
class PanelPlan:
    """How the panel uses its height."""

    graph_rows: int = _GRAPH_ROWS
    columns: int = 1  # Channels side by side
    airy: bool = True  # Whether there are gaps between the parts


def plan_panel(height: int, channels: int, budgets: int) -> PanelPlan:
    """Divide the height of the panel, so that all of it is seen without scrolling if it can be.

    Where it is short, first the gaps go, then the channels are folded into two columns, then the
    graph shrinks.
    """
    left = height - _FIXED_ROWS - budgets
    for columns, airy in ((1, True), (1, False), (2, False)):
        rows = left - -(-channels // columns) - (_AIRY_ROWS if airy else 0)
        if rows >= _GRAPH_ROWS:
            return PanelPlan(min(rows, _MOST_GRAPH_ROWS), columns, airy)
    return PanelPlan(max(_LEAST_GRAPH_ROWS, left - -(-channels // 2)), 2, airy=False)
