"""Energy of answers: joules per question and token, percentiles, cost over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etui import units
from etui.bench.config import RunConfig
from etui.bench.sample import Sample
from etui.energy.energy_record import (
    Distribution,
    Drift,
    EarlyAnswer,
    RecordPercentiles,
    SteadyState,
)
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.stats.arrays import Floats
from etui.stats.bootstrap import percentiles, ratio, resample_sums
from etui.stats.distributions import t_p_value, t_quantile

_BINS_PER_OCTAVE = 16
_SHORTEST_SECONDS = 1e-9  # Resolution of the clock: shorter gaps, 0 included, are counted as this
Bins = tuple[tuple[int, int], ...]  # Number of a bin and its count, ascending


def compute_distribution(values: Iterable[float]) -> Distribution | None:
    """Compute mean and percentiles, interpolated between ranks; None without values."""
    array = np.asarray(list(values), dtype=np.float64)
    if not array.size:
        return None
    p50, p90, p95 = (float(value) for value in np.percentile(array, [50, 90, 95]))
    return Distribution(int(array.size), float(array.mean()), p50, p90, p95)


def compute_percentiles(samples: Sequence[Sample]) -> RecordPercentiles:
    """Compute the percentiles of a system; None where no sample has the figure."""
    measured = [(one.joules, one.tokens.output) for one in samples if one.joules is not None]
    return RecordPercentiles(
        joules_per_question=compute_distribution(joules for joules, _ in measured),
        joules_per_output_token=compute_distribution(
            joules / output for joules, output in measured if output
        ),
        ttft_seconds=compute_distribution(
            one.ttft_seconds for one in samples if one.ttft_seconds is not None
        ),
        inter_token_seconds=pool_gaps(
            one.inter_token_bins for one in samples if one.inter_token_bins
        ),
    )


def count_gaps(gaps: Iterable[float]) -> Bins:
    """Count gaps in bins."""
    bins = Counter(
        math.floor(math.log2(max(gap, _SHORTEST_SECONDS)) * _BINS_PER_OCTAVE) for gap in gaps
    )
    return tuple(sorted(bins.items()))


def pool_gaps(parts: Iterable[Sequence[Sequence[int]]]) -> Distribution | None:
    """Compute mean and percentiles of all gaps that :func:`count_gaps` counted, or None."""
    total: Counter[int] = Counter()
    for part in parts:
        for number, count in part:
            total[number] += count
    bins = sorted((number, count) for number, count in total.items() if count > 0)
    count = sum(one for _, one in bins)
    if not count:
        return None
    mean = math.fsum(_middle(number) * one for number, one in bins) / count
    p50, p90, p95 = (_find_quantile(bins, count, share) for share in (0.5, 0.9, 0.95))
    return Distribution(count, mean, p50, p90, p95)


def _find_quantile(bins: Sequence[tuple[int, int]], count: int, share: float) -> float:
    """Return the middle of the bin with the value of the nearest rank."""
    rank, seen = math.ceil(share * count), 0
    for number, one in bins:
        seen += one
        if seen >= rank:
            return _middle(number)
    return _middle(bins[-1][0])


def _middle(number: int) -> float:
    return float(2.0 ** ((number + 0.5) / _BINS_PER_OCTAVE))


@dataclass(frozen=True, slots=True)
class CostFigure:
    """An energy or a power with both its errors."""

    value: float  # Value in joules per something, or watts
    sensor: float | None  # Half width of the sensor's error; None if unknown
    low: float | None  # The 95 % interval of sensor and sampling; None if an end is unknown
    high: float | None

    @property
    def half_width(self) -> float | None:
        """The larger half of the interval; None if an end is unknown."""
        if self.low is None or self.high is None:
            return None
        return max(self.value - self.low, self.high - self.value)


@dataclass(frozen=True, slots=True)
class Cost:
    """Energy of one system; a figure is None if its divisor is 0."""

    questions: int  # Number of questions with measured energy; all figures refer to these
    kind: str  # The weakest kind among them
    joules: float  # Their sum, without the loading of models
    uncertainty: float | None  # Half width of the sum from the sensor; None if unknown
    prefill_joules: float | None  # Joules by phase; None if a question has no phases
    decode_joules: float | None
    per_question: CostFigure
    per_correct: CostFigure | None  # Joules per right answer, the joules of wrong answers included
    per_output_token: CostFigure | None
    """Joules per thinking and answer token, over the questions that generated any; None if none
    did."""
    per_computed_token: CostFigure | None  # Of prefill, shared prefixes included
    per_decoded_token: CostFigure | None  # Decode joules per generated token
    mean_watts: CostFigure | None  # Joules over seconds


_COLUMNS = (
    *("joules", "prefill", "decode", "questions", "correct", "output", "computed", "seconds"),
    "generating",
)
"""What is summed over the answers; ``generating`` are the joules of those that generated tokens."""


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
    total = dict(zip(_COLUMNS, totals, strict=True))
    drawn = {name: sums[:, at] for at, name in enumerate(_COLUMNS)}
    joules = total["joules"]
    relative = uncertainty / joules if uncertainty is not None and joules > 0 else None

    def figure(above: str, below: str) -> CostFigure | None:
        if total[below] <= 0:
            return None
        value = total[above] / total[below]
        sensor = None if relative is None else abs(value) * relative
        return build_figure(value, ratio(drawn[above], drawn[below]), sensor)

    phases = all(sample.prefill_joules is not None for sample in measured)
    per_question = figure("joules", "questions")
    assert per_question is not None
    return Cost(
        questions=len(measured),
        kind=find_weakest_kind(kinds) or Kind.ESTIMATE.value,
        joules=joules,
        uncertainty=uncertainty,
        prefill_joules=total["prefill"] if phases else None,
        decode_joules=total["decode"] if phases else None,
        per_question=per_question,
        per_correct=figure("joules", "correct"),
        per_output_token=figure("generating", "output"),
        per_computed_token=figure("prefill", "computed") if phases else None,
        per_decoded_token=figure("decode", "output") if phases else None,
        mean_watts=figure("joules", "seconds"),
    )


def add_half_widths(
    widths: Sequence[float | None], subjects: Sequence[str], kinds: Collection[str | None]
) -> float | None:
    """Add up half widths, in quadrature between independent readings; None if one is None."""
    inside: dict[str, list[float]] = {}
    for width, subject in zip(widths, subjects, strict=True):
        if width is None:
            return None
        inside.setdefault(subject, []).append(width)
    sums = [math.fsum(part) for _, part in sorted(inside.items())]
    return math.hypot(*sums) if set(kinds) <= _READ else math.fsum(sums)


def build_figure(
    value: float, replicates: Floats, sensor: float | None, least: float = 0.0
) -> CostFigure:
    """Combine sampling interval and sensor half width in quadrature, down to ``least``."""
    low, high = percentiles(replicates)
    off = sensor or 0.0
    return CostFigure(
        value,
        sensor,
        None if low is None else max(least, value - math.hypot(value - min(low, value), off)),
        None if high is None else value + math.hypot(max(high, value) - value, off),
    )


_READ = frozenset({Kind.COUNTER.value, Kind.INTEGRATED.value})
"""Kinds whose error is independent for each interval, rather than due to calibration."""


def _row(sample: Sample) -> tuple[float, ...]:
    """Return the values of an answer in the order of ``_COLUMNS``."""
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


def find_weakest_kind(kinds: Iterable[str | None]) -> str | None:
    """Return the kind of the least certain joules; None without a known one."""
    known = set(Kind)
    found = weakest(Kind(kind) for kind in kinds if kind in known)
    return None if found is None else found.value


LIMIT_PERCENT = 5.0  # Largest drift of a steady machine
LEAST_ANSWERS = 12  # Four in each third
_TAIL = 0.0125  # Joules and seconds are two tests, so the interval of each is at 97.5 %
_NO_NOISE = 1e-9  # A relative standard error below this is that of equal costs, rounded
_EARLY = (1, 2, 10)
_SMALLEST_SHARE = 0.1
"""A fitted cost below this share of the mean cost is raised to it: it would divide by about 0."""


def judge_steadiness(samples: Sequence[Sample]) -> SteadyState:
    """Judge whether the answers of one system on one machine cost the same from first to last.

    It is steady if the interval of each drift is within ``±LIMIT_PERCENT``, and not steady if one
    interval excludes 0 without being within it. Anything else is unknown.
    """
    drifts = (compute_drift(samples, "joules"), compute_drift(samples, "seconds"))
    count = sum(sample.seconds > 0 for sample in samples)
    known = {name: drift for name, drift in zip(("joules", "time"), drifts, strict=True) if drift}
    if not known:
        why = "the lengths of the answers change with their order, or are too even to fit"
        if count < LEAST_ANSWERS:
            why = f"{units.count_text(count, 'answer')}, but the test needs {LEAST_ANSWERS}"
        return SteadyState(None, why, count, LIMIT_PERCENT, None, None)
    moved = [name for name, drift in known.items() if _is_shown(drift) and not _is_within(drift)]
    is_steady: bool | None = None
    if moved:
        is_steady = False
        why = f"the {' and the '.join(moved)} of an answer changed during the run"
    elif all(_is_within(drift) for drift in known.values()):
        is_steady = True
        why = f"the cost of an answer changed by less than {LIMIT_PERCENT:g} %"
    else:
        why = f"the answers vary too much to tell a drift of {LIMIT_PERCENT:g} % from none"
    return SteadyState(is_steady, why, count, LIMIT_PERCENT, *drifts)


def compute_drift(samples: Sequence[Sample], figure: str) -> Drift | None:
    """Compute the drift of a figure from the first third of the answers to the last.

    ``figure`` is ``joules`` or ``seconds``; answers without it are left out. The interval is at
    97.5 %. None with fewer than ``LEAST_ANSWERS``, or if the lengths of the answers cannot be
    separated from their order.
    """
    rows = [sample for sample in samples if (getattr(sample, figure) or 0.0) > 0]
    if len(rows) < LEAST_ANSWERS:
        return None
    costs = np.asarray([getattr(sample, figure) for sample in rows], dtype=np.float64)
    tokens = _build_columns(rows)
    fitted = _fit(tokens, costs)
    third = np.arange(len(rows)) * 3 // len(rows)
    design = np.column_stack([tokens / fitted[:, None], third == 1, third == 2])
    relative = costs / fitted
    coefficients, _, rank, _ = np.linalg.lstsq(design, relative, rcond=None)
    freedom = len(rows) - design.shape[1]
    if rank < design.shape[1] or freedom < 1:
        return None
    residuals = relative - design @ coefficients
    variance = float(residuals @ residuals) / freedom
    error = math.sqrt(max(0.0, variance * float(np.linalg.inv(design.T @ design)[-1, -1])))
    value = float(coefficients[-1])
    half = error * t_quantile(_TAIL, freedom)
    if error < _NO_NOISE:  # any difference is certain
        p = 1.0 if abs(value) < _NO_NOISE else 0.0
        return Drift(100 * value, 100 * value, 100 * value, p)
    p = t_p_value(value / error, freedom)
    return Drift(100 * value, 100 * (value - half), 100 * (value + half), p)


def list_early_answers(samples: Sequence[Sample]) -> tuple[EarlyAnswer, ...]:
    """List the first, second and tenth answer of one system on one machine, as far as given."""
    return tuple(
        _build_early(number, samples[number - 1], samples)
        for number in _EARLY
        if number <= len(samples)
    )


def _build_early(number: int, sample: Sample, samples: Sequence[Sample]) -> EarlyAnswer:
    joules, output = sample.joules, sample.tokens.output
    computed = sample.tokens.computed + sample.prefix_tokens
    return EarlyAnswer(
        number=number,
        joules=joules,
        seconds=sample.seconds,
        output_tokens=output,
        joules_per_output_token=joules / output if joules is not None and output else None,
        joules_per_token=joules / (computed + output)
        if joules is not None and computed + output > 0
        else None,
        percent_of_usual=_compare_with_others(sample, samples),
    )


def _compare_with_others(sample: Sample, samples: Sequence[Sample]) -> float | None:
    """Return the joules of an answer in per cent of those fitted to the others, or None."""
    others = [one for one in samples if one is not sample and (one.joules or 0.0) > 0]
    if sample.joules is None or len(others) < LEAST_ANSWERS:
        return None
    costs = np.asarray([one.joules for one in others], dtype=np.float64)
    columns, own = _build_columns(others), _build_row(sample, others)
    if own is None:
        return None
    weights = 1 / _fit(columns, costs)
    coefficients = np.linalg.lstsq(columns * weights[:, None], costs * weights, rcond=None)[0]
    usual = float(own @ coefficients)
    return 100 * sample.joules / usual if usual > _SMALLEST_SHARE * float(costs.mean()) else None


def _build_columns(samples: Sequence[Sample]) -> Floats:
    """Build the columns 1, computed and output tokens, without those that do not vary."""
    lengths = _list_lengths(samples)
    return np.column_stack([np.ones(len(samples)), lengths[:, _find_varied(lengths)]])


def _build_row(sample: Sample, samples: Sequence[Sample]) -> Floats | None:
    """Build a row for the columns of other samples; None if it has a length they say nothing of."""
    lengths, own = _list_lengths(samples), _list_lengths([sample])[0]
    varied = _find_varied(lengths)
    if not np.allclose(own[~varied], lengths[0, ~varied]):
        return None
    return np.concatenate([[1.0], own[varied]])


def _list_lengths(samples: Sequence[Sample]) -> Floats:
    """List computed and output tokens; shape (answers, 2)."""
    return np.asarray(
        [(one.tokens.computed + one.prefix_tokens, one.tokens.output) for one in samples],
        dtype=np.float64,
    )


def _find_varied(lengths: Floats) -> Any:
    return lengths.std(axis=0) > 1e-9


def _fit(columns: Floats, costs: Floats) -> Floats:
    """Fit costs by least squares; shape (answers,), all above 0."""
    coefficients = np.linalg.lstsq(columns, costs, rcond=None)[0]
    return np.maximum(columns @ coefficients, _SMALLEST_SHARE * float(costs.mean()))


def _is_within(drift: Drift) -> bool:
    return drift.low_percent >= -LIMIT_PERCENT and drift.high_percent <= LIMIT_PERCENT


def _is_shown(drift: Drift) -> bool:
    return drift.low_percent > 0 or drift.high_percent < 0


@dataclass(frozen=True, slots=True)
class CostOverTime:
    """The answers of a system on one machine, in the order they were given."""

    machine: str | None  # Key of the machine; None for the only machine of a run
    steady_state: SteadyState  # Whether the machine worked evenly
    early_answers: tuple[EarlyAnswer, ...]
    """The first, second and tenth answer, as far as there are so many."""


def compute_costs_over_time(
    samples: Iterable[Sample], run: RunConfig
) -> dict[str, tuple[CostOverTime, ...]]:
    """Compute the course of each system on each machine; system -> courses."""
    found: dict[str, dict[str | None, list[Sample]]] = {}
    for sample in samples:
        machines = found.setdefault(run.contender(sample.arm), {})
        machines.setdefault(sample.machine, []).append(sample)
    return {
        name: tuple(
            CostOverTime(machine, judge_steadiness(inside), list_early_answers(inside))
            for machine, inside in sorted(machines.items(), key=lambda item: item[0] or "")
        )
        for name, machines in found.items()
    }
