"""The course of a run: how the cost of the answers of each system changes on each machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui import units
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.energy.steadiness import Drift, EarlyAnswer, SteadyState

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


LIMIT_PERCENT = 5.0
"""Largest drift of a steady machine."""


LEAST_ANSWERS = 12
"""Four in each third."""


_TAIL = 0.0125
"""Joules and seconds are two tests, so the interval of each is at 97.5 %."""


_NO_NOISE = 1e-9
"""A relative standard error below this is that of equal costs, rounded."""


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

    Args:
        figure: ``joules`` or ``seconds``; answers without it are left out.

    Returns:
        The drift, with an interval at 97.5 %; None with fewer than ``LEAST_ANSWERS``, or if the
        lengths of the answers cannot be separated from their order.
    """
    import numpy as np

    from etui.stats.student_t import t_p_value, t_quantile

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
    import numpy as np

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
    import numpy as np

    lengths = _list_lengths(samples)
    return np.column_stack([np.ones(len(samples)), lengths[:, _find_varied(lengths)]])


def _build_row(sample: Sample, samples: Sequence[Sample]) -> Floats | None:
    """Build a row for the columns of other samples; None if it has a length they say nothing of."""
    import numpy as np

    lengths, own = _list_lengths(samples), _list_lengths([sample])[0]
    varied = _find_varied(lengths)
    if not np.allclose(own[~varied], lengths[0, ~varied]):
        return None
    return np.concatenate([[1.0], own[varied]])


def _list_lengths(samples: Sequence[Sample]) -> Floats:
    """List computed and output tokens; shape (answers, 2)."""
    import numpy as np

    return np.asarray(
        [(one.tokens.computed + one.prefix_tokens, one.tokens.output) for one in samples],
        dtype=np.float64,
    )


def _find_varied(lengths: Floats) -> Any:
    return lengths.std(axis=0) > 1e-9


def _fit(columns: Floats, costs: Floats) -> Floats:
    """Fit costs by least squares; shape (answers,), all above 0."""
    import numpy as np

    coefficients = np.linalg.lstsq(columns, costs, rcond=None)[0]
    return np.maximum(columns @ coefficients, _SMALLEST_SHARE * float(costs.mean()))


def _is_within(drift: Drift) -> bool:
    return drift.low_percent >= -LIMIT_PERCENT and drift.high_percent <= LIMIT_PERCENT


def _is_shown(drift: Drift) -> bool:
    return drift.low_percent > 0 or drift.high_percent < 0


@dataclass(frozen=True, slots=True)
class Course:
    """The answers of a system on one machine, in the order they were given."""

    machine: str | None  # Key of the machine; None for the only machine of a run
    steady_state: SteadyState  # Whether the machine worked evenly
    early_answers: tuple[EarlyAnswer, ...]
    """The first, second and tenth answer, as far as there are so many."""


def compute_courses(samples: Iterable[Sample], run: RunConfig) -> dict[str, tuple[Course, ...]]:
    """Compute the course of each system on each machine; system -> courses.

    Args:
        samples: Answers of the run in the order they were given.
    """
    found: dict[str, dict[str | None, list[Sample]]] = {}
    for sample in samples:
        machines = found.setdefault(run.contender(sample.arm), {})
        machines.setdefault(sample.machine, []).append(sample)
    return {
        name: tuple(
            Course(machine, judge_steadiness(inside), list_early_answers(inside))
            for machine, inside in sorted(machines.items(), key=lambda item: item[0] or "")
        )
        for name, machines in found.items()
    }
