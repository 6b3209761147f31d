"""What an arm's own audits say of its next answer: the mean of their joules and seconds.

Used for a model that answered nothing but audits, of which the log has no turns: neither a curve
nor a speed can be computed then, because an audit has no phases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from etui.routing.prediction import PredictedJoules

LEAST_AUDITS = 5
"""Smallest number of audits whose mean is a prediction."""

_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class MeasuredAudit:
    """What one audit took, without the load of its model.

    Attributes:
        joules: Gross joules; None if unmeasured.
        uncertainty: Half width in joules; None if unknown.
        seconds: Duration.
    """

    joules: float | None
    uncertainty: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class PastAudits:
    """The last audits by one arm with one model.

    Attributes:
        measured: Number of audits with joules.
        joules: Their mean; None with fewer than ``LEAST_AUDITS`` of them.
        spread: Half width at 95 % of the joules of one more audit: the standard deviation of the
            audits, and the error of the meter itself; None without ``joules``.
        seconds: Mean duration of all audits; None with fewer than ``LEAST_AUDITS``.
    """

    measured: int
    joules: float | None
    spread: float | None
    seconds: float | None


def average_audits(audits: Sequence[MeasuredAudit]) -> PastAudits:
    """Compute the means of audits whose energy is of one kind."""
    known = [audit.joules for audit in audits if audit.joules is not None]
    seconds = fmean(a.seconds for a in audits) if len(audits) >= LEAST_AUDITS else None
    if len(known) < LEAST_AUDITS:
        return PastAudits(len(known), None, None, seconds)
    mean = fmean(known)
    scatter = _Z95 * stdev(known) * math.sqrt(1 + 1 / len(known))
    return PastAudits(len(known), mean, math.hypot(scatter, _meter_share(audits) * mean), seconds)


def predict_by_audits(past: PastAudits | None) -> PredictedJoules | None:
    """Predict the joules of an arm in memory from its audits; None with too few measured ones."""
    if past is None or past.joules is None:
        return None
    return PredictedJoules(
        load=0.0,
        prefill=None,
        decode=None,
        uncertainty=past.spread,
        seconds=past.seconds,
        source=f"mean of {past.measured} audits",
        whole=past.joules,
    )


def _meter_share(audits: Sequence[MeasuredAudit]) -> float:
    """Return the smallest relative uncertainty, which is left however long an audit is."""
    shares = [a.uncertainty / a.joules for a in audits if a.uncertainty is not None and a.joules]
    return min(shares, default=0.0)
