"""The result of a sweep in one sentence, in which only claimed differences are facts."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from etui import text as tables
from etui import units
from etui.stats.tests import SIGNIFICANCE, Interval
from etui.sweep.config import AxisName, Goal, Value
from etui.sweep.result import (
    Accuracy,
    AxisEffect,
    DetectionFloor,
    Difference,
    SettingResult,
    SweepResult,
    find_claimed_change,
)
from etui.text import one_line

_WIDTH = 120

_SENTENCE_WIDTH = 100


_MOST_NOTES = 8

_MOST_DROPS = 16

"""Dropped settings whose reasons are printed."""


_Column = tuple[str, str, list[str]]

"""Heading, alignment and cells."""


_UNCLAIMED = "In parentheses: within noise or below the detection floor, so not a claim."


__all__ = ["format_table", "format_verdict"]


def format_table(result: SweepResult, width: int = _WIDTH) -> list[str]:
    """Format a result: the settings, the detection floor, effects of the axes, drops and notes.

    Args:
        result: The result, of a sweep that may still run.
        width: Most terminal cells of a line; names of settings are cut or put above their figures
            for it. Figures are never cut.
    """
    lines = _settings_lines(result, width)
    varied = list_varied_axes(result.settings)
    same = [pair for one in result.settings[:1] for pair in one.values if pair[0] not in varied]
    if same:
        lines.append(f"All settings have {name_values(same)}.")
    if any("(" in line and "[" in line for line in lines):
        lines.append(_UNCLAIMED)
    sections = [
        lines,
        [floor_sentence(result)],
        _effect_lines(result, width),
        _drop_lines(result),
        [time_sentence(result), *_shorten_list("repeated", result.repeated)],
        _shorten_list("note", result.notes),
    ]
    found: list[str] = []
    for section in sections:
        if section and found:
            found.append("")
        found += section
    return [part for line in found for part in _wrap(line, min(width, _SENTENCE_WIDTH))]


def _settings_lines(result: SweepResult, width: int) -> list[str]:
    """Format the settings in the first form that fits: one table, two, or names above figures."""
    names = _value_columns(result)
    costs, parts = _cost_columns(result), _part_columns(result)
    states = [state_text(result, one) for one in result.settings]
    state = [("", "<", states)]
    lines = _columns([*names, *costs, *parts, *state])
    if _fits(lines, width):
        return lines
    lines, more = _columns([*names, *costs, *state]), _columns([*names, *parts])
    if parts and _fits(lines, width) and _fits(more, width):
        return [*lines, "", *more]
    varied = list_varied_axes(result.settings)
    keys = [name_values([p for p in one.values if p[0] in varied]) for one in result.settings]
    named = [f"{key}: {text}" if text else key for key, text in zip(keys, states, strict=True)]
    lines = _under_names(named, [*costs, *parts], width)
    if _fits(lines, width):
        return lines
    lines = []
    for group in (*_group_columns(costs, width), *_group_columns(parts, width)):
        lines += [*([""] if lines else []), *_under_names(keys if lines else named, group, width)]
    return lines


def _group_columns(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Group neighbouring columns into tables that fit; a column that does not is one by itself."""
    groups: list[list[_Column]] = []
    for column in columns:
        if groups and _fits(_indented([*groups[-1], column]), width):
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _indented(columns: Sequence[_Column]) -> list[str]:
    return _columns([("", "<", [""] * len(columns[0][2])), *columns])


def _under_names(keys: Sequence[str], columns: Sequence[_Column], width: int) -> list[str]:
    """Format the figures of each setting on a line below its name."""
    lines = _indented(columns)
    found = lines[:1]
    for key, line in zip(keys, lines[1:], strict=True):
        found += [*textwrap.wrap(key, width, break_on_hyphens=False), line]
    return found


def _value_columns(result: SweepResult) -> list[_Column]:
    columns: list[_Column] = []
    for axis in list_varied_axes(result.settings):
        cells = [dict(one.values).get(axis) for one in result.settings]
        texts = [DASH if value is None else one_line(str(value)) for value in cells]
        columns.append((axis, "<", texts))
    return columns


def _cost_columns(result: SweepResult) -> list[_Column]:
    kind, rows = result.kind, result.settings
    mark = f" ({units.ESTIMATE})" if kind == units.ESTIMATE else ""
    return [
        (f"J/answer{mark}", ">", [joules_text(one.joules, kind) for one in rows]),
        (f"change{mark}", ">", [difference_text(one.joules_difference) for one in rows]),
        ("time", ">", [seconds_text(one.seconds) for one in rows]),
        ("change", ">", [difference_text(one.seconds_difference) for one in rows]),
    ]


def _part_columns(result: SweepResult) -> list[_Column]:
    kind, rows = result.kind, result.settings
    prefill = [token_text(one.prefill_joules_per_token, kind) for one in rows]
    decode = [token_text(one.decode_joules_per_token, kind) for one in rows]
    columns: list[_Column] = []
    if {*prefill, *decode} != {DASH}:
        columns += [("prefill/token", ">", prefill), ("decode/token", ">", decode)]
    if any(one.accuracy is not None for one in rows):
        columns += [
            ("accuracy", ">", [accuracy_text(one.accuracy, spread=False) for one in rows]),
            ("change in points", ">", [accuracy_change_text(result, one) for one in rows]),
        ]
    return columns


def _columns(columns: Sequence[_Column]) -> list[str]:
    return tables.format_table(
        list(zip(*(cells for _, _, cells in columns), strict=True)),
        header=[heading for heading, _, _ in columns],
        align="".join(side for _, side, _ in columns),
        measure=tables.count_cells,
    )


def _fits(lines: Sequence[str], width: int) -> bool:
    return max(map(tables.count_cells, lines), default=0) <= width


def _effect_lines(result: SweepResult, width: int) -> list[str]:
    rows = [
        [
            name_effect(one),
            difference_text(one.joules),
            difference_text(one.seconds),
        ]
        for one in result.effects
        if one.joules is not None or one.seconds is not None
    ]
    if not rows:
        return []
    mark = f" ({units.ESTIMATE})" if result.kind == units.ESTIMATE else ""
    header = ["effect of an axis, over the others", f"joules{mark}", "time"]
    lines = tables.format_table(rows, header=header, align="<>", measure=tables.count_cells)
    if _fits(lines, width):
        return lines
    names, *columns = zip(*rows, strict=True)
    figures = [(name, ">", list(cells)) for name, cells in zip(header[1:], columns, strict=True)]
    lines = [f"{header[0]}:"]
    for group in _group_columns(figures, width):
        lines += _under_names(names, group, width)
    return lines


def _shorten_list(name: str, texts: Sequence[str]) -> list[str]:
    lines = [f"{name}: {one_line(text)}" for text in texts[:_MOST_NOTES]]
    if len(texts) > _MOST_NOTES:
        lines.append(f"{name}: {len(texts) - _MOST_NOTES:,} more in the report and in --json")
    return lines


def _drop_lines(result: SweepResult) -> list[str]:
    rows = []
    varied = list_varied_axes(result.settings)
    for one in result.settings:
        name = name_values([pair for pair in one.values if pair[0] in varied])
        reason = one_line(one.drop_reason)
        if one.dropped_after is not None:
            rows.append(
                (one.dropped_after, f"dropped {name} after block {one.dropped_after + 1}", reason)
            )
        elif reason:
            rows.append((-1, f"could not run {name}", reason))
    lines = [": ".join(part for part in parts if part) for _, *parts in sorted(rows)]
    if len(lines) > _MOST_DROPS:
        more = units.count_text(len(lines) - _MOST_DROPS, "more setting was", "more settings were")
        lines[_MOST_DROPS:] = [f"{more} dropped; the report and --json have the reasons"]
    return lines


def _wrap(line: str, width: int) -> list[str]:
    """Wrap a sentence; rows of tables, which have runs of spaces, stay as they are."""
    if tables.count_cells(line) <= width or "  " in line:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)


def floor_sentence(result: SweepResult) -> str:
    """Format the detection floor in a sentence or two."""
    floor = result.floor
    if floor is None:
        return "Detection floor: not measured yet."
    measured = [
        (what, percent)
        for what, percent in (("joules", floor.joules_percent), ("time", floor.seconds_percent))
        if percent is not None
    ]
    if not measured:
        return "Detection floor: unmeasured, so no difference is claimed."
    text = f"Detection floor: with {units.count_text(floor.claim_blocks, 'block')}"
    shown = [f"{floor_text(each)} in {what}" for what, each in measured if each <= WHOLE_PERCENT]
    hidden = " and ".join(what for what, each in measured if each > WHOLE_PERCENT)
    if shown:
        text += f", differences from {' and '.join(shown)} can be shown"
        text += f", and no saving of {hidden}: its floor is above 100 %." if hidden else "."
    else:
        text += f" it is above 100 % in {hidden}, so no saving can be shown."
    found = [
        f"{units.change_text(percent)} in {what}"
        for what, percent in (
            ("joules", floor.measured_joules_percent),
            ("time", floor.measured_seconds_percent),
        )
        if percent is not None
    ]
    if found:
        own = units.count_text(floor.blocks, "block")
        text += f" The baseline against itself differed by {' and '.join(found)} in {own}."
    return text


def time_sentence(result: SweepResult) -> str:
    """Format how long the sweep took, and the time saved by dropping settings."""
    visits = units.count_text(result.visits, "visit")
    blocks = units.count_text(result.blocks, "block")
    text = f"{units.seconds_text(result.seconds)} for {blocks} with {visits}"
    if not result.is_complete:
        text += " so far"
    full = result.full_grid_seconds
    dropped = any(one.dropped_after is not None for one in result.settings)
    if full is None or full <= 0 or not dropped:
        return f"{text}."
    saved = 1 - result.seconds / full
    grid = f"{units.seconds_text(full)} predicted without dropping settings"
    if saved <= 0:
        return f"{text}; {grid}, so dropping saved no time."
    if not result.is_complete:
        return f"{text}; {grid}."
    return f"{text}; {grid}, so dropping saved about {units.percent_text(saved)}."


def name_effect(effect: AxisEffect) -> str:
    """Name an effect: ``threads=1 against 2``."""
    return one_line(f"{effect.axis}={effect.value} against {effect.reference}")


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


Values = Sequence[tuple[AxisName, Value]]


def find_setting(result: SweepResult, key: str | None) -> SettingResult | None:
    """Return the result of a setting; None if there is none."""
    return next((one for one in result.settings if one.setting == key), None)


def short_name(values: Values, baseline: Values) -> str:
    """Name a setting by the values that differ from the baseline: ``threads=1``.

    The baseline itself, and a setting of other axes, get all their values.
    """
    usual = dict(baseline)
    changed = [(name, value) for name, value in values if usual.get(name) != value]
    return name_values(changed or values)


def name_values(values: Values) -> str:
    """Name a setting by all its values: ``threads=2 kv_type=q8_0``."""
    return one_line(" ".join(f"{name}={value}" for name, value in values))


def list_varied_axes(settings: Sequence[SettingResult]) -> list[AxisName]:
    """List the axes in which the settings differ, or all if there is only one setting."""
    axes = list(dict.fromkeys(axis for one in settings for axis, _ in one.values))
    found = [axis for axis in axes if len({dict(one.values).get(axis) for one in settings}) > 1]
    return found or axes


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
