"""What a sweep looks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from etui.sweep.blocks import Visit

Measure = Literal["joules", "time", "joules*time"]


@dataclass(frozen=True, slots=True)
class Goal:
    """The figure of one answer to minimize."""

    measure: Measure = "joules"  # Joules, seconds, or their product
    within_percent: float | None = None
    """Only with ``joules``: most percent that the best setting may be slower than the fastest; None
    without a limit."""

    def cost(self, visit: Visit) -> float | None:
        """Return the figure of a visit; None if its joules are unmeasured."""
        if self.measure == "time":
            return visit.seconds
        joules = visit.joules
        if joules is None:
            return None
        return joules if self.measure == "joules" else joules * visit.seconds
