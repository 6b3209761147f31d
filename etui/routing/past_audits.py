"""What an arm's own audits say of its next answer: joules and seconds by the length of the prompt.

Used for a model that answered nothing but audits, of which the log has no turns: neither a curve
nor a speed can be computed then, because an audit has no phases. A flat mean would make a long
prompt look cheap, and an objective would prefer the arm for these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression

from etui.routing.prediction import PredictedJoules

LEAST_AUDITS = 5
"""Smallest number of audits whose mean is a prediction."""

LEAST_FOR_LINE = 10
"""Smallest number of audits from which the length of the prompt is taken into account."""

_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class MeasuredAudit:
    """What one audit took, without the load of its model."""

    joules: float | None  # Gross joules; None if unmeasured
    uncertainty: float | None  # Half width in joules; None if unknown
    seconds: float
    prompt_tokens: float | None = None
    """Length of the prompt, as counted for the audited answer; None if unknown."""


@dataclass(frozen=True, slots=True)
class Line:
    """``base + slope * prompt tokens``; neither is negative, and a mean has the slope 0."""

    base: float
    slope: float = 0.0

    def compute_at(self, prompt_tokens: float) -> float:
        """Compute the value for a prompt."""
        return self.base + self.slope * prompt_tokens


@dataclass(frozen=True, slots=True)
class PastAudits:
    """The last audits by one arm with one model."""

    measured: int  # Number of audits with joules
    joules: Line | None
    """Joules by length of the prompt; None with fewer than ``LEAST_AUDITS`` of them."""
    scatter: float  # Half width at 95 % of the joules of one more audit, from those of the audits
    meter_share: float  # Relative uncertainty of the meter itself
    seconds: Line | None  # Duration likewise; None with fewer than `LEAST_AUDITS`


def average_audits(audits: Sequence[MeasuredAudit]) -> PastAudits:
    """Fit joules and seconds of audits whose energy is of one kind."""
    joules = [(a.prompt_tokens, a.joules) for a in audits if a.joules is not None]
    found = fit_line(joules)
    seconds = fit_line([(a.prompt_tokens, a.seconds) for a in audits])
    return PastAudits(
        measured=len(joules),
        joules=None if found is None else found[0],
        scatter=0.0 if found is None else _Z95 * found[1] * math.sqrt(1 + 1 / len(joules)),
        meter_share=_compute_meter_share(audits),
        seconds=None if seconds is None else seconds[0],
    )


def fit_line(points: Sequence[tuple[float | None, float]]) -> tuple[Line, float] | None:
    """Fit values by prompt tokens, or take their mean where the tokens do not explain them.

    Returns:
        The line, and the standard deviation of the values around it; None with fewer than
        ``LEAST_AUDITS`` points.
    """
    if len(points) < LEAST_AUDITS:
        return None
    values = [value for _, value in points]
    mean = Line(fmean(values))
    flat = mean, _compute_deviation([(0.0, value) for value in values], mean, 1)
    known = [(tokens, value) for tokens, value in points if tokens is not None]
    tokens, values = [at for at, _ in known], [value for _, value in known]
    if len(known) < LEAST_FOR_LINE or min(tokens) == max(tokens):
        return flat
    slope, base = linear_regression(tokens, values)
    if base < 0:
        slope, base = linear_regression(tokens, values, proportional=True)
    line = Line(base, slope)
    deviation = _compute_deviation(known, line, 2)
    return (line, deviation) if slope > 0 and deviation < flat[1] else flat


def predict_by_audits(past: PastAudits | None, prompt_tokens: float) -> PredictedJoules | None:
    """Predict the joules of an arm in memory from its audits; None with too few measured ones."""
    if past is None or past.joules is None:
        return None
    joules = past.joules.compute_at(prompt_tokens)
    how = f"{past.measured} audits, by length of the prompt"
    return PredictedJoules(
        load=0.0,
        prefill=None,
        decode=None,
        uncertainty=math.hypot(past.scatter, past.meter_share * joules),
        seconds=None if past.seconds is None else past.seconds.compute_at(prompt_tokens),
        source=how if past.joules.slope else f"mean of {past.measured} audits",
        whole=joules,
    )


def _compute_deviation(points: Sequence[tuple[float, float]], line: Line, terms: int) -> float:
    squares = math.fsum((value - line.compute_at(tokens)) ** 2 for tokens, value in points)
    return math.sqrt(squares / (len(points) - terms))


def _compute_meter_share(audits: Sequence[MeasuredAudit]) -> float:
    """Return the smallest relative uncertainty, which is left however long an audit is."""
    shares = [a.uncertainty / a.joules for a in audits if a.uncertainty is not None and a.joules]
    return min(shares, default=0.0)
