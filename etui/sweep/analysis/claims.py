"""Which setting of a sweep is a claimed improvement on the one in use."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etui.sweep.goal import Goal
from etui.sweep.result import SettingResult, SweepResult


def choose_claimed(result: SweepResult) -> str | None:
    """Choose the best setting of a finished sweep: a claimed improvement, where there is one.

    The race ranks by other tests than those of the claims. Without this, "nothing beats the current
    setting" could be printed above a table with a claimed saving.

    Args:
        result: The result, with the best setting of the race.

    Returns:
        Key of the setting; that of the race if it is claimed, or if nothing is.
    """
    if result.best is None or is_best_claimed(result):
        return result.best
    found = _list_improvements(result.settings, result.goal)
    kept = [one for one in found if not one.drop_reason]
    chosen = _find_largest(kept or found, result.goal)
    return result.best if chosen is None else chosen.setting


def is_best_claimed(result: SweepResult) -> bool:
    """Return whether the best setting is a claimed improvement, and so may be applied."""
    best = next((one for one in result.settings if one.setting == result.best), None)
    if best is None or best.setting == result.baseline:
        return False
    return best in _list_improvements(result.settings, result.goal)


def find_improvement(settings: Sequence[SettingResult], goal: Goal) -> SettingResult | None:
    """Find the largest claimed improvement on the baseline by a goal; None without one."""
    return _find_largest(_list_improvements(settings, goal), goal)


def find_claimed_change(one: SettingResult, goal: Goal) -> float | None:
    """Return the change of the goal's figure in percent; None if it is no claimed improvement.

    The product of joules and time has no test of its own, so it is claimed if one factor is, and if
    even the upper ends of both intervals make it smaller.
    """
    joules, seconds = one.joules_difference, one.seconds_difference
    if goal.measure == "joules*time":
        if joules is None or seconds is None or joules.high is None or seconds.high is None:
            return None
        worst = (1 + joules.high / 100) * (1 + seconds.high / 100)
        if worst >= 1 or not (joules.is_claimed or seconds.is_claimed):
            return None
        return _change(one, goal)
    difference = joules if goal.measure == "joules" else seconds
    if difference is None or not difference.is_claimed or difference.percent >= 0:
        return None
    return difference.percent


def _list_improvements(settings: Sequence[SettingResult], goal: Goal) -> list[SettingResult]:
    """List the settings that are allowed, and that are better beyond doubt.

    Where the baseline is slower than the limit of the time allows, a setting is better if it is
    allowed and faster beyond doubt, whatever its joules.
    """
    base = settings[0]
    allowed = _list_allowed(settings, goal)
    is_too_slow = base not in allowed
    return [
        one
        for one in allowed
        if one is not base
        and (find_claimed_change(one, goal) is not None or (is_too_slow and _is_faster(one)))
    ]


def _find_largest(found: Sequence[SettingResult], goal: Goal) -> SettingResult | None:
    """Find the largest improvement; those claimed by the goal's own figure come first."""
    return min(
        found,
        key=lambda one: (find_claimed_change(one, goal) is None, _change(one, goal)),
        default=None,
    )


def _list_allowed(settings: Sequence[SettingResult], goal: Goal) -> list[SettingResult]:
    """List the settings within the limit of the time; all without a limit.

    Times are compared within blocks, as the machine may have been slower in later ones. A setting
    that could not run in the end limits no other.
    """
    if goal.within_percent is None:
        return list(settings)
    base, *others = settings
    times = {base.setting: 1.0}
    for one in others:
        could_run = one.dropped_after is not None or not one.drop_reason
        if one.seconds_difference is not None and could_run:
            times[one.setting] = 1 + one.seconds_difference.percent / 100
    longest = min(times.values()) * (1 + goal.within_percent / 100)
    return [one for one in settings if times.get(one.setting, math.inf) <= longest]


def _is_faster(one: SettingResult) -> bool:
    seconds = one.seconds_difference
    return seconds is not None and seconds.is_claimed and seconds.percent < 0


def _change(one: SettingResult, goal: Goal) -> float:
    """Return the change of the goal's figure in percent, claimed or not; infinite if unmeasured."""
    joules, seconds = one.joules_difference, one.seconds_difference
    if goal.measure == "joules*time":
        if joules is None or seconds is None:
            return math.inf
        return 100 * ((1 + joules.percent / 100) * (1 + seconds.percent / 100) - 1)
    difference = joules if goal.measure == "joules" else seconds
    return math.inf if difference is None else difference.percent
