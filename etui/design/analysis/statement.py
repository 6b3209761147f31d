"""A sentence of the verdict, with the figures that it follows from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from etui import units
from etui.design.analysis.intervals import excludes
from etui.stats.tests import SIGNIFICANCE, Interval

About = Literal["thinking", "replacement", "arm", "band", "router", "curve"]

Unit = Literal["points", "ratio", "share", "joules"]
"""``points``: a difference of shares, to be multiplied by 100; ``ratio``: a quotient of figures;
``share``: a part of 1; ``joules``."""

NEUTRAL = {"points": 0.0, "ratio": 1.0, "share": 0.0, "joules": 0.0}
"""The value of no difference, by unit."""


UNDECIDED = "undecided"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A figure behind a sentence.

    Attributes:
        low, high: Ends of its interval at 95 %; None if open or unknown.
    """

    name: str
    unit: Unit
    value: float
    low: float | None
    high: float | None
    p: float | None = None
    """Its p-value, adjusted for everything that was looked at with it; None without a test."""

    @property
    def note(self) -> str:
        """Words for a difference that is not claimed; empty for a claim."""
        if self.side:
            return ""
        apart = excludes(Interval(self.value, self.low, self.high, None), NEUTRAL[self.unit])
        return "not shown after correction for the other looks" if apart else "no difference shown"

    @property
    def side(self) -> int:
        """1 above no difference, -1 below; 0 if the interval or the test does not exclude it."""
        if self.p is not None and self.p >= SIGNIFICANCE:
            return 0
        return excludes(Interval(self.value, self.low, self.high, None), NEUTRAL[self.unit])


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of the verdict."""

    about: About
    subject: str  # The role, arm, band, router or phase
    outcome: str  # The finding in a word or two; `undecided` if the intervals allow none
    text: str
    evidence: tuple[Evidence, ...]
    """The figures that it follows from; a claim needs all those marked by ``decisive``."""
    decisive: tuple[str, ...]
    """Names of the figures that decide; empty for an undecided or unknown outcome."""
    questions: int  # Number of questions behind it
    questions_needed: int | None = None
    """Questions that would show a difference of 3 points with a probability of 80 %; None if the
    outcome is decided, or it is not a matter of questions."""
    what: str = ""  # `group` or `subject` if it is about one, else empty

    @property
    def is_claim(self) -> bool:
        """Whether something is claimed."""
        return bool(self.decisive)


def build_evidence(name: str, unit: Unit, interval: Interval, p: float | None = None) -> Evidence:
    """Build the evidence of a figure with its interval."""
    return Evidence(name, unit, interval.value, interval.low, interval.high, p)


def points_text(figure: Interval | Evidence) -> str:
    """Format a difference of accuracies with its interval: ``+4.1 points [-2.0, 10.1]``."""
    ends = (None if end is None else 100 * end for end in (figure.low, figure.high))
    return units.points_change_text(100 * figure.value, *ends)


def multiple_text(figure: Interval | Evidence) -> str:
    """Format a ratio with its interval: ``6.1x [5.2, 7.3]``."""
    return units.multiple_text(figure.value, figure.low, figure.high)


def percent_change_text(figure: Interval | Evidence, *, signed: bool = False) -> str:
    """Format a share with its interval: ``18 % [12, 25]``."""
    ends = (None if end is None else 100 * end for end in (figure.low, figure.high))
    return units.change_text(100 * figure.value, *ends, signed=signed)


def each_text(figure: Interval | None, kind: str | None) -> str:
    """Format joules for each additional right answer; the upper end may be open."""
    if figure is None:
        return "–"
    shown = kind if kind == units.ESTIMATE else None
    if figure.low is not None and figure.high is not None:
        return units.energy_range_text(figure.value, figure.low, figure.high, shown)
    text = units.energy_text(figure.value, None, shown)
    if figure.low is None:
        return text
    bare = text.removesuffix(f" ({units.ESTIMATE})")
    return f"{bare}, at least {units.energy_text(figure.low, None, shown)}"
