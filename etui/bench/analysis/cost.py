"""Cost of one system's answers: joules per question, right answer and token, and mean watts.

Each figure has two errors. The **sensor's** half widths of the samples add linearly within a
subject, because its questions share batches and a prefix, and therefore readings. Between subjects
they add in quadrature if hardware was read: the error of a counter or of integrated power arises at
the ends of an interval and between two readings, and is independent each time. An estimate's band,
a vendor's model and a battery have the same error throughout, so their half widths always add
linearly. The **sampling** interval (other questions would have cost something else) comes from the
stratified bootstrap. The two errors are independent, so they add in quadrature, separately at each
end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.bench.store.sample import Sample
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.stats.bootstrap import percentiles, ratio, resample_sums

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


@dataclass(frozen=True, slots=True)
class Figure:
    """An energy or a power with both its errors.

    Attributes:
        low, high: The 95 % interval of sensor and sampling; None if an end is unknown.
    """

    value: float  # Value in joules per something, or watts
    sensor: float | None  # Half width of the sensor's error; None if unknown
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Energy of one system; a figure is None if its divisor is 0.

    Attributes:
        prefill_joules, decode_joules: Joules by phase; None if a question has no phases.
    """

    questions: int  # Number of questions with measured energy; all figures refer to these
    kind: str  # The weakest kind among them
    joules: float  # Their sum, without the loading of models
    uncertainty: float | None  # Half width of the sum from the sensor; None if unknown
    prefill_joules: float | None
    decode_joules: float | None
    per_question: Figure
    per_correct: Figure | None  # Joules per right answer, the joules of wrong answers included
    per_output_token: Figure | None
    """Joules per thinking and answer token, over the questions that generated any; None if none
    did."""
    per_computed_token: Figure | None  # Prefill joules per computed token, shared prefixes included
    per_decoded_token: Figure | None  # Decode joules per generated token
    mean_watts: Figure | None  # Joules over seconds


def compute_cost(samples: Sequence[Sample], seed: int) -> Cost | None:
    """Compute the cost of a system's samples, sorted by question; None if unmeasured."""
    measured = [sample for sample in samples if sample.joules is not None]
    if not measured:
        return None
    subjects = [sample.subject for sample in measured]
    kinds = {sample.kind for sample in measured}
    uncertainty = add_half_widths([sample.uncertainty for sample in measured], subjects, kinds)
    columns = [_row(sample) for sample in measured]
    totals = [math.fsum(column) for column in zip(*columns, strict=True)]
    sums = resample_sums(columns, subjects, seed)
    joules = totals[_JOULES]
    relative = uncertainty / joules if uncertainty is not None and joules > 0 else None

    def figure(above: int, below: int) -> Figure | None:
        if totals[below] <= 0:
            return None
        value = totals[above] / totals[below]
        return build_figure(value, ratio(sums[:, above], sums[:, below]), relative)

    phases = all(sample.prefill_joules is not None for sample in measured)
    per_question = figure(_JOULES, _ONE)
    assert per_question is not None
    return Cost(
        questions=len(measured),
        kind=_kind(measured),
        joules=joules,
        uncertainty=uncertainty,
        prefill_joules=totals[_PREFILL] if phases else None,
        decode_joules=totals[_DECODE] if phases else None,
        per_question=per_question,
        per_correct=figure(_JOULES, _CORRECT),
        per_output_token=figure(_GENERATING, _OUTPUT),
        per_computed_token=figure(_PREFILL, _COMPUTED) if phases else None,
        per_decoded_token=figure(_DECODE, _OUTPUT) if phases else None,
        mean_watts=figure(_JOULES, _SECONDS),
    )


def add_half_widths(
    widths: Sequence[float | None], subjects: Sequence[str], kinds: Collection[str | None]
) -> float | None:
    """Add up half widths: linearly, and in quadrature between independent readings.

    Args:
        widths: Half width of each sample in joules; if one is None, so is the result.
    """
    inside: dict[str, list[float]] = {}
    for width, subject in zip(widths, subjects, strict=True):
        if width is None:
            return None
        inside.setdefault(subject, []).append(width)
    sums = [math.fsum(part) for _, part in sorted(inside.items())]
    return math.hypot(*sums) if set(kinds) <= _READ else math.fsum(sums)


def build_figure(value: float, replicates: Floats, relative: float | None) -> Figure:
    """Build a figure from its sampling interval and the sensor's relative half width."""
    low, high = percentiles(replicates)
    sensor = None if relative is None else abs(value) * relative
    off = sensor or 0.0
    return Figure(
        value,
        sensor,
        None if low is None else max(0.0, value - math.hypot(value - min(low, value), off)),
        None if high is None else value + math.hypot(max(high, value) - value, off),
    )


_READ = frozenset({Kind.COUNTER.value, Kind.INTEGRATED.value})
"""Kinds whose error is independent for each interval, rather than due to calibration."""

_JOULES, _PREFILL, _DECODE, _ONE, _CORRECT, _OUTPUT, _COMPUTED, _SECONDS, _GENERATING = range(9)


def _row(sample: Sample) -> tuple[float, ...]:
    return (
        sample.joules or 0.0,
        sample.prefill_joules or 0.0,
        sample.decode_joules or 0.0,
        1.0,
        float(sample.correct),
        float(sample.tokens.output),
        sample.tokens.computed + sample.prefix_tokens,
        sample.seconds,
        (sample.joules or 0.0) if sample.tokens.output else 0.0,
    )


def _kind(samples: Sequence[Sample]) -> str:
    kinds = {sample.kind for sample in samples if sample.kind is not None}
    weak = weakest(Kind(kind) for kind in kinds if kind in set(Kind))
    return Kind.ESTIMATE.value if weak is None else weak.value
