"""What every search for a lag asks at each one: how closely a meter follows the power there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, np.dtype[np.float64]]


def correlate(first: Values, second: Values, least: int = 2) -> float | None:
    """Return the correlation (Pearson's) of two series where both are finite.

    Its square is the share of the variance that a line explains. A meter rises with the power, so a
    negative correlation is no lag, however much it explains: a load that comes and goes regularly
    has one half a period off the lag. None with fewer than ``least`` finite pairs, or where one
    series does not vary.
    """
    import numpy as np

    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < least:
        return None
    a, b = first[known], second[known]
    if not (np.ptp(a) and np.ptp(b)):  # their means may differ from them by rounding
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
