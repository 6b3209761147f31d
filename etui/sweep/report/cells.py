"""Figures of a sweep's settings as texts, for the table in the terminal and in the report."""

from __future__ import annotations

from etui import units
from etui.stats.tests import Interval
from etui.sweep.report.verdict import computes_same, is_accuracy_claimed
from etui.sweep.result import Accuracy, Difference, SettingResult, SweepResult

DASH = "–"
"""Placeholder for a figure that does not exist."""

_ESTIMATE = f" ({units.ESTIMATE})"
_MINUTE = 60.0


def joules_text(figure: Interval | None, kind: str | None) -> str:
    """Format joules with their interval: ``12.3 ± 0.4 J``; ``≈12.3 ± 0.4 J`` for an estimate.

    The word ``(estimate)`` is left to the heading of the column.
    """
    if figure is None:
        return units.UNMEASURED
    half = half_width(figure)
    shown = kind if kind == units.ESTIMATE else None
    if half is not None and half > figure.value / 2:
        # Digits by such an uncertainty would leave nothing of the value.
        text = units.energy_text(figure.value, None, shown).removesuffix(_ESTIMATE)
        return f"{text} ± {units.energy_text(half)}"
    return units.energy_text(figure.value, half, shown, spread=True).removesuffix(_ESTIMATE)


def spread_seconds_text(figure: Interval | None) -> str:
    """Format the seconds of an answer with their interval: ``4.20 ± 0.04 s``."""
    if figure is None:
        return units.UNMEASURED
    half = half_width(figure)
    if half is None or half <= 0:
        return units.seconds_text(figure.value)
    if figure.value >= _MINUTE or half > figure.value / 2:
        return f"{units.seconds_text(figure.value)} ± {units.seconds_text(half)}"
    return f"{units.with_uncertainty(figure.value, half)} s"


def half_width(figure: Interval) -> float | None:
    """Return the larger half of an interval; None if an end is unknown."""
    if figure.low is None or figure.high is None:
        return None
    return max(figure.value - figure.low, figure.high - figure.value)


def token_text(figure: Interval | None, kind: str | None) -> str:
    """Format joules per token without their interval and unit of the token: ``96.1 mJ``."""
    if figure is None:
        return DASH
    return joules_text(Interval(figure.value, None, None, None), kind)


def seconds_text(figure: Interval | None) -> str:
    """Format the seconds of an answer without their interval."""
    return units.UNMEASURED if figure is None else units.seconds_text(figure.value)


def difference_text(difference: Difference | None) -> str:
    """Format a difference: ``-18 % [-20, -16]``, in parentheses if it is not claimed.

    That a difference of joules is an estimate is left to the heading, as ``~-18 %`` is hard to
    read. None is a dash.
    """
    if difference is None:
        return DASH
    text = units.change_text(difference.percent, difference.low, difference.high)
    return text if difference.is_claimed else f"({text})"


def accuracy_text(accuracy: Accuracy | None, *, spread: bool = True) -> str:
    """Format an accuracy, with its interval by default: ``61.2 % [58.9-63.5]``."""
    if accuracy is None:
        return DASH
    share = accuracy.share
    text = units.accuracy_text(share.value)
    if not spread or share.low is None or share.high is None:
        return text
    return f"{text} [{units.points_text(share.low, share.high)}]"


def accuracy_change_text(result: SweepResult, one: SettingResult) -> str:
    """Format the change of accuracy in points, in parentheses if it is not significant.

    ``same`` is a setting that computes the same numbers as the baseline.
    """
    accuracy = one.accuracy
    if accuracy is None or accuracy.difference_points is None:
        return DASH
    if computes_same(result, accuracy):
        return "same"
    change = accuracy.difference_points
    text = units.points_change_text(change.value, change.low, change.high).replace(" points", "")
    return text if is_accuracy_claimed(accuracy) else f"({text})"


def state_text(result: SweepResult, one: SettingResult) -> str:
    """Name the place of a setting: ``best``, ``baseline``, ``frontier``, ``dropped after 7``."""
    words = []
    if one.setting == result.baseline:
        words.append("baseline")
    if one.setting == result.best:
        words.append("best")
    if one.is_on_frontier and not words:
        words.append("frontier")
    if one.dropped_after is not None:
        words.append(f"dropped after {one.dropped_after + 1}")
    elif one.drop_reason:
        words.append("could not run")
    return ", ".join(words)
