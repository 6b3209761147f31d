"""The power of a block over time, thinned for a figure."""

from __future__ import annotations

from dataclasses import dataclass

from etui.sweep.blocks import Block
from etui.turn.ports import Meter

STEP_S = 1.0
"""Seconds between two samples."""


@dataclass(frozen=True, slots=True)
class PowerSample:
    """The mean power of one step of time.

    Attributes:
        t_ns: Middle of the step, monotonic clock.
        watts: Mean power; None where nothing was recorded.
        setting: Key of the setting that was measured; None between two visits.
        copy: 1 in the second visit of the baseline in a block.
        block: Number of the block.
    """

    t_ns: int
    watts: float | None
    setting: str | None
    copy: int
    block: int


def read_power(meter: Meter, block: Block, step_s: float = STEP_S) -> tuple[PowerSample, ...]:
    """Read the power of a block from the meter, while that still keeps its record.

    Args:
        meter: The recorder.
        block: A complete block of this process.
        step_s: Length of a step; the last steps are a little longer or shorter, so that all are
            equal.

    Returns:
        The samples from the first visit to the last; empty for a block without a visit.
    """
    if not block.visits:
        return ()
    start_ns = min(visit.start_ns for visit in block.visits)
    end_ns = max(visit.end_ns for visit in block.visits)
    points = max(1, round((end_ns - start_ns) / (step_s * 1e9)))
    samples = []
    for t_ns, watts in meter.power_curve(start_ns, end_ns, points):
        visit = next((v for v in block.visits if v.start_ns <= t_ns <= v.end_ns), None)
        key, copy = (None, 0) if visit is None else (visit.setting, visit.copy)
        samples.append(PowerSample(t_ns, watts, key, copy, block.number))
    return tuple(samples)
