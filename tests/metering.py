"""What the made-up meters of the tests have in common."""

from __future__ import annotations

from itertools import pairwise


class Sliced:
    """A power curve of a meter that only knows the energy of intervals."""

    def mark(self, t_ns: int, phase: str = "") -> None:
        """Ignore it: the energy of every interval is known."""

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> list[tuple[int, float | None]]:
        marks = [start_ns + (end_ns - start_ns) * i // points for i in range(points + 1)]
        return [((start + end) // 2, self._watts(start, end)) for start, end in pairwise(marks)]

    def _watts(self, start_ns: int, end_ns: int) -> float | None:
        joules = self.energy(start_ns, end_ns).joules
        return None if joules is None else joules / (end_ns - start_ns) * 1e9
