"""Interim checks of a run that stops at a precision, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from etui import units
from etui.stats.arrays import Floats, Whole
from etui.stats.confidence_sequence import (
    PrefixMean,
    SequenceInterval,
    build_covariates,
    compute_interval,
    estimate_prefix_mean,
    fixed_sample,
    questions_needed,
)

Key = tuple[str, int]  # Subject and row of a question
Target = Literal["accuracy", "difference"]


@dataclass(frozen=True, slots=True)
class SystemPrecision:
    """What is known of the accuracy of a system, or of its difference from the first one."""

    value: float  # The estimate, a share: with a covariate, corrected by regression
    low: float  # Interval at 95 % that is valid at all checks at once
    high: float
    half_width: float  # Half of its width, before it is cut at 0 and 1
    reached: bool  # Whether it is as narrow as asked
    questions: int
    """Questions asked at this check: the first one at which it was reached, else the last one."""
    fixed_sample: int
    """Questions that a sample whose size was fixed before needs for the same width, without the
    covariate; from the variance so far, pseudo-answers included."""
    correlation: float | None = None  # With the covariate, within subjects


@dataclass(frozen=True, slots=True)
class RunPrecision:
    """The ``precision`` of ``summary.json``."""

    points: float  # Half width asked for, in percentage points
    of: Target
    method: str
    reached: bool  # Whether every interval is as narrow as asked
    questions: int  # Questions at the last check, for each system
    population: int  # Questions of the suite that the accuracy is about
    looks: tuple[int, ...]  # Questions at each interim check
    systems: dict[str, SystemPrecision]  # The first system is left out of differences
    reference: str | None = None  # The first system, for differences; None for accuracies
    difficulty_sha256: str | None = None  # Hash of the table of difficulties; None without one
    difficulty_questions: int | None = None  # Those of the population that it contains
    differences: dict[str, int] | None = None
    """System -> predicted number of questions at which its difference from the first system is
    known to as many points; empty unless several accuracies were asked for."""


@dataclass(frozen=True, slots=True)
class Population:
    """The questions that an accuracy is about."""

    strata: Mapping[str, int]  # Subject -> its number, from 0
    sizes: Mapping[str, int]  # Subject -> its number of questions
    covariates: Mapping[Key, int] | None = None  # Question -> index of its row in `columns`
    columns: Floats | None = None  # Covariates, shape (questions, k); None without

    @property
    def total(self) -> int:
        """Number of questions."""
        return sum(self.sizes.values())


@dataclass(frozen=True, slots=True)
class InterimCheck:
    """What is known of one target at an interim check."""

    estimate: PrefixMean
    interval: SequenceInterval
    needed: int
    fixed: int

    def freeze(self) -> SystemPrecision:
        """Return the numbers for the summary."""
        found = self.interval
        return SystemPrecision(
            value=found.value,
            low=found.low,
            high=found.high,
            half_width=found.half_width,
            reached=found.reached,
            questions=found.questions,
            fixed_sample=self.fixed,
            correlation=self.estimate.correlation,
        )


def build_population(
    questions: Mapping[str, Iterable[int]], difficulty: Mapping[Key, float] | None = None
) -> Population:
    """Build the population of a run.

    ``questions``: subject -> the rows of all its questions, drawn or not. A question without a
    ``difficulty`` has the mean of its subject, or of all.
    """
    keys = [(subject, row) for subject, rows in questions.items() for row in rows]
    sizes = dict.fromkeys(questions, 0)
    for subject, _ in keys:
        sizes[subject] += 1
    strata = {subject: at for at, subject in enumerate(sizes)}
    if difficulty is None:
        return Population(strata, sizes)
    known: dict[str, list[float]] = {}
    for key in keys:
        if key in difficulty:
            known.setdefault(key[0], []).append(difficulty[key])
    means = {subject: sum(inside) / len(inside) for subject, inside in known.items()}
    everything = [value for inside in known.values() for value in inside]
    overall = sum(everything) / len(everything) if everything else 0.0
    values = [difficulty.get(key, means.get(key[0], overall)) for key in keys]
    columns = build_covariates(np.array(values))
    return Population(strata, sizes, {key: at for at, key in enumerate(keys)}, columns)


def check_interim(
    population: Population,
    asked: Sequence[Key],
    values: Sequence[float],
    half_width: float,
    target: Target = "accuracy",
) -> InterimCheck:
    """Compute what is known of one target."""
    strata: Whole = np.array([population.strata[subject] for subject, _ in asked])
    numbers: Floats = np.array(values, dtype=np.float64)
    covariates = None
    if population.covariates is not None and population.columns is not None:
        covariates = population.columns[[population.covariates[key] for key in asked]]
    total = population.total
    bounds = (0.0, 1.0) if target == "accuracy" else (-1.0, 1.0)
    plain = estimate_prefix_mean(numbers, strata, total, bounds=bounds)
    estimate = plain
    if covariates is not None:
        estimate = estimate_prefix_mean(
            numbers, strata, total, bounds=bounds, covariates=covariates
        )
    return InterimCheck(
        estimate,
        compute_interval(estimate, half_width),
        questions_needed(estimate, half_width),
        fixed_sample(plain.variance, total, half_width),
    )


def predict_questions(total: int, half_width: float) -> dict[float, int]:
    """Predict the questions that a run will ask, by the accuracy of the model.

    The variance is that of all questions, so subjects of unlike difficulty and a covariate need
    fewer.
    """
    return {share: _predict(share, total, half_width) for share in (0.3, 0.5, 0.7, 0.9)}


def _predict(share: float, total: int, half_width: float) -> int:
    spread = share * (1 - share)
    return questions_needed(
        PrefixMean(share, share, spread, spread, total, total, total, 0.0, 1.0), half_width
    )


def describe_interim_check(precision: RunPrecision, needed: int, most: int) -> str:
    """Describe an interim check while the run goes on."""
    asked = units.count_text(precision.questions, "question")
    goal = units.margin_text(precision.points)
    if precision.reached:
        return f"{goal} reached after {asked}"
    if needed >= precision.population:
        return f"{goal} cannot be reached with fewer than all questions; {asked} answered"
    if precision.questions >= most:
        return f"{goal} would need about {needed:,} questions"
    return f"{goal} expected after about {min(needed, most):,} questions; {asked} answered"


def describe_precision(precision: RunPrecision) -> list[str]:
    """Describe how precise a run is, one line per statement."""
    goal = units.margin_text(precision.points)
    asked = units.count_text(precision.questions, "question")
    what = "accuracy" if precision.of == "accuracy" else "difference"
    if any(one.questions >= precision.population for one in precision.systems.values()):
        head = f"All {asked} of the suite were asked: {goal} cannot be reached with fewer"
    elif precision.reached:
        head = f"{goal} reached after {asked} of {precision.population:,}"
    else:
        head = f"{goal} not reached after {asked} of {precision.population:,}"
    systems = precision.systems.items()
    lines = [f"{head} (95 % confidence sequence of the {what}: it holds at every look at once)."]
    lines += [f"{name}: {_describe_system(one, precision)}." for name, one in systems]
    if precision.difficulty_sha256 is not None:
        lines.append(_describe_covariate(precision))
    lines += _describe_differences(precision)
    return lines


def _describe_system(one: SystemPrecision, precision: RunPrecision) -> str:
    if precision.of == "difference":
        figure = units.points_change_text(100 * one.value, 100 * one.low, 100 * one.high)
        figure = f"{figure} against {precision.reference}"
    else:
        figure = f"{units.accuracy_text(one.value)} ({units.points_text(one.low, one.high)})"
    fixed = f"a sample of fixed size would need {one.fixed_sample:,}"
    return f"{figure} after {units.count_text(one.questions, 'question')}; {fixed}"


def _describe_covariate(precision: RunPrecision) -> str:
    found = [one.correlation for one in precision.systems.values() if one.correlation is not None]
    known = precision.difficulty_questions or 0
    text = f"The difficulty of {known:,} of {precision.population:,} questions was the covariate"
    if not found:
        return f"{text}."
    ends = sorted({f"{min(found):.2f}", f"{max(found):.2f}"})
    return f"{text} (correlation with the answers within subjects {' to '.join(ends)})."


def _describe_differences(precision: RunPrecision) -> list[str]:
    lines = []
    for name, needed in (precision.differences or {}).items():
        first = next(iter(precision.systems))
        goal = units.margin_text(precision.points)
        if needed < precision.questions:
            lines.append(
                f"The difference of {name} from {first} is known to {goal} after about {needed:,} "
                f"questions: if only that matters, --precision-of difference stops sooner."
            )
        else:
            lines.append(
                f"The difference of {name} from {first} needs about {needed:,} questions for {goal}"
                " (--precision-of difference), since the two are right on unlike questions."
            )
    return lines


def describe_expectation(points: float, expected: Mapping[float, int], most: int) -> str:
    """Describe how many questions a run is expected to ask."""
    parts = [
        f"{min(count, most):,} at an accuracy of {units.percent_text(share)}"
        for share, count in expected.items()
    ]
    text = f"{units.margin_text(points)} after about {', '.join(parts)}"
    return text if max(expected.values()) <= most else f"{text}; at most {most:,} are asked"
