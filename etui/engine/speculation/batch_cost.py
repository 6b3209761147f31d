"""Cost of a batch by its rows, in units of a batch of one row.

A batch of one row reads all weights once; so does a batch of several rows, which computes more.
Hence on a GPU, which waits for memory, eight rows take little longer than one; on a CPU, which
waits for arithmetic, they take almost five times as long. The ratios are learned from the session's
own batches.

Time serves for energy: at constant power, joules are proportional to time, and the power of
decoding hardly depends on the rows of a batch. Where joules by rows are measured, pass them as
``curve`` with ``learns=False``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

CPU_CURVE: Mapping[int, float] = {1: 1.0, 2: 1.8, 4: 2.9, 8: 4.8, 16: 5.7}
"""Measured with a 1.5B model, Q4_K_M, on 2 cores."""

GPU_CURVE: Mapping[int, float] = {1: 1.0, 2: 1.03, 4: 1.08, 8: 1.2, 16: 1.8}
"""Nearly flat to 8 rows; the first batches correct it."""

_PRIOR_WEIGHT = 1.0
"""The curve counts as this many measured batches."""

_MEMORY = 0.9
"""Weight of the batches before, when another one is measured: the last ten or so count."""

_TIME_MEMORY = 0.8
_LARGEST_STEP = 2.0
"""A measured ratio counts as at most this many times the expected one: others use the cores too."""


def average(before: float | None, value: float) -> float:
    """Average a time with those before it, of which the last few count."""
    return value if before is None else _TIME_MEMORY * before + (1 - _TIME_MEMORY) * value


class BatchCost:
    """Relative cost of batches by rows, learned from times.

    Args:
        curve: Relative cost by rows, with an entry for 1 row of cost 1; interpolated in between.

    Attributes:
        one_row_ns: Time of a batch of one row, of the last few; None before the first.
    """

    def __init__(self, curve: Mapping[int, float], *, learns: bool = True) -> None:
        self._curve = tuple(sorted(curve.items()))
        self._learns = learns
        self._sums: dict[int, tuple[float, float]] = {}  # rows: weight, weighted log(ratio / curve)
        self._table: list[float] = [1.0, 1.0]  # relative costs by rows, as far as computed
        self.one_row_ns: float | None = None

    def relative(self, rows: int) -> float:
        """Return the cost of a batch of ``rows`` rows; it never decreases with the rows."""
        while len(self._table) <= rows:
            self._table.append(max(self._table[-1], self._estimate(len(self._table))))
        return self._table[max(1, rows)]

    def observe(self, rows: int, elapsed_ns: int) -> float:
        """Learn from a batch, and return its cost in units of one row.

        The cost is the expected one before a batch of one row is measured, and if times say
        nothing about it.
        """
        if rows == 1:
            before = self.one_row_ns
            most = math.inf if before is None else _LARGEST_STEP * before
            self.one_row_ns = average(before, min(float(elapsed_ns), most))
            return 1.0
        expected = self.relative(rows)
        if not self._learns or self.one_row_ns is None or elapsed_ns <= 0:
            return expected
        measured = elapsed_ns / self.one_row_ns
        measured = min(max(measured, expected / _LARGEST_STEP, 1.0), expected * _LARGEST_STEP)
        weight, total = self._sums.get(rows, (0.0, 0.0))
        error = math.log(measured / _interpolate(self._curve, rows))
        self._sums[rows] = (_MEMORY * weight + 1.0, _MEMORY * total + error)
        del self._table[2:]
        return measured

    def _estimate(self, rows: int) -> float:
        """Correct the curve by the errors measured nearby: a batch of other rows counts less."""
        weight, total = _PRIOR_WEIGHT, 0.0
        for measured_rows, (count, errors) in self._sums.items():
            near = 2.0 ** -(abs(math.log2(measured_rows / rows)) * 2)
            weight += near * count
            total += near * errors
        return max(1.0, _interpolate(self._curve, rows) * math.exp(total / weight))


def _interpolate(curve: tuple[tuple[int, float], ...], rows: int) -> float:
    """Interpolate linearly in the rows; beyond the last entry with the slope of the last two."""
    for (low, low_cost), (high, high_cost) in pairwise(curve):
        if rows <= high or (high, high_cost) == curve[-1]:
            return low_cost + (rows - low) * (high_cost - low_cost) / (high - low)
    return curve[0][1] * rows / curve[0][0]
