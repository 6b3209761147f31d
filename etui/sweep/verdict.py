"""A result in words: the sentence, in which only claimed differences are facts, and the table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from etui import text as tables
from etui import units
from etui.stats.differences import Difference
from etui.stats.tests import Interval
from etui.sweep.config import AxisName, Goal, Value
from etui.sweep.result import (
    WHOLE_PERCENT,
    Accuracy,
    AxisEffect,
    DetectionFloor,
    SettingResult,
    SweepResult,
    find_claimed_change,
    list_effects,
)
from etui.text import one_line

Values = Sequence[tuple[AxisName, Value]]

JOULES, TIME, ACCURACY = "joules", "time", "accuracy"

DASH = "–"  # Placeholder for a figure that does not exist

_VERBS = {JOULES: ("saves", "costs"), TIME: ("saves", "costs"), ACCURACY: ("costs", "gains")}
"""Figure -> what less and more of it is called."""
_WIDTH, _SENTENCE_WIDTH = 120, 100
_MOST_NOTES, _MOST_DROPS = 8, 16
"""Notes, and dropped settings with their reasons, that are printed."""
_UNCLAIMED = "In parentheses: within noise or below the detection floor, so not a claim."

_Column = tuple[str, str, list[str]]  # Heading, alignment and cells


def name_values(values: Values) -> str:
    """Name a setting by all its values: ``threads=2 kv_type=q8_0``."""
    return one_line(" ".join(f"{name}={value}" for name, value in values))


def short_name(values: Values, baseline: Values) -> str:
    """Name a setting by the values that differ from the baseline: ``threads=1``.

    The baseline itself, and a setting of other axes, get all their values.
    """
    usual = dict(baseline)
    changed = [(name, value) for name, value in values if usual.get(name) != value]
    return name_values(changed or values)


def list_varied_axes(settings: Sequence[SettingResult]) -> list[AxisName]:
    """List the axes in which the settings differ, or all if there is only one setting."""
    axes = list(dict.fromkeys(axis for one in settings for axis, _ in one.values))
    found = [axis for axis in axes if len({dict(one.values).get(axis) for one in settings}) > 1]
    return found or axes


def list_names(result: SweepResult) -> dict[str, str]:
    """Return a name for every setting, by its key: its values of the axes that differ."""
    varied = set(list_varied_axes(result.settings))
    return {
        one.setting: name_values([pair for pair in one.values if pair[0] in varied])
        for one in result.settings
    }


def name_effect(effect: AxisEffect) -> str:
    """Name an effect: ``threads=1 against 2``."""
    return one_line(f"{effect.axis}={effect.value} against {effect.reference}")


def mark_estimate(result: SweepResult) -> str:
    """Return what headings of joules say about their kind: `` (estimate)``, or nothing."""
    return f" ({units.ESTIMATE})" if result.kind == units.ESTIMATE else ""


def joules_text(figure: Interval | None, kind: str | None) -> str:
    """Format joules with their interval; the word ``(estimate)`` is left to the heading."""
    if figure is None:
        return units.UNMEASURED
    shown = kind if kind == units.ESTIMATE else None
    return units.marked(units.energy_text(figure.value, figure.half_width, shown, spread=True))


def spread_seconds_text(figure: Interval | None) -> str:
    """Format the seconds of an answer with their interval: ``4.20 ± 0.04 s``."""
    if figure is None:
        return units.UNMEASURED
    return units.seconds_text(figure.value, figure.half_width)


def difference_text(difference: Difference | None) -> str:
    """Format a difference: ``-18 % [-20, -16]``, in parentheses if it is not claimed.

    That joules are an estimate is left to the heading, as ``~-18 %`` is hard to read.
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
    change = one.accuracy_points
    if one.accuracy is None or change is None:
        return DASH
    if result.computes_same(one.accuracy):
        return "same"
    text = units.points_change_text(change.value, change.low, change.high).replace(" points", "")
    return text if one.accuracy.is_claimed else f"({text})"


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
        words.append("left out")
    return ", ".join(words)


def list_dropped(result: SweepResult) -> list[SettingResult]:
    """List the settings that were left out, then those that were dropped, the first ones first."""
    dropped = [one for one in result.settings if not one.is_kept]
    when = {one.setting: -1 if one.dropped_after is None else one.dropped_after for one in dropped}
    return sorted(dropped, key=lambda one: (when[one.setting], one.setting))


def describe_drop(one: SettingResult) -> str:
    """Write when a setting was dropped: ``after block 7``, or that it was ``left out``."""
    return "left out" if one.dropped_after is None else f"after block {one.dropped_after + 1}"


def floor_text(percent: float) -> str:
    """Format a detection floor: ``1.3 %``; ``above 100 %`` if nothing at all can be shown."""
    return "above 100 %" if percent > WHOLE_PERCENT else units.change_text(percent, signed=False)


def list_floors(floor: DetectionFloor) -> list[tuple[str, float]]:
    """List the figures whose detection floor is known, with it in per cent."""
    floors = ((JOULES, floor.joules_percent), (TIME, floor.seconds_percent))
    return [(what, percent) for what, percent in floors if percent is not None]


def floor_sentence(result: SweepResult) -> str:
    """Format the smallest difference that can be shown, before it is compared with any."""
    floor = result.floor
    if floor is None:
        return "Detection floor: not measured yet."
    hidden = [what for what, percent in list_floors(floor) if percent > WHOLE_PERCENT]
    shown = {what: floor_text(p) for what, p in list_floors(floor) if what not in hidden}
    if not shown and not hidden:
        return "Detection floor: unmeasured, so no difference is claimed."
    text = f"Detection floor: with {units.count_text(floor.claim_blocks, 'block')}"
    names = " and ".join(hidden)
    if shown:
        below = " and ".join(f"{each} in {what}" for what, each in shown.items())
        text += f", differences from {below} can be shown"
        text += f", and no saving of {names}: its floor is above 100 %." if hidden else "."
    else:
        text += f" it is above 100 % in {names}, so no saving can be shown."
    measured = ((JOULES, floor.measured_joules_percent), (TIME, floor.measured_seconds_percent))
    found = [f"{units.change_text(p)} in {what}" for what, p in measured if p is not None]
    if found:
        own = units.count_text(floor.blocks, "block")
        text += f" The baseline against itself differed by {' and '.join(found)} in {own}."
    return text


def time_sentence(result: SweepResult) -> str:
    """Format how long the sweep took."""
    visits = units.count_text(result.visits, "visit")
    blocks = units.count_text(result.blocks, "block")
    text = f"{units.seconds_text(result.seconds)} for {blocks} with {visits}"
    return f"{text}." if result.is_complete else f"{text} so far."


def format_verdict(result: SweepResult) -> str:
    """Format the result in one sentence, without a full stop.

    ``threads=1 saves 18 % [16, 20] of the joules, costs 4 % [3, 5] of the time, and accuracy is
    unchanged within 0.6 points``
    """
    base, best = result.find(result.baseline), result.find(result.best)
    measured = units.count_text(result.blocks, "block")
    begun = "" if result.is_complete else f"unfinished after {measured}: "
    if base is not None and (best is base or result.is_blind):
        text = _keep(result, base)
    elif base is None or best is None:
        text = "nothing has been compared yet" if begun else "nothing could be compared"
    else:
        among = _limit_text(result.goal)
        text = f"{among}{short_name(best.values, base.values)} {_describe(result, best)}"
        if not begun and not among:
            return text  # names of settings keep their letters
    text = begun + text
    return text[0].upper() + text[1:]


def _limit_text(goal: Goal) -> str:
    if goal.within_percent is None:
        return ""
    limit = units.change_text(goal.within_percent, signed=False)
    return f"Of the settings at most {limit} slower than the fastest, "


def _find_floor(result: SweepResult, what: str) -> float | None:
    """Return the detection floor of joules or of time in per cent; None if unmeasured."""
    return None if result.floor is None else dict(list_floors(result.floor)).get(what)


def _keep(result: SweepResult, base: SettingResult) -> str:
    """Write that nothing beats the baseline, or can be shown to, and what saves time alone."""
    goal = result.goal.measure
    name, among = name_values(base.values), _limit_text(result.goal)
    is_measured = any(one.joules is not None for one in result.settings)
    faster = _find_faster(result) if goal == JOULES else None
    also = ""
    if faster is not None:
        description = _describe(result, faster, says_unmeasured=is_measured)
        also = f"; {short_name(faster.values, base.values)} {description}"
    if goal != TIME and not is_measured:
        return f"joules are unmeasured, so no setting can beat the baseline ({name}){also}"
    if result.is_blind:
        named = goal.replace("*", " times ")
        return f"no saving of {named} could be shown, as the detection floor is above 100 %{also}"
    beaten = "none beats the baseline" if among else "nothing beats the baseline"
    smallest = _find_floor(result, goal)
    if goal == "joules*time":
        limit = "no saving of joules times seconds could be shown"
    elif smallest is None:
        limit = f"no saving of {goal} could be shown"
    else:
        limit = f"no saving of {goal} above {floor_text(smallest)} could be shown"
    return f"{among}{beaten} ({name}); {limit}{also}"


def _find_faster(result: SweepResult) -> SettingResult | None:
    """Find the kept setting that saves the most time, if it costs neither joules nor accuracy."""
    saving = {
        one.setting: one.seconds_difference.percent
        for one in result.settings
        if one.is_kept
        and one.seconds_difference is not None
        and one.seconds_difference.is_saving
        and not (one.joules_difference is not None and one.joules_difference.is_claimed)
        and not (one.accuracy is not None and one.accuracy.is_claimed)
    }
    return result.find(min(saving, key=saving.__getitem__, default=None))


def _describe(result: SweepResult, one: SettingResult, *, says_unmeasured: bool = True) -> str:
    """Describe a setting against the baseline: claims first, then what could not be shown."""
    goal, accuracy = result.goal.measure, one.accuracy
    differences = {JOULES: one.joules_difference, TIME: one.seconds_difference}
    claims, open_, unmeasured = [], [], []
    for what in (TIME, JOULES) if goal == TIME else (JOULES, TIME):
        change = differences[what]
        if what == JOULES and one.joules is None:
            unmeasured += [JOULES] if says_unmeasured else []
        elif change is not None and change.is_claimed:
            claims.append(_claim(what, change.percent, change.low, change.high, result.kind))
        else:
            open_.append(no_difference_text(what, change, _find_floor(result, what)))
    if accuracy is None:
        unmeasured.append(ACCURACY)
    elif accuracy.is_claimed and (points := accuracy.difference_points) is not None:
        claims.append(_claim(ACCURACY, points.value, points.low, points.high))
    else:
        open_.append(_describe_kept_accuracy(result, accuracy))
    verb = "was" if unmeasured == [ACCURACY] else "were"
    tail = f"; {' and '.join(unmeasured)} {verb} not measured" if unmeasured else ""
    claims = _merge(claims)
    if one.setting == result.best and not _is_goal_claimed(one, result.goal):
        named = goal.replace("*", " times ")
        more = [f"it {_join(claims)}"] if claims else []
        if claims and goal not in differences:
            open_.insert(0, f"no saving of {named} could be shown")
        return f"ranks best by {named}, but {_join([*open_, *more], clauses=True)}{tail}"
    if open_:
        return f"{', '.join([*claims, *open_[:-1]])}, and {open_[-1]}{tail}"
    return _join(claims) + tail


def _is_goal_claimed(one: SettingResult, goal: Goal) -> bool:
    """Return whether a difference is claimed in the goal; of a product, a saving."""
    if goal.measure == "joules*time":
        return find_claimed_change(one, goal) is not None
    change = one.joules_difference if goal.measure == JOULES else one.seconds_difference
    return change is not None and change.is_claimed


def _claim(
    what: str, value: float, low: float | None, high: float | None, kind: str | None = None
) -> str:
    """Write a claimed change as a saving or a loss: ``saves 18 % [16, 20] of the joules``."""
    verb = _VERBS[what][value >= 0]
    if what == ACCURACY:
        if value < 0:
            low, high = (None if end is None else -end for end in (high, low))
        return f"{verb} {units.points_change_text(abs(value), low, high, signed=False)} of accuracy"
    text = units.size_text(value, low, high)
    text += f" the {what}" if value > units.MULTIPLE_ABOVE_PERCENT else f" of the {what}"
    if what == JOULES and kind == units.ESTIMATE:
        return f"{verb} {units.ABOUT}{text} ({units.ESTIMATE})"
    return f"{verb} {text}"


def no_difference_text(what: str, change: Difference | None, smallest: float | None) -> str:
    """Format that no difference was shown, with what can be ruled out.

    An interval that goes beyond the floor is stated in full: the floor would promise too much.
    """
    if change is None or change.low is None or change.high is None:
        return f"no difference in {what} could be shown"
    widest = max(abs(change.low), abs(change.high))
    if smallest is not None and widest <= smallest <= WHOLE_PERCENT:
        bound = units.change_text(smallest, signed=False)
        return f"no difference in {what} above {bound} could be shown"
    text = units.change_text(change.percent, change.low, change.high, signed=False)
    _, _, ends = text.partition(" [")
    return f"no difference in {what} could be shown (interval [{ends} %)"


def _describe_kept_accuracy(result: SweepResult, accuracy: Accuracy) -> str:
    if result.computes_same(accuracy):
        return "accuracy is the same, as the same numbers are computed"
    change = accuracy.difference_points
    if change is None or change.low is None or change.high is None:
        return "no difference in accuracy could be shown"
    bound = max(abs(change.low), abs(change.high))
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


def format_table(result: SweepResult, width: int = _WIDTH) -> list[str]:
    """Format a result: the settings, the detection floor, effects of the axes, drops and notes.

    Names of settings are cut or put above their figures for the width; figures are never cut.
    """
    lines = _format_settings(result, width)
    varied = list_varied_axes(result.settings)
    same = [pair for one in result.settings[:1] for pair in one.values if pair[0] not in varied]
    if same:
        lines.append(f"All settings have {name_values(same)}.")
    if any("(" in line and "[" in line for line in lines):
        lines.append(_UNCLAIMED)
    sections = [
        lines,
        [floor_sentence(result)],
        _format_effects(result, width),
        _format_drops(result),
        [time_sentence(result), *_shorten_list("repeated", result.repeated)],
        _shorten_list("note", result.notes),
    ]
    found: list[str] = []
    for section in sections:
        if section and found:
            found.append("")
        found += section
    return [part for line in found for part in _wrap(line, min(width, _SENTENCE_WIDTH))]


def _format_settings(result: SweepResult, width: int) -> list[str]:
    """Format the settings in the first form that fits: one table, two, or names above figures."""
    names = _list_value_columns(result)
    costs, parts = _list_cost_columns(result), _list_part_columns(result)
    states = [state_text(result, one) for one in result.settings]
    state = [("", "<", states)]
    lines = _format_columns([*names, *costs, *parts, *state])
    if _fits(lines, width):
        return lines
    lines, more = _format_columns([*names, *costs, *state]), _format_columns([*names, *parts])
    if parts and _fits(lines, width) and _fits(more, width):
        return [*lines, "", *more]
    keys = list(list_names(result).values())
    named = [f"{key}: {text}" if text else key for key, text in zip(keys, states, strict=True)]
    return _put_under_names(named, keys, [*costs, *parts], width)


def _put_under_names(
    first: Sequence[str], keys: Sequence[str], columns: Sequence[_Column], width: int
) -> list[str]:
    """Format the figures of each row on a line below its name, in as many tables as they need.

    ``first`` has the names in the first table, ``keys`` those in the others.
    """
    names: _Column = ("", "<", [""] * len(keys))
    groups: list[list[_Column]] = [[names]]
    for column in columns:
        if len(groups[-1]) > 1 and not _fits(_format_columns([*groups[-1], column]), width):
            groups.append([names])
        groups[-1].append(column)
    found: list[str] = []
    for group in groups:
        shown = keys if found else first
        heading, *lines = _format_columns(group)
        found += [*([""] if found else []), heading]
        for key, line in zip(shown, lines, strict=True):
            found += [*textwrap.wrap(key, width, break_on_hyphens=False), line]
    return found


def _list_value_columns(result: SweepResult) -> list[_Column]:
    columns: list[_Column] = []
    for axis in list_varied_axes(result.settings):
        cells = [dict(one.values).get(axis) for one in result.settings]
        texts = [DASH if value is None else one_line(str(value)) for value in cells]
        columns.append((axis, "<", texts))
    return columns


def _list_cost_columns(result: SweepResult) -> list[_Column]:
    kind, rows, mark = result.kind, result.settings, mark_estimate(result)
    seconds = [one.seconds for one in rows]
    times = [units.UNMEASURED if s is None else units.seconds_text(s.value) for s in seconds]
    return [
        (f"J/answer{mark}", ">", [joules_text(one.joules, kind) for one in rows]),
        (f"change{mark}", ">", [difference_text(one.joules_difference) for one in rows]),
        ("time", ">", times),
        ("change", ">", [difference_text(one.seconds_difference) for one in rows]),
    ]


def _list_part_columns(result: SweepResult) -> list[_Column]:
    rows = result.settings

    def token_text(figure: Interval | None) -> str:
        if figure is None:
            return DASH
        return joules_text(Interval(figure.value, None, None, None), result.kind)

    prefill = [token_text(one.prefill_joules_per_token) for one in rows]
    decode = [token_text(one.decode_joules_per_token) for one in rows]
    columns: list[_Column] = []
    if {*prefill, *decode} != {DASH}:
        columns += [("prefill/token", ">", prefill), ("decode/token", ">", decode)]
    if result.has_accuracy:
        columns += [
            ("accuracy", ">", [accuracy_text(one.accuracy, spread=False) for one in rows]),
            ("change in points", ">", [accuracy_change_text(result, one) for one in rows]),
        ]
    return columns


def _format_columns(columns: Sequence[_Column]) -> list[str]:
    return tables.format_table(
        list(zip(*(cells for _, _, cells in columns), strict=True)),
        header=[heading for heading, _, _ in columns],
        align="".join(side for _, side, _ in columns),
        measure=tables.count_cells,
    )


def _fits(lines: Sequence[str], width: int) -> bool:
    return max(map(tables.count_cells, lines), default=0) <= width


def _format_effects(result: SweepResult, width: int) -> list[str]:
    if not (shown := list_effects(result)):
        return []
    heading = "effect of an axis, over the others"
    names = [name_effect(one) for one in shown]
    mark = mark_estimate(result)
    figures: list[_Column] = [
        (f"joules{mark}", ">", [difference_text(one.joules) for one in shown]),
        ("time", ">", [difference_text(one.seconds) for one in shown]),
    ]
    lines = _format_columns([(heading, "<", names), *figures])
    if _fits(lines, width):
        return lines
    return [f"{heading}:", *_put_under_names(names, names, figures, width)]


def _shorten_list(name: str, texts: Sequence[str]) -> list[str]:
    lines = [f"{name}: {one_line(text)}" for text in texts[:_MOST_NOTES]]
    if len(texts) > _MOST_NOTES:
        lines.append(f"{name}: {len(texts) - _MOST_NOTES:,} more in the report and in --json")
    return lines


def _format_drops(result: SweepResult) -> list[str]:
    lines, names = [], list_names(result)
    for one in list_dropped(result):
        name, when, reason = names[one.setting], describe_drop(one), one_line(one.drop_reason)
        what = f"{when} {name}" if one.dropped_after is None else f"dropped {name} {when}"
        lines.append(f"{what}: {reason}" if reason else what)
    if len(lines) > _MOST_DROPS:
        more = units.count_text(len(lines) - _MOST_DROPS, "more setting was", "more settings were")
        lines[_MOST_DROPS:] = [f"{more} dropped; the report and --json have the reasons"]
    return lines


def _wrap(line: str, width: int) -> list[str]:
    """Wrap a sentence; rows of tables, which have runs of spaces, stay as they are."""
    if tables.count_cells(line) <= width or "  " in line:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
