"""Text and JSON document of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etui import units
from etui.bench.analysis.against_mixture import AgainstMixture
from etui.bench.analysis.compare import Comparison, EnergyDifference
from etui.codec import to_document
from etui.stats.tests import Interval

_LEVEL = 0.05


def comparison_lines(one: Comparison, *, several: bool) -> list[str]:
    """Format one comparison in a few lines, without the subjects.

    Args:
        several: Whether there are other comparisons, so that the adjusted p-value is shown.
    """
    first, second = (units.accuracy_text(share) for share in one.accuracies)
    adjusted = f", adjusted {p_text(one.p_holm)}" if several else ""
    return [
        f"{one.second} against {one.first}: {verdict(one)}",
        f"  accuracy  {first} -> {second}: {_change(one.difference)} points micro, "
        f"{_change(one.macro_difference)} macro",
        f"  McNemar   {p_text(one.p_value)}{adjusted}: of {one.questions:,} questions, only "
        f"{one.second} got {one.only_second:,} right and only {one.first} {one.only_first:,}",
        f"  energy    {_energy_line(one.energy)}",
    ]


def verdict(one: Comparison) -> str:
    """Return the verdict in words; the adjusted p-value decides."""
    if one.p_holm >= _LEVEL:
        return "no significant difference in accuracy"
    return "better" if one.difference.value > 0 else "worse"


def p_text(p_value: float) -> str:
    """Format a p-value: ``p = 0.041``, ``p < 0.001``."""
    return "p < 0.001" if p_value < 0.001 else f"p = {units.significant(p_value, 2)}"


def mixture_line(one: AgainstMixture) -> str:
    """Format the comparison of a system with a random mixture of the others."""
    names = " and ".join(one.mixture)
    return (
        f"{one.label} against a random mixture of {names} at the same joules: "
        f"{units.accuracy_text(one.mixture_accuracy)} -> {units.accuracy_text(one.accuracy)}: "
        f"{_change(one.difference)} points"
    )


def subject_lines(one: Comparison) -> list[str]:
    """Format the table of subjects, largest gain first; single subjects are not tested."""
    width = max(len("subject"), *(len(row.subject) for row in one.subjects))
    lines = [f"  {'subject':<{width}}     n   first  second  points  only first  only second"]
    for row in sorted(one.subjects, key=lambda row: (-row.difference, row.subject)):
        lines.append(
            f"  {row.subject:<{width}} {row.questions:>5,} {row.first * 100:>7.1f} "
            f"{row.second * 100:>7.1f} {units.difference_text(row.difference):>7} "
            f"{row.only_first:>11,} {row.only_second:>12,}"
        )
    return lines


@dataclass(frozen=True, slots=True)
class Gate:
    """Result of ``--max-regression``: percentage points allowed, and the systems that lost more."""

    max_regression: float
    met: bool
    failed: tuple[str, ...]


def comparison_document(
    comparisons: Sequence[Comparison],
    mixtures: Sequence[AgainstMixture],
    notes: Sequence[str],
    gate: Gate | None,
) -> dict[str, Any]:
    """Return all comparisons as plain JSON values; shares and p-values are from 0 to 1."""
    return {
        "comparisons": [
            {
                **to_document(one),
                "points_lost": one.points_lost,
                "subjects": [
                    {**to_document(row), "difference": row.difference} for row in one.subjects
                ],
            }
            for one in comparisons
        ],
        "against_mixture": to_document(list(mixtures)),
        "notes": list(notes),
        "gate": to_document(gate),
    }


def _change(difference: Interval) -> str:
    text = units.difference_text(difference.value)
    if difference.low is None or difference.high is None:
        return text
    low, high = (units.difference_text(end) for end in (difference.low, difference.high))
    return f"{text} (95 % CI {low} to {high})"


def _energy_line(energy: EnergyDifference | None) -> str:
    if energy is None:
        return units.UNMEASURED
    kind = units.ESTIMATE if units.ESTIMATE in energy.kinds else None
    first, second = (
        units.per_text(joules, "question", own)
        for joules, own in zip((energy.first, energy.second), energy.kinds, strict=True)
    )
    change = energy.difference
    if change.low is None or change.high is None:
        half = None
    else:
        half = max(change.value - change.low, change.high - change.value)
    times = "" if energy.ratio is None else f", {units.significant(energy.ratio, 2)} times as much"
    shown = units.per_text(change.value, "question", kind, half, spread=True)
    return f"{first} -> {second}: difference {shown}{times}"
