"""What a sweep has found, and which of its settings is a claimed improvement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etui.stats.differences import Difference
from etui.stats.tests import SIGNIFICANCE, Interval
from etui.sweep.config import AxisName, Goal, Value

WHOLE_PERCENT = 100.0  # Per cent; no saving is larger


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Answers of a setting to the questions of a suite."""

    correct: int
    questions: int
    share: Interval  # Accuracy with Wilson's interval, in [0, 1]
    difference_points: Interval | None
    """Accuracy less that of the baseline on the same questions, percentage points, with a bootstrap
    interval; None for the baseline."""
    p: float | None  # McNemar's against the baseline, adjusted by Holm; None for the baseline
    measured_as: str
    """Key of the setting whose answers these are: settings that compute the same numbers (other
    threads, another power limit) are not measured twice."""

    @property
    def is_claimed(self) -> bool:
        """Whether it differs significantly, in test and interval, from the baseline's."""
        change = self.difference_points
        if change is None or change.value == 0 or self.p is None:
            return False
        if change.low is not None and change.high is not None and change.low <= 0 <= change.high:
            return False
        return self.p < SIGNIFICANCE


@dataclass(frozen=True, slots=True)
class SettingResult:
    """One setting: its costs for one answer, and its differences to the baseline."""

    setting: str
    values: tuple[tuple[AxisName, Value], ...]
    stage: Literal["race", "confirm"]
    """``confirm`` if the figures come from the confirming blocks alone, else ``race``."""
    blocks: int
    joules: Interval | None  # None if unmeasured
    seconds: Interval | None
    prefill_joules_per_token: Interval | None
    decode_joules_per_token: Interval | None
    joules_difference: Difference | None  # None for the baseline, and if nothing is comparable
    seconds_difference: Difference | None
    accuracy: Accuracy | None  # None without a suite
    dropped_after: int | None
    """Number of the block after which it was dropped; None if it was kept, or could not run."""
    drop_reason: str  # Why it was dropped, or could not run; empty if it was kept
    is_on_frontier: bool
    """Whether no other setting is better in joules, seconds and accuracy, of those kept and the
    best by the goal of each kind of numbers."""

    @property
    def is_kept(self) -> bool:
        """Whether it could run, and was not dropped."""
        return self.dropped_after is None and not self.drop_reason

    @property
    def accuracy_share(self) -> Interval | None:
        """Its accuracy, in [0, 1]; None without a suite."""
        return None if self.accuracy is None else self.accuracy.share

    @property
    def accuracy_points(self) -> Interval | None:
        """Its accuracy less that of the baseline, percentage points; None if not compared."""
        return None if self.accuracy is None else self.accuracy.difference_points

    def change(self, goal: Goal) -> float:
        """Return the change of the goal's figure in percent, claimed or not.

        It is infinite if unmeasured.
        """
        joules, seconds = self.joules_difference, self.seconds_difference
        if goal.measure == "joules*time":
            if joules is None or seconds is None:
                return math.inf
            return 100 * ((1 + joules.percent / 100) * (1 + seconds.percent / 100) - 1)
        difference = joules if goal.measure == "joules" else seconds
        return math.inf if difference is None else difference.percent


@dataclass(frozen=True, slots=True)
class AxisEffect:
    """Effect of one value of an axis against another, averaged over the other axes."""

    axis: AxisName
    value: Value
    reference: Value
    joules: Difference | None
    seconds: Difference | None


@dataclass(frozen=True, slots=True)
class Interaction:
    """How far two values together differ from the product of their effects, where beyond noise."""

    axes: tuple[AxisName, AxisName]
    values: tuple[Value, Value]
    references: tuple[Value, Value]
    joules: Difference


@dataclass(frozen=True, slots=True)
class DetectionFloor:
    """The smallest difference that a sweep can show here; None if unmeasured."""

    joules_percent: float | None
    seconds_percent: float | None
    measured_joules_percent: float | None  # Found between equal settings (A/A): about 0
    measured_seconds_percent: float | None
    blocks: int
    claim_blocks: int  # Number of blocks for which the floor holds


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The result of a sweep, or of the blocks so far."""

    baseline: str  # The setting in use before, or the calmest one where that collapsed
    best: str | None
    """Key of the best setting by the goal: a claimed improvement if there is one, else the best by
    rank, or the baseline; None before the first race, or if no saving can be shown at all."""
    goal: Goal
    is_complete: bool
    floor: DetectionFloor | None  # None before its blocks are measured
    settings: tuple[SettingResult, ...]  # All settings, the baseline first, then by joules
    effects: tuple[AxisEffect, ...]
    interactions: tuple[Interaction, ...]
    blocks: int
    visits: int
    repeated: tuple[str, ...]  # Why blocks were repeated, one line each
    notes: tuple[str, ...]  # A rounded cap, throttling, an estimate instead of a meter
    seconds: float  # Duration so far
    kind: str | None = None  # The weakest kind of all visits; None if unmeasured

    @property
    def is_blind(self) -> bool:
        """Whether no saving can be shown in the goal's figure, as its floor is above 100 %."""
        if self.floor is None:
            return False
        floors = self.floor.joules_percent, self.floor.seconds_percent
        percent = floors[self.goal.measure == "time"]
        return percent is not None and percent > WHOLE_PERCENT

    @property
    def has_accuracy(self) -> bool:
        """Whether accuracy was measured."""
        return any(one.accuracy is not None for one in self.settings)

    def find(self, key: str | None) -> SettingResult | None:
        """Return the result of a setting; None if there is none."""
        return next((one for one in self.settings if one.setting == key), None)

    def computes_same(self, accuracy: Accuracy) -> bool:
        """Return whether the answers are those of the baseline, whose numbers are the same."""
        base = self.find(self.baseline)
        own = None if base is None else base.accuracy
        return own is not None and accuracy.measured_as == own.measured_as


def list_effects(result: SweepResult) -> list[AxisEffect]:
    """List the claimed effects of axes, which the race has shown.

    A figure is left out if the setting that differs in this value alone went the other way later.
    """
    base = {*result.settings[0].values}
    alone = {frozenset({*one.values} - base): one for one in result.settings}

    def keep(own: Difference | None, direct: Difference | None) -> Difference | None:
        if own is None or not own.is_claimed:
            return None
        return None if direct is not None and own.percent * direct.percent < 0 else own

    shown = []
    for effect in result.effects:
        one = alone.get(frozenset({(effect.axis, effect.value)}), result.settings[0])
        joules = keep(effect.joules, one.joules_difference)
        seconds = keep(effect.seconds, one.seconds_difference)
        if joules is not None or seconds is not None:
            shown.append(replace(effect, joules=joules, seconds=seconds))
    return shown


def choose_claimed(result: SweepResult) -> str | None:
    """Choose the best setting of a finished sweep: a claimed improvement, where there is one.

    The race ranks by other tests than those of the claims. Without this, "nothing beats the
    baseline" could be printed above a table with a claimed saving.
    """
    if result.best is None or is_best_claimed(result):
        return result.best
    found = _list_improvements(result.settings, result.goal)
    kept = [one for one in found if not one.drop_reason]
    chosen = _find_largest(kept or found, result.goal)
    return result.best if chosen is None else chosen.setting


def is_best_claimed(result: SweepResult) -> bool:
    """Return whether the best setting is a claimed improvement, and so may be applied."""
    best = result.find(result.best)
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
        return one.change(goal)
    difference = joules if goal.measure == "joules" else seconds
    return difference.percent if difference is not None and difference.is_saving else None


def _list_improvements(settings: Sequence[SettingResult], goal: Goal) -> list[SettingResult]:
    """List the settings that are allowed, and that are better beyond doubt.

    Where the baseline is slower than the limit of the time allows, a setting is better if it is
    allowed and faster beyond doubt, whatever its joules.
    """
    base = settings[0]
    allowed = _list_allowed(settings, goal)
    is_too_slow = base not in allowed

    def is_better(one: SettingResult) -> bool:
        seconds = one.seconds_difference
        is_faster = seconds is not None and seconds.is_saving
        return find_claimed_change(one, goal) is not None or (is_too_slow and is_faster)

    return [one for one in allowed if one is not base and is_better(one)]


def _find_largest(found: Sequence[SettingResult], goal: Goal) -> SettingResult | None:
    """Find the largest improvement; those claimed by the goal's own figure come first."""
    return min(
        found,
        key=lambda one: (find_claimed_change(one, goal) is None, one.change(goal)),
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
