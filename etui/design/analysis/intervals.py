"""Intervals of the figures of a design run, from one bootstrap over its questions.

All columns of a question are drawn together within its subject, so that a ratio or a difference of
two arms keeps their correlation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.bench.cost import add_half_widths
from etui.energy.types import Kind
from etui.stats.bootstrap import percentiles, ratio, resample_sums
from etui.stats.paired import estimate_paired_mean
from etui.stats.student_t import t_quantile
from etui.stats.tests import CONFIDENCE, Interval

if TYPE_CHECKING:
    from etui.bench.sample import Sample
    from etui.stats.arrays import Floats

_INDEPENDENT: frozenset[str | None] = frozenset({Kind.COUNTER.value, Kind.INTEGRATED.value})
"""Kinds of which the error of a reading is independent of that of another one."""


_NORMAL = 1.959964
"""Quantile of the normal distribution at 97.5 %."""


def compute_mean_interval(
    values: Sequence[float], subjects: Sequence[str], seed: int
) -> Interval | None:
    """Compute a mean over questions and its interval; None without a question.

    The interval is widened for few questions as in :func:`compute_ratio_interval`.
    """
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean, None, None, None)
    sums = resample_sums([[value / len(values)] for value in values], subjects, seed)[:, 0]
    low, high = percentiles(sums)
    widen = _widen_few(len(values))
    return Interval(
        mean,
        None if low is None else mean - widen * max(mean - low, 0.0),
        None if high is None else mean + widen * max(high - mean, 0.0),
        "bootstrap",
    )


def _widen_few(questions: int) -> float:
    """Return Student's quantile for a number of questions over the normal one."""
    return t_quantile((1 - CONFIDENCE) / 2, questions - 1) / _NORMAL


def compute_ratio_interval(
    above: float,
    below: float,
    drawn_above: Floats,
    drawn_below: Floats,
    questions: int,
    sensor: float = 0.0,
) -> Interval | None:
    """Compute a ratio of two sums and its interval; None if the divisor is not above 0.

    Percentiles of a bootstrap of few questions are too narrow, like a normal interval with an
    estimated deviation. They are widened by Student's quantile over the normal one, on the
    logarithm (Hesterberg, The American Statistician 69, 2015).

    Args:
        above: The sum that is divided.
        below: The sum that divides.
        drawn_above: The first sum of each resample, shape (resamples,).
        drawn_below: The second sum of each resample, same shape.
        sensor: Relative half width that the meter adds, in quadrature at each end.

    Returns:
        Without ends for fewer than two questions.
    """
    if below <= 0:
        return None
    value = above / below
    if questions < 2:
        return Interval(value, None, None, None)
    widen = _widen_few(questions)
    low, high = percentiles(ratio(drawn_above, drawn_below))
    off = abs(value) * sensor
    if low is not None:
        low = value * (min(low, value) / value) ** widen if value > 0 else 0.0
        low = max(0.0, value - math.hypot(value - low, off))
    if high is not None:
        high = value * (max(high, value) / value) ** widen if value > 0 else max(high, value)
        high = value + math.hypot(high - value, off)
    return Interval(value, low, high, "bootstrap")


def compute_difference(differences: Floats, replicates: Floats) -> tuple[Interval, float, float]:
    """Compute a mean difference of accuracies: the wider of two intervals at each end.

    The bootstrap knows the strata and is too narrow for few disagreements; the adjusted interval is
    the reverse.

    Args:
        differences: Difference of each question, in [-1, 1].
        replicates: Mean difference of each resample.

    Returns:
        The mean with its interval, its p-value and the standard deviation of the differences.
    """
    found = estimate_paired_mean(differences)
    low, high = percentiles(replicates)
    return (
        Interval(
            found.value,
            max(-1.0, min(found.low, found.low if low is None else low)),
            min(1.0, max(found.high, found.high if high is None else high)),
            "bootstrap",
        ),
        found.p,
        found.deviation,
    )


def compute_sensor_share(samples: Sequence[Sample]) -> float:
    """Return the relative half width of the meter in a ratio of joules; 0 if it cancels.

    The error of an estimate, of a vendor's model and of a battery is one factor of both sides.
    Readings of a counter are independent, and their errors stay.

    Args:
        samples: Measured answers of one arm.
    """
    kinds: frozenset[str | None] = frozenset(sample.kind for sample in samples)
    if not kinds <= _INDEPENDENT:
        return 0.0
    total = math.fsum(sample.joules or 0.0 for sample in samples)
    width = add_half_widths(
        [sample.uncertainty for sample in samples], [sample.subject for sample in samples], kinds
    )
    return width / total if width is not None and total > 0 else 0.0


def excludes(interval: Interval | None, neutral: float) -> int:
    """Return 1 if an interval is above a value, -1 if it is below, 0 if neither is known."""
    if interval is None:
        return 0
    if interval.low is not None and interval.low > neutral:
        return 1
    if interval.high is not None and interval.high < neutral:
        return -1
    return 0
