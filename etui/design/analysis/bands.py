"""Subjects and groups: where thinking gets more questions right, and what each of them costs.

Looking at many subjects finds differences by chance. Every arm of a model in every subject is one
look, and the p-values are adjusted for all of them (Holm). A subject with too few questions to show
anything after that is named as such and is no look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from etui.datasets.mmlu import GROUPS, find_group
from etui.design.analysis.intervals import excludes
from etui.design.analysis.multiples import compute_additional_cost
from etui.design.analysis.paired import Paired
from etui.design.analysis.strategies import Strategy
from etui.stats.paired import choose_testable, compute_equality_p, estimate_paired_mean
from etui.stats.tests import SIGNIFICANCE, Interval, holm, mcnemar

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

Effect = Literal["helps", "hurts", "undecided", "too few questions"]


@dataclass(frozen=True, slots=True)
class BandDifference:
    """A thinking arm minus the direct answer of its model, in one subject or group.

    Attributes:
        direct, thinking: Share of right answers of both.
        only_direct, only_thinking: Questions that only one of them got right.
    """

    strategy: Strategy
    base: Strategy  # The direct answer
    band: str  # The subject or group
    group: str | None  # Group of MMLU; None for other subjects
    questions: int
    direct: float
    thinking: float
    only_direct: int
    only_thinking: int
    difference: Interval  # Accuracy of the arm minus that of the direct answer
    p_value: float  # Two-sided p-value of McNemar's exact test
    p_holm: float | None  # Adjusted for all looks; None with too few questions
    per_additional: Interval | None
    """Joules for each additional right answer; None without one, with too few questions, or
    unmeasured."""
    effect: Effect  # What follows from the interval and the adjusted p-value


@dataclass(frozen=True, slots=True)
class PooledDifference:
    """All thinking arms of a model together, minus its direct answer, in one subject or group."""

    role: str
    band: str
    group: str | None
    questions: int
    difference: Interval
    """Mean accuracy of the thinking arms minus that of the direct answer; a picture, not a test."""


@dataclass(frozen=True, slots=True)
class Bands:
    """All differences by subject or by group."""

    what: str  # `subject` or `group`
    rows: tuple[BandDifference, ...]  # By arm, then by band
    looks: dict[str, int]  # Role -> number of looks that the p-values are adjusted for
    equal_p: dict[str, float]
    """Arm -> p-value of the same effect in all bands that have enough questions; absent with fewer
    than two."""
    pooled: tuple[PooledDifference, ...]  # By role, then by band


def compute_subjects(paired: Paired, seed: int) -> Bands:
    """Compute the differences in every subject."""
    return _compute_bands(paired, "subject", lambda subject: subject, seed)


def compute_groups(paired: Paired, seed: int) -> Bands:
    """Compute the differences in every group of MMLU; no rows for subjects of another suite."""
    return _compute_bands(paired, "group", find_group, seed)


def _compute_bands(
    paired: Paired, what: str, name: Callable[[str], str | None], seed: int
) -> Bands:
    named = [name(subject) for subject in paired.subjects]
    known = sorted({one for one in named if one is not None}, key=_rank)
    rows: list[BandDifference] = []
    looks: dict[str, int] = {}
    for role in paired.layout.roles:
        base = paired.layout.direct_of(role)
        if base is None:
            continue
        found = [
            _compute_row(paired, one, base, band, named)
            for one in paired.layout.of_role(role)
            if one.thinks
            for band in known
        ]
        adjusted = _adjust(found)
        looks[role] = sum(row.p_holm is not None for row in adjusted)
        rows += [_add_cost(paired, row, named, seed) for row in adjusted]
    equal = {}
    for arm in dict.fromkeys(row.strategy.arm for row in rows):
        inside = [row for row in rows if row.strategy.arm == arm and row.p_holm is not None]
        if len(inside) > 1:
            errors = [_estimate_error(row) for row in inside]
            equal[arm] = compute_equality_p([row.difference.value for row in inside], errors)
    pooled = (_pool(paired, role, band, named) for role in looks for band in known)
    return Bands(what, tuple(rows), looks, equal, tuple(one for one in pooled if one is not None))


def _rank(band: str) -> tuple[int, str]:
    return (GROUPS.index(band), "") if band in GROUPS else (len(GROUPS), band)


def _select(paired: Paired, band: str, named: Sequence[str | None]) -> list[int]:
    return [at for at, one in enumerate(named) if one == band]


def _compute_row(
    paired: Paired, strategy: Strategy, base: Strategy, band: str, named: Sequence[str | None]
) -> BandDifference:
    at = _select(paired, band, named)
    correct: Floats = paired.correct[at]
    ours, theirs = correct[:, paired.index(strategy)], correct[:, paired.index(base)]
    found = estimate_paired_mean(ours - theirs)
    gained, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
    return BandDifference(
        strategy=strategy,
        base=base,
        band=band,
        group=find_group(paired.subjects[at[0]]),
        questions=len(at),
        direct=float(theirs.mean()),
        thinking=float(ours.mean()),
        only_direct=lost,
        only_thinking=gained,
        difference=Interval(found.value, found.low, found.high, "adjusted"),
        p_value=mcnemar(lost, gained),
        p_holm=None,
        per_additional=None,
        effect="too few questions",
    )


def _pool(
    paired: Paired, role: str, band: str, named: Sequence[str | None]
) -> PooledDifference | None:
    base = paired.layout.direct_of(role)
    thinking = [paired.index(one) for one in paired.layout.of_role(role) if one.thinks]
    if base is None or not thinking:
        return None
    at = _select(paired, band, named)
    correct: Floats = paired.correct[at]
    found = estimate_paired_mean(correct[:, thinking].mean(axis=1) - correct[:, paired.index(base)])
    interval = Interval(found.value, found.low, found.high, "adjusted")
    return PooledDifference(role, band, find_group(paired.subjects[at[0]]), len(at), interval)


def _adjust(rows: Sequence[BandDifference]) -> list[BandDifference]:
    testable = choose_testable([row.questions for row in rows])
    looked = [row for row, fits in zip(rows, testable, strict=True) if fits]
    values = iter(holm([row.p_value for row in looked]))
    return [
        _decide(row, next(values)) if fits else row
        for row, fits in zip(rows, testable, strict=True)
    ]


def _decide(row: BandDifference, p_holm: float) -> BandDifference:
    side = excludes(row.difference, 0.0) if p_holm < SIGNIFICANCE else 0
    effect: Effect = "helps" if side > 0 else "hurts" if side < 0 else "undecided"
    return replace(row, p_holm=p_holm, effect=effect)


def _add_cost(
    paired: Paired, row: BandDifference, named: Sequence[str | None], seed: int
) -> BandDifference:
    if row.p_holm is None:
        return row
    at = _select(paired, row.band, named)
    cost = compute_additional_cost(paired, row.strategy, row.base, at, seed)
    return replace(row, per_additional=cost)


def _estimate_error(row: BandDifference) -> float:
    low, high = row.difference.low, row.difference.high
    assert low is not None
    assert high is not None
    return max((high - low) / 3.92, 1e-9)
