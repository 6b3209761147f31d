"""Figures of a benchmark, and how to take them: two sides in turn within one run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

A = TypeVar("A")
B = TypeVar("B")

CONFIDENCE = 0.9
"""Coverage of the interval of a median."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that a benchmark measures; the smaller, the better.

    Attributes:
        name: What it is, unique within its benchmark.
        value: The number.
        unit: ``x`` (times) or ``%`` of a ratio; the unit of an absolute figure.
        kind: A ``ratio`` compares two sides measured in turn, or a value with a known truth, and
            so compares across machines; an ``absolute`` figure compares on one machine alone.
        n: Number of measurements behind it.
        low, high: Interval of the value; None where nothing varies.
    """

    name: str
    value: float
    unit: str = "x"
    kind: Literal["ratio", "absolute"] = "ratio"
    n: int = 1
    low: float | None = None
    high: float | None = None


Quick: TypeAlias = Callable[[], Iterator[Figure]]
"""The short form of a benchmark: it yields each figure as soon as it is known."""


class Skipped(Exception):
    """Raised by a short form that lacks something; its text is the reason."""


def ratio_of(name: str, pairs: Sequence[tuple[float, float]], unit: str = "x") -> Figure:
    """Build the figure of the median of first over second, in percent with the unit ``%``.

    Args:
        name: Name of the figure.
        pairs: What the two sides took in each round, in one unit.
        unit: ``x`` or ``%``.
    """
    scale = 100.0 if unit == "%" else 1.0
    return median_of(name, [scale * first / second for first, second in pairs], unit)


def median_of(
    name: str,
    values: Sequence[float],
    unit: str = "x",
    kind: Literal["ratio", "absolute"] = "ratio",
) -> Figure:
    """Build the figure of the median of some measurements, with its interval."""
    low, high = median_interval(values)
    return Figure(name, statistics.median(values), unit, kind, len(values), low, high)


def median_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the interval that covers the median with at least 90 %, by order statistics.

    Fewer than five values cannot give that: their range is returned. One value has no interval.
    """
    if len(values) < 2:
        return None, None
    ordered, n = sorted(values), len(values)
    left_out, tail = 0, 0.0
    while left_out < (n - 1) // 2:
        tail += math.comb(n, left_out) / 2**n
        if 2 * tail > 1 - CONFIDENCE:
            break
        left_out += 1
    skip = max(0, left_out - 1)
    return ordered[skip], ordered[n - 1 - skip]


def in_turn(first: Callable[[], A], second: Callable[[], B], rounds: int) -> list[tuple[A, B]]:
    """Run two sides by turns, each first in every other round: what a round leaves hits both."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            other = second()
            pairs.append((first(), other))
        else:
            own = first()
            pairs.append((own, second()))
    return pairs


def seconds_of(work: Callable[[], object], repeats: int = 1) -> float:
    """Return the mean wall time of some calls, seconds."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def timed_in_turn(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    *,
    repeats: tuple[int, int] = (1, 1),
) -> list[tuple[float, float]]:
    """Return the seconds of one call of either side, round by round.

    Args:
        first, second: The two sides.
        rounds: Number of pairs.
        repeats: Calls of the first and of the second side in a round; their mean counts.
    """
    return in_turn(
        lambda: seconds_of(first, repeats[0]), lambda: seconds_of(second, repeats[1]), rounds
    )
