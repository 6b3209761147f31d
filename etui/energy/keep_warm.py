"""How long to keep a model in memory: watts of idling against the joules of loading it again.

A model in memory that answers nothing draws ``extra_watts`` more than the machine without it; a
model that was unloaded costs ``load_joules`` at the next question. Both are equal after

    T* = load_joules / extra_watts

seconds. Unloading after T* is the best deterministic rule for unknown gaps: it never
costs more than twice the joules of one that knows every gap in advance (the ski rental problem;
Karlin, Manasse, Rudolph, Sleator, "Competitive snoopy caching", Algorithmica 3, 1988). If earlier
gaps between questions are known, the time with the least mean joules over them is better (Karlin,
Manasse, McGeoch, Owicki, "Competitive randomized algorithms for nonuniform problems", Algorithmica
11, 1994): a user who never asks within T* should not pay for T* of idling each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEAST_SECONDS = 1.0
"""The shortest time that is chosen, and that config.yaml accepts."""
FEW_GAPS = 8
"""With fewer gaps than this, the time is T*: their best time would be one of a few accidents."""
RECENT_GAPS = 240
"""Only this many of the last gaps count."""
HALF_LIFE_GAPS = 60
"""A gap counts half as much as one that many gaps later, so that new habits are learned."""
_SPREAD = 0.35
"""Each gap represents others of a similar length: standard deviation of the natural logarithm.

Without it, the time would end exactly at the longest pause of a conversation seen so far, and the
next slightly longer one would cost both the idling and the load.
"""
_DEVIATES = (-1.2815515655446008, -0.5244005127080407, 0.0, 0.5244005127080407, 1.2815515655446008)
"""Quantiles of the standard normal distribution at 10, 30, 50, 70 and 90 %."""
_POINTS = tuple(math.exp(_SPREAD * deviate) for deviate in _DEVIATES)
Basis = Literal["gaps", "break_even", "no_extra", "unknown"]
"""Which rule gave a time; see :class:`KeepWarm`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured number with its half width at 95 %, in the same unit; None if that is unknown."""

    value: float
    uncertainty: float | None = None

    def minus(self, other: Measured) -> Measured:
        """Return the difference; the half width is unknown if one of the two is."""
        if self.uncertainty is None or other.uncertainty is None:
            return Measured(self.value - other.value)
        return Measured(self.value - other.value, math.hypot(self.uncertainty, other.uncertainty))


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The time after which idling has cost as much as loading again, with its 95 % interval."""

    seconds: float  # T*; infinite if a model in memory draws no more than none
    low: float
    high: float  # Infinite if the extra watts may be 0


@dataclass(frozen=True, slots=True)
class KeepWarm:
    """How long to keep a model after its last answer."""

    seconds: float | None  # The time; None keeps it until the memory is needed
    basis: Basis
    """``gaps`` has the least mean joules over earlier gaps, ``break_even`` is T* because there are
    too few gaps, ``no_extra`` keeps it because idling costs nothing measurable, ``unknown`` keeps
    it because a number is missing."""
    why: str  # The same in one clause
    break_even: BreakEven | None = None  # T* with its interval; None if a number is missing


def compute_break_even(load_joules: Measured, extra_watts: Measured) -> BreakEven:
    """Compute T* with its interval.

    The interval of the ratio is Fieller's ("Some problems in interval estimation", 1954) for
    independent errors: all t with ``(L - t W)^2 <= u_L^2 + t^2 u_W^2``. Unknown half widths count
    as 0. The load has joules above 0; the watts are those with the model less those without.
    """
    load, watts = load_joules.value, extra_watts.value
    load_error, watt_error = load_joules.uncertainty or 0.0, extra_watts.uncertainty or 0.0
    # The roots of a t^2 - 2 b t + c, whose values are not positive inside the interval.
    a, b, c = watts**2 - watt_error**2, load * watts, load**2 - load_error**2
    root = math.sqrt(max(b * b - a * c, 0.0))
    seconds = load / watts if watts > 0 else math.inf
    if watts > 0 and a > 0:
        return BreakEven(seconds, max((b - root) / a, 0.0), (b + root) / a)
    largest = watts + watt_error  # the interval has no upper end
    low = max(load - load_error, 0.0) / largest if largest > 0 else math.inf
    return BreakEven(seconds, low, math.inf)


def compute_gap_joules(
    gap: float, keep_seconds: float, load_joules: float, extra_watts: float
) -> float:
    """Compute the joules of one gap above cold idle: idling, and the load if it was unloaded.

    A model that is kept for infinite seconds is never unloaded.
    """
    idling = min(gap, keep_seconds) * extra_watts
    return idling + load_joules if gap > keep_seconds else idling


def choose_keep_warm(
    gaps: Sequence[float], load_joules: Measured | None, extra_watts: Measured | None
) -> KeepWarm:
    """Choose how long to keep a model, from the gaps between its questions so far, oldest first.

    Joules of a load, and idle watts with the model minus those without, are None if unknown.
    """
    if load_joules is None or extra_watts is None:
        missing = "the joules of a load are" if load_joules is None else "its idle power is"
        return KeepWarm(None, "unknown", f"kept until memory is needed: {missing} not known")
    if load_joules.value <= 0:
        return KeepWarm(None, "unknown", "kept until memory is needed: its load has no joules")
    even = compute_break_even(load_joules, extra_watts)
    if math.isinf(even.high):
        why = "kept until memory is needed: idling costs nothing that can be measured"
        return KeepWarm(None, "no_extra", why, even)
    if len(gaps) < FEW_GAPS:
        why = f"break-even, as there are fewer than {FEW_GAPS} gaps between its questions"
        return KeepWarm(max(even.seconds, LEAST_SECONDS), "break_even", why, even)
    seconds = find_cheapest_time(gaps, load_joules.value, extra_watts.value)
    return KeepWarm(seconds, "gaps", "least joules over the gaps between its questions", even)


def find_cheapest_time(gaps: Sequence[float], load_joules: float, extra_watts: float) -> float:
    """Find the time with the least mean joules over recent gaps, as an estimate for later ones.

    Later gaps weigh more. The result is finite: a time beyond all gaps costs no more than never.
    There is at least one gap, oldest first; joules and watts are above 0.
    """
    import numpy as np

    recent = np.array(gaps[-RECENT_GAPS:], dtype=float)
    weights = 0.5 ** (np.arange(len(recent))[::-1] / HALF_LIFE_GAPS)
    lengths, weights = np.outer(recent, _POINTS).ravel(), np.repeat(weights, len(_POINTS))
    order = np.argsort(lengths, kind="stable")
    lengths, weights = lengths[order], weights[order]
    # The best time is the shortest or ends at a gap: any later one only adds idling.
    times = np.append(LEAST_SECONDS, lengths[lengths > LEAST_SECONDS])
    count = lengths.searchsorted(times, side="right")
    shorter = np.append(0.0, np.cumsum(weights * lengths))[count]
    longer = np.maximum(weights.sum() - np.append(0.0, np.cumsum(weights))[count], 0.0)
    joules = shorter * extra_watts + longer * (times * extra_watts + load_joules)
    return float(times[joules.argmin()])
