"""Fit the power range of the CPU estimate to real readings of the same machine.

    P = P_idle + (P_limit - P_idle) x utilisation

is fitted by least squares over slices in which both the package's counter and the utilisation are
known. It needs readings from idle to full load; a fit over too small a span is not trustworthy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEAST_SPAN = 0.5
_LEAST_POINTS = 8


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted range.

    Attributes:
        idle_watts, limit_watts: Power at no and at full utilisation.
    """

    idle_watts: float
    limit_watts: float
    band: float
    """Twice the standard deviation of the readings around the fit, relative to their mean."""
    span: float  # Utilisation between the lowest and the highest reading, 0..1
    points: int  # Readings fitted

    @property
    def trustworthy(self) -> bool:
        """Whether the readings span enough of the range to determine its ends."""
        return self.span >= _LEAST_SPAN and self.points >= _LEAST_POINTS


def fit_range(readings: Sequence[tuple[float, float]]) -> Calibration | None:
    """Fit the power range to (utilisation 0..1, watts) pairs.

    Returns:
        The range; None when there are fewer than two different utilisations, or when power does
        not rise with utilisation.
    """
    count = len(readings)
    if count < 2:
        return None
    mean_x = sum(x for x, _ in readings) / count
    mean_y = sum(y for _, y in readings) / count
    spread = sum((x - mean_x) ** 2 for x, _ in readings)
    if spread <= 0 or mean_y <= 0:
        return None
    slope = sum((x - mean_x) * (y - mean_y) for x, y in readings) / spread
    if slope <= 0:
        return None
    idle = max(mean_y - slope * mean_x, 0.0)
    limit = mean_y + slope * (1 - mean_x)
    squares = sum((y - idle - (limit - idle) * x) ** 2 for x, y in readings)
    band = 2 * (squares / max(count - 2, 1)) ** 0.5 / mean_y
    uses = [x for x, _ in readings]
    return Calibration(idle, limit, band, max(uses) - min(uses), count)
