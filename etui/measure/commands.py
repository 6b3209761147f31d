"""Runs of commands as samples: their mean costs, and the difference of two commands in pairs.

A difference is the mean of the log ratios of pairs that ran one after the other, so that what
changes slowly (temperature, another program) cancels. Half of the pairs begin with each command, in
random order, so that a drift favours neither.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from etui.stats.differences import (
    Difference,
    LogDifference,
    compute_floor,
    judge,
    to_percent_or_none,
)
from etui.stats.small_samples import count_freedom, estimate_means
from etui.stats.tests import Interval

_SEED = 0  # Of the bootstrap: equal runs have equal intervals


class Cost(NamedTuple):
    """What one run has cost."""

    joules: float | None  # None if unmeasured
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second command against the first, from pairs; None: nothing to compare."""

    pairs: int
    joules: Difference | None
    seconds: Difference | None
    joules_floor_percent: float | None
    """Smallest difference that so many pairs find with 80 % probability; None below two pairs."""
    seconds_floor_percent: float | None


def plan_pairs(pairs: int, draw: random.Random) -> list[tuple[int, int]]:
    """Draw the order within each pair: as many begin with the first command as with the second."""
    orders = [(0, 1), (1, 0)] * math.ceil(pairs / 2)
    if pairs % 2:
        orders.pop(draw.randrange(2))
    draw.shuffle(orders)
    return orders


def estimate_mean(values: Sequence[float], half_widths: Sequence[float] = ()) -> Interval:
    """Estimate a mean (trimmed from 8 values on), with an interval of the scatter.

    The mean of the meter's own half widths is added in quadrature, since an error of calibration is
    the same in all.
    """
    (found,) = estimate_means([np.asarray(values, dtype=np.float64)], _SEED)
    scatter = found.high - found.mean if found.high is not None else 0.0
    half = math.hypot(scatter, math.fsum(half_widths) / max(len(half_widths), 1))
    if not half and found.high is None:
        return Interval(found.mean, None, None, None)
    low = found.mean - half
    if min(values) >= 0:
        low = max(low, 0.0)
    return Interval(found.mean, low, found.mean + half, found.method or "meter")


def compare_pairs(pairs: Sequence[tuple[Cost, Cost]]) -> Comparison:
    """Compare the second command with the first, in joules and in seconds.

    A difference is claimed by a test at 5 %, adjusted for both figures, so that two equal commands
    differ in any of them in at most 5 % of comparisons.
    """
    columns: dict[str, list[tuple[float | None, float | None]]] = {
        "joules": [(a.joules, b.joules) for a, b in pairs],
        "seconds": [(a.seconds, b.seconds) for a, b in pairs],
    }
    found: dict[str, LogDifference] = {}
    floors: dict[str, float | None] = {}
    for name, column in columns.items():
        logs = [math.log(b / a) for a, b in column if a is not None and b is not None and a * b > 0]
        if not logs:
            continue
        (estimate,) = estimate_means([np.array(logs)], _SEED)
        found[name] = LogDifference(estimate, 0.0)
        if estimate.deviation is not None:
            error = estimate.deviation / math.sqrt(estimate.values)
            floors[name] = compute_floor(error, count_freedom(estimate.values))
    judged = judge(found)
    return Comparison(
        pairs=len(pairs),
        joules=judged.get("joules"),
        seconds=judged.get("seconds"),
        joules_floor_percent=to_percent_or_none(floors.get("joules")),
        seconds_floor_percent=to_percent_or_none(floors.get("seconds")),
    )
