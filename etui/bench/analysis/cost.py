"""What one contender's answers cost: joules per question, right answer and token, and mean watts.

Two errors meet in each figure. The **sensor's** half widths of the samples are added up linearly
within a subject, whose questions share batches and a prefix, and so readings. Subjects add in
quadrature where the hardware was read: what the meter states of a counter or of integrated power
comes from the ends of an interval and from what lies between two readings, and is another one each
time. An estimate's band, a vendor's model and a battery err the same way all through, so their
half widths add linearly throughout. The **sampling** interval (other questions would have cost
something else) comes from the stratified bootstrap. The two have nothing to do with each other, so
they add in quadrature, each end by itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.bench.store.sample import Sample
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.stats.bootstrap import percentiles, ratio, resampled_sums

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


@dataclass(frozen=True, slots=True)
class Figure:
    """An energy or a power with both its errors.

    Attributes:
        value: In joules per something, or watts.
        sensor: Half width of what the sensor may be off; None where it is not known.
        low, high: The interval at 95 % with sensor and sampling; None where an end cannot be told.
    """

    value: float
    sensor: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Energy of one contender; figures are None where there is nothing to divide by.

    Attributes:
        questions: Questions whose energy was measured; all figures are of these.
        kind: The weakest kind among them.
        joules: Their sum, loads of models aside.
        uncertainty: Half width of the sum by the sensor; None where it is not known.
        prefill_joules, decode_joules: The phases; None where a question has no phases.
        per_question: Joules per question.
        per_correct: Joules per right answer, the wrong ones' joules included.
        per_output_token: Joules per thought and answer token, of the questions where any was
            generated; None if nowhere.
        per_computed_token: Prefill joules per token that was computed, shared prefixes included.
        per_decoded_token: Decode joules per generated token.
        mean_watts: Joules over seconds.
    """

    questions: int
    kind: str
    joules: float
    uncertainty: float | None
    prefill_joules: float | None
    decode_joules: float | None
    per_question: Figure
    per_correct: Figure | None
    per_output_token: Figure | None
    per_computed_token: Figure | None
    per_decoded_token: Figure | None
    mean_watts: Figure | None


def cost_of(samples: Sequence[Sample], seed: int) -> Cost | None:
    """The cost of one contender's samples, which are sorted by question; None if unmeasured."""
    measured = [sample for sample in samples if sample.joules is not None]
    if not measured:
        return None
    subjects = [sample.subject for sample in measured]
    kinds = {sample.kind for sample in measured}
    uncertainty = sensor_width([sample.uncertainty for sample in measured], subjects, kinds)
    columns = [_row(sample) for sample in measured]
    totals = [math.fsum(column) for column in zip(*columns, strict=True)]
    sums = resampled_sums(columns, subjects, seed)
    joules = totals[_JOULES]
    relative = uncertainty / joules if uncertainty is not None and joules > 0 else None

    def figure(above: int, below: int) -> Figure | None:
        if totals[below] <= 0:
            return None
        value = totals[above] / totals[below]
        return with_both(value, ratio(sums[:, above], sums[:, below]), relative)

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


def sensor_width(
    widths: Sequence[float | None], subjects: Sequence[str], kinds: Collection[str | None]
) -> float | None:
    """Half width of a sum of readings: linear, and in quadrature only between independent ones.

    Args:
        widths: Half width of each, joules; None where it is not known, and the sum's is not then.
        subjects: Subject of each.
        kinds: All kinds that occur.
    """
    inside: dict[str, list[float]] = {}
    for width, subject in zip(widths, subjects, strict=True):
        if width is None:
            return None
        inside.setdefault(subject, []).append(width)
    sums = [math.fsum(part) for _, part in sorted(inside.items())]
    return math.hypot(*sums) if set(kinds) <= _READ else math.fsum(sums)


def with_both(value: float, replicates: Floats, relative: float | None) -> Figure:
    """A figure with its sampling interval, widened by the sensor's relative half width."""
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
"""Kinds whose stated error is one of each interval, not of the calibration."""

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
