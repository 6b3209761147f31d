"""How a visit is measured: lengths of its windows and of its cool-down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.energy.types import Channel, Kind

LEAST_WINDOW_S, MOST_WINDOW_S = 1.0, 10.0
COOL_DOWN_S = 0.5
MOST_COOL_DOWN_S = 60.0
"""Longest wait for a temperature, seconds."""

_REFRESHES = 20.0
"""Refreshes of a slow counter or sensor within a window: its edges are then a few percent of it."""
_AVERAGES = 4.0
"""Lengths of a running average within a window."""


@dataclass(frozen=True, slots=True)
class Procedure:
    """How each visit is measured."""

    window_s: float = LEAST_WINDOW_S  # Least seconds of prefill, and of decode
    cool_down_s: float = COOL_DOWN_S  # Least seconds of idle time before them
    cool_down_celsius: float | None = None
    """Temperature of the device to wait for, in addition; None for none."""
    most_cool_down_s: float = MOST_COOL_DOWN_S  # Longest wait for it


def choose_window_s(channels: Sequence[Channel]) -> float:
    """Choose the length of a window by the slowest channel that is summed, seconds.

    A counter that is refreshed every few milliseconds is exact in a second; one refreshed every
    100 ms, as a GPU's, is given 2 s, a running average of one second 4 s.
    """
    wanted = [LEAST_WINDOW_S]
    for channel in channels:
        # An unknown period is learned; 100 ms is that of NVIDIA's counters (docs/meter.md).
        period_s = 0.1 if channel.period_s is None else channel.period_s
        if channel.kind is not Kind.ESTIMATE:
            wanted += [_REFRESHES * period_s, _AVERAGES * channel.average_s]
    return min(max(wanted), MOST_WINDOW_S)
