"""Marks of power steps that wait for the readings after them."""

from __future__ import annotations

from bisect import bisect_left

_MOST_MARKS = 1000
_SAME_NS = 1_000_000
_MOST_TOGETHER = 8


class PendingMarks:
    """Times at which the power steps, in order, until the energy there is fitted."""

    def __init__(self) -> None:
        self._times: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._times)

    @property
    def first_ns(self) -> int:
        """The earliest mark."""
        return self._times[0]

    def add(self, t_ns: int) -> None:
        """Add a mark, unless one within a millisecond is there already."""
        at = bisect_left(self._times, t_ns)
        if all(abs(near - t_ns) > _SAME_NS for near in self._times[max(at - 1, 0) : at + 1]):
            self._times.insert(at, t_ns)
            del self._times[:-_MOST_MARKS]

    def drop(self, count: int) -> None:
        """Remove the earliest marks."""
        del self._times[:count]

    def is_pending(self, end_ns: int) -> bool:
        """Return whether a mark up to a time waits."""
        return bool(self._times) and self._times[0] <= end_ns

    def before(self, end_ns: int) -> list[int]:
        """Return the marks before a time."""
        return self._times[: bisect_left(self._times, end_ns)]

    def first_group(self, apart_ns: int) -> list[int]:
        """Return the earliest marks that are less than a time apart, at most eight."""
        count = 1
        while count < min(len(self._times), _MOST_TOGETHER):
            if self._times[count] - self._times[count - 1] >= apart_ns:
                break
            count += 1
        return self._times[:count]
