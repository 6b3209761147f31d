"""The watts of a turn over its time, few enough to be kept with it."""

from __future__ import annotations

from etui.turn_ports import Meter

MOST_SLICES = 60
SHORTEST_SLICE_NS = 100_000_000
"""Counters are refreshed about ten times a second: thinner slices would show their steps."""


def power_curve(start_ns: int, end_ns: int, meter: Meter) -> tuple[float | None, ...]:
    """Return the mean watts of equal slices of an interval, first to last.

    Returns:
        Watts with three digits, which say all that a graph shows and keep the row of the log
        small; None for a slice that is unmeasured. Empty for an interval without a length.
    """
    if end_ns <= start_ns:
        return ()
    count = max(1, min(MOST_SLICES, (end_ns - start_ns) // SHORTEST_SLICE_NS))
    slices = meter.power_curve(start_ns, end_ns, count)
    return tuple(None if watts is None else float(f"{watts:.3g}") for _, watts in slices)
