"""The meter of a machine that has none."""

from __future__ import annotations

from collections.abc import Sequence

from etui.energy.types import Energy


class UnmeasuredMeter:
    """The meter of a machine that has none: the joules of every interval are unknown.

    Args:
        flag: Why there are no joules, in addition to ``unmeasured``; empty for no meter at all.
    """

    def __init__(self, name: str, flag: str = "") -> None:
        self._name = name
        self._flags = tuple(filter(None, ("unmeasured", flag)))

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return an energy without joules."""
        return Energy(
            start_ns, end_ns, None, None, None, 0.0, unmeasured=(self._name,), flags=self._flags
        )

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return slices without watts."""
        span_ns = end_ns - start_ns
        return [(start_ns + span_ns * (2 * i + 1) // (2 * points), None) for i in range(points)]

    def mark(self, t_ns: int) -> None:
        """Do nothing."""

    def settle(self, end_ns: int) -> bool:
        """Return at once."""
        return False
