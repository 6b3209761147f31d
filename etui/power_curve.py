"""The watts of a turn over its time, few enough to be kept with it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from etui.energy.types import Energy

MOST_SLICES = 60
SHORTEST_SLICE_NS = 100_000_000
"""Counters are refreshed about ten times a second: thinner slices would show their steps."""


def power_curve(
    start_ns: int, end_ns: int, energy_of: Callable[[int, int], Energy]
) -> tuple[float | None, ...]:
    """Mean watts of equal slices of an interval, first to last; None where a slice is unmeasured.

    Empty for an interval without a length.
    """
    if end_ns <= start_ns:
        return ()
    count = max(1, min(MOST_SLICES, (end_ns - start_ns) // SHORTEST_SLICE_NS))
    edges = [start_ns + (end_ns - start_ns) * index // count for index in range(count + 1)]
    return tuple(
        _watts(energy_of(start, end).joules, end - start) for start, end in pairwise(edges)
    )


def _watts(joules: float | None, duration_ns: int) -> float | None:
    # Three digits say all that a graph shows, and keep the row of the log small.
    return None if joules is None else float(f"{joules / duration_ns * 1e9:.3g}")
