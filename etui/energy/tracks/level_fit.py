"""Levels of power between marks: least squares over power readings that follow a step late.

A reading is the mean of the time before it, and up to a refresh old. Dated to the middle of that
time, it follows a step at m along a ramp centred at m: the averaging time, blurred by the age.
Near marks the power is taken as level between them; the readings are then linear in the levels, and
the energy of the levels replaces that of the readings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_ROUNDS = 3
_RELATIVE_NOISE = 0.02
_LEAST_NOISE_WATTS = 0.5


@dataclass(frozen=True, slots=True)
class LevelFit:
    """Levels between marks."""

    marks_s: tuple[float, ...]  # Times of the marks, seconds
    watts: np.ndarray[Any, Any]  # Levels before, between and after them, one more than marks
    covariance: np.ndarray[Any, Any]  # Covariance of the levels, watts squared

    def joules(
        self, times_s: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the energy from the first of these times to each, and its deviation, joules."""
        import numpy as np

        bounds = np.array([-np.inf, *self.marks_s, np.inf])
        low, high = bounds[:-1], bounds[1:]
        spent = np.minimum(times_s[:, None], high) - np.maximum(times_s[0], low)
        spent = np.clip(spent, 0.0, None)
        variance = np.einsum("ij,jk,ik->i", spent, self.covariance, spent)
        return spent @ self.watts, np.sqrt(np.maximum(variance, 0.0))


def fit_levels(
    marks_s: Sequence[float],
    times_s: np.ndarray[Any, Any],
    watts: np.ndarray[Any, Any],
    average_s: float,
    refresh_s: float,
) -> LevelFit:
    """Fit the levels around marks.

    Args:
        marks_s: Times of the marks in seconds, in order, at least one.
        times_s: Times of the readings, each dated to the middle of what it averages.
        watts: The readings, at least one.
        average_s: Time that a reading averages; 0 if it is instant.
        refresh_s: Time between two refreshes, which is the spread of a reading's age.
    """
    import numpy as np

    count = len(marks_s) + 1
    along = follow_step(times_s[:, None] - np.array(marks_s), average_s, refresh_s)
    before = np.hstack([np.ones((len(times_s), 1)), along])
    after = np.hstack([along, np.zeros((len(times_s), 1))])
    shares = before - after
    mean, most = float(watts.mean()), max(float(watts.max()), 1.0)
    prior = np.eye(count) / most**2
    moving = (along > 1e-6) & (along < 1 - 1e-6)
    swing = float(watts.max() - watts.min())
    steps = np.full(len(marks_s), swing)
    # Reads within one refresh repeat it, and are wrong together.
    spacing = np.gradient(times_s) if len(times_s) > 1 else np.array([refresh_s])
    repeated = np.maximum(refresh_s / np.maximum(spacing, 1e-4), 1.0)
    late = refresh_s / max(average_s, refresh_s) / math.sqrt(12)
    for _ in range(_ROUNDS):
        aged = moving.any(axis=1) * max(float(np.abs(steps).max()), swing) * late
        noise = np.maximum(_RELATIVE_NOISE * watts, _LEAST_NOISE_WATTS)
        weighted = shares / ((noise**2 + aged**2) * repeated)[:, None]
        covariance = np.linalg.inv(shares.T @ weighted + prior)
        pull = prior @ np.full(count, mean)
        levels = np.maximum(covariance @ (weighted.T @ watts + pull), 0.0)
        steps = np.diff(levels)
    return LevelFit(tuple(marks_s), levels, covariance)


def follow_step(
    after_s: np.ndarray[Any, Any], average_s: float, refresh_s: float
) -> np.ndarray[Any, Any]:
    """Return how much of a step a reading shows that is dated this long after it, 0 to 1.

    The mean over the age of a reading of a running average: a step through two boxes, of the
    averaging time and of the refresh.
    """
    import numpy as np

    if average_s < refresh_s:
        ramp: np.ndarray[Any, Any] = np.clip(after_s / refresh_s + 0.5, 0.0, 1.0)
        return ramp
    half, inner = (average_s + refresh_s) / 2, (average_s - refresh_s) / 2
    area = sum(
        sign * np.maximum(after_s + shift, 0.0) ** 2 / 2
        for sign, shift in ((1, half), (-1, inner), (-1, -inner), (1, -half))
    )
    shown: np.ndarray[Any, Any] = np.clip(area / (average_s * refresh_s), 0.0, 1.0)
    return shown
