"""The result of a sweep in one sentence, in which only claimed differences are facts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from etui import units
from etui.stats.tests import SIGNIFICANCE
from etui.sweep.analysis.claims import find_claimed_change
from etui.sweep.goal import Goal
from etui.sweep.report.names import find_setting, name_values, short_name
from etui.sweep.result import Accuracy, DetectionFloor, Difference, SettingResult, SweepResult

JOULES, TIME = "joules", "time"

WHOLE_PERCENT = 100.0
"""Per cent; no saving is larger."""


def format_verdict(result: SweepResult) -> str:
    """Format the result in one sentence, without a full stop.

    ``threads=1 saves 18 % [16, 20] of the joules, costs 4 % [3, 5] of the time, and accuracy is
    unchanged within 0.6 points``
    """
    base, best = find_setting(result, result.baseline), find_setting(result, result.best)
    begun = "" if result.is_complete else f"unfinished after {_blocks(result)}: "
    if base is None or best is None:
        text = "nothing has been compared yet" if begun else "nothing could be compared"
    elif best is base:
        text = _keep(result, base)
    else:
        among = _limit_text(result.goal)
        text = f"{among}{short_name(best.values, base.values)} {_describe(result, best)}"
        if not begun and not among:
            return text  # names of settings keep their letters
    text = begun + text
    return text[0].upper() + text[1:]


def is_accuracy_claimed(accuracy: Accuracy) -> bool:
    """Return whether an accuracy differs significantly, in test and interval, from the baseline."""
    change = accuracy.difference_points
    if change is None or change.value == 0 or accuracy.p is None:
        return False
    if change.low is not None and change.high is not None and change.low <= 0 <= change.high:
        return False
    return accuracy.p < SIGNIFICANCE


def computes_same(result: SweepResult, accuracy: Accuracy) -> bool:
    """Return whether the answers are those of the baseline, whose numbers are the same."""
    base = find_setting(result, result.baseline)
    return (
        base is not None
        and base.accuracy is not None
        and accuracy.measured_as == base.accuracy.measured_as
    )


def find_accuracy_bound(accuracy: Accuracy) -> float | None:
    """Return the largest change of accuracy in the interval, in points; None without one."""
    change = accuracy.difference_points
    if change is None or change.low is None or change.high is None:
        return None
    return max(abs(change.low), abs(change.high))


def choose_floor(floor: DetectionFloor | None, what: str) -> float | None:
    """Return the detection floor of joules or of time in per cent; None if unmeasured."""
    if floor is None or what not in (JOULES, TIME):
        return None
    return floor.joules_percent if what == JOULES else floor.seconds_percent


def floor_text(percent: float) -> str:
    """Format a detection floor: ``1.3 %``; ``above 100 %`` if nothing at all can be shown."""
    return "above 100 %" if percent > WHOLE_PERCENT else units.change_text(percent, signed=False)


def describe_no_difference(
    what: str, difference: Difference | None, floor: DetectionFloor | None
) -> str:
    """Format that no difference was shown, with what can be ruled out.

    An interval that goes beyond the floor is stated in full: the floor would promise too much.
    """
    smallest = choose_floor(floor, what)
    if difference is None or difference.low is None or difference.high is None:
        return f"no difference in {what} could be shown"
    low, high = difference.low, difference.high
    if smallest is not None and max(abs(low), abs(high)) <= smallest:
        bound = units.change_text(smallest, signed=False)
        return f"no difference in {what} above {bound} could be shown"
    _, _, ends = units.change_text(difference.percent, low, high).partition(" [")
    return f"no difference in {what} could be shown (interval [{ends} %)"


def _keep(result: SweepResult, base: SettingResult) -> str:
    """Write that nothing beats the setting in use, and what saves time at the same joules."""
    goal = result.goal.measure
    name, among = name_values(base.values), _limit_text(result.goal)
    if goal != TIME and not _has_joules(result):
        return (
            f"joules are unmeasured, so no setting can beat the current one ({name})"
            f"{_mention_faster(result, base)}"
        )
    if among:
        text = f"{among}none beats the current one ({name})"
    else:
        text = f"nothing beats the current setting ({name})"
    smallest = choose_floor(result.floor, goal)
    if goal == "joules*time":
        text += "; no saving of joules times seconds could be shown"
    elif smallest is None:
        text += f"; no saving of {goal} could be shown"
    elif smallest > WHOLE_PERCENT:
        text += f"; no saving of {goal} could be shown, as the detection floor is above 100 %"
    else:
        text += f"; no saving of {goal} above {units.change_text(smallest, signed=False)} "
        text += "could be shown"
    return text + _mention_faster(result, base)


def _mention_faster(result: SweepResult, base: SettingResult) -> str:
    faster = _find_faster(result) if result.goal.measure == JOULES else None
    if faster is None:
        return ""
    return f"; {short_name(faster.values, base.values)} {_describe(result, faster, {JOULES})}"


def _has_joules(result: SweepResult) -> bool:
    return any(one.joules is not None for one in result.settings)


def _find_faster(result: SweepResult) -> SettingResult | None:
    """Find the kept setting that saves the most time, if it does not cost joules."""
    saving = [
        one
        for one in result.settings
        if one.dropped_after is None
        and not one.drop_reason
        and one.seconds_difference is not None
        and one.seconds_difference.is_claimed
        and one.seconds_difference.percent < 0
        and not (one.joules_difference is not None and one.joules_difference.is_claimed)
        and not (one.accuracy is not None and is_accuracy_claimed(one.accuracy))
    ]

    def percent(one: SettingResult) -> float:
        return one.seconds_difference.percent if one.seconds_difference else 0.0

    return min(saving, key=percent, default=None)


def _describe(result: SweepResult, one: SettingResult, said: Collection[str] = frozenset()) -> str:
    """Describe a setting against the baseline: claims first, then what could not be shown."""
    differences = {JOULES: one.joules_difference, TIME: one.seconds_difference}
    if one.joules is None:
        del differences[JOULES]
    if result.goal.measure == TIME:
        differences = dict(reversed(differences.items()))
    claims = [
        _claim(what, difference, result.kind)
        for what, difference in differences.items()
        if difference is not None and difference.is_claimed
    ]
    open_ = [
        describe_no_difference(what, difference, result.floor)
        for what, difference in differences.items()
        if difference is None or not difference.is_claimed
    ]
    unmeasured = []
    if one.joules is None and not (JOULES in said and not _has_joules(result)):
        unmeasured.append(JOULES)
    if one.accuracy is None:
        unmeasured.append("accuracy")
    elif is_accuracy_claimed(one.accuracy):
        claims.append(_accuracy_claim(one.accuracy))
    else:
        open_.append(_accuracy_kept(result, one.accuracy))
    verb = "was" if unmeasured == ["accuracy"] else "were"
    tail = f"; {' and '.join(unmeasured)} {verb} not measured" if unmeasured else ""
    claims = _merge(claims)
    if one.setting == result.best and not _is_goal_claimed(result, one):
        goal = result.goal.measure.replace("*", " times ")
        more = [f"it {_join(claims)}"] if claims else []
        if claims and result.goal.measure not in (JOULES, TIME):
            open_.insert(0, f"no saving of {goal} could be shown")
        return f"ranks best by {goal}, but {_join([*open_, *more], clauses=True)}{tail}"
    if open_:
        return f"{', '.join([*claims, *open_[:-1]])}, and {open_[-1]}{tail}"
    return _join(claims) + tail


def _is_goal_claimed(result: SweepResult, one: SettingResult) -> bool:
    """Return whether a difference is claimed in the goal; of a product, a saving."""
    parts = {JOULES: one.joules_difference, TIME: one.seconds_difference}
    measure = result.goal.measure
    if measure not in parts:
        return find_claimed_change(one, result.goal) is not None
    part = parts[measure]
    return part is not None and part.is_claimed


def _claim(what: str, difference: Difference, kind: str | None) -> str:
    low, high = difference.low, difference.high
    saves = difference.percent < 0
    if saves:
        low, high = (None if end is None else -end for end in (high, low))
    text = units.change_text(abs(difference.percent), low, high, signed=False)
    verb = "saves" if saves else "costs"
    if what == JOULES and kind == units.ESTIMATE:
        return f"{verb} {units.ABOUT}{text} of the joules ({units.ESTIMATE})"
    return f"{verb} {text} of the {what}"


def _accuracy_claim(accuracy: Accuracy) -> str:
    change = accuracy.difference_points
    assert change is not None
    low, high = change.low, change.high
    if change.value < 0:
        low, high = (None if end is None else -end for end in (high, low))
    text = units.points_change_text(abs(change.value), low, high, signed=False)
    return f"{'costs' if change.value < 0 else 'gains'} {text} of accuracy"


def _accuracy_kept(result: SweepResult, accuracy: Accuracy) -> str:
    if computes_same(result, accuracy):
        return "accuracy is the same, as the same numbers are computed"
    bound = find_accuracy_bound(accuracy)
    if bound is None:
        return "no difference in accuracy could be shown"
    return f"accuracy is unchanged within {units.points_change_text(bound, signed=False)}"


def _merge(claims: Sequence[str]) -> list[str]:
    """Write the verb of neighbours once: ``costs A`` and ``costs B`` become ``costs A and B``."""
    merged: list[str] = []
    verb = ""
    for claim in claims:
        first, _, rest = claim.partition(" ")
        if merged and first == verb:
            merged[-1] += f" and {rest}"
        else:
            merged.append(claim)
        verb = first
    return merged


def _join(parts: Sequence[str], *, clauses: bool = False) -> str:
    """Join parts of a sentence by commas and ``and``; two clauses get a comma too."""
    if len(parts) < 3 and not (clauses and len(parts) == 2):
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _limit_text(goal: Goal) -> str:
    if goal.within_percent is None:
        return ""
    limit = units.change_text(goal.within_percent, signed=False)
    return f"Of the settings at most {limit} slower than the fastest, "


def _blocks(result: SweepResult) -> str:
    return units.count_text(result.blocks, "block")
