"""Watts over the time of a visit, for the figure of a report: a line of ``power.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from etui.sweep.blocks import Visit

POINTS = 60
"""Slices of a visit."""


@dataclass(frozen=True, slots=True)
class VisitPower:
    """Mean watts in equal slices of one visit."""

    block: int
    setting: str
    copy: int
    start_ns: int
    end_ns: int
    watts: tuple[float | None, ...]  # Mean watts of each slice; None where nothing was recorded


class PowerRecorder(Protocol):
    """The part of a recorder that this needs."""

    def power_curve(
        self, start_ns: int, end_ns: int, points: int = ...
    ) -> Sequence[tuple[int, float | None]]:
        """Compute the mean watts in equal slices."""


def read_power(recorder: PowerRecorder, block: int, visit: Visit) -> VisitPower:
    """Read the watts of a visit of a block from the recorder, rounded to milliwatts."""
    curve = recorder.power_curve(visit.start_ns, visit.end_ns, POINTS)
    watts = tuple(None if watts is None else round(watts, 3) for _, watts in curve)
    return VisitPower(block, visit.setting, visit.copy, visit.start_ns, visit.end_ns, watts)
