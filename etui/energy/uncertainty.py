"""Combine the half widths of several channels: what they share adds up, the rest in quadrature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class HalfWidths:
    """The parts of a half width at 95 %, joules, by what the channels of a total have in common."""

    shared: float = 0.0
    """The power did the same on all channels: what it did inside a tick at the two ends, when it
    stepped, how late a reading follows it."""
    own: float = 0.0  # Random for each channel: when its counter moved, what its samples missed
    stated: float = 0.0  # Relative error of the reading itself (that of an estimate)
    unknown: float = 0.0  # Bounds that are added as they are: time without a reading, digits

    @property
    def total(self) -> float:
        """Half width of the one channel."""
        return math.hypot(self.shared, self.own, self.stated) + self.unknown

    def widen(self, joules: float) -> HalfWidths:
        """Return the parts with a total of at least ``joules``."""
        return replace(self, unknown=self.unknown + max(joules - self.total, 0.0))


def combine(parts: Sequence[HalfWidths]) -> float:
    """Return the half width of a sum of channels.

    Shared parts add linearly: with eight GPUs under the same load, all eight miss the same edge in
    the same direction. Only what is each channel's own is added in quadrature.
    """
    return HalfWidths(
        math.fsum(part.shared for part in parts),
        math.hypot(*(part.own for part in parts)),
        math.fsum(part.stated for part in parts),
        math.fsum(part.unknown for part in parts),
    ).total
