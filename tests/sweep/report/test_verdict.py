"""The table and the verdict of a sweep."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui import units
from etui.stats.differences import Difference
from etui.stats.tests import Interval
from etui.sweep.config import Goal
from etui.sweep.result import DetectionFloor, SettingResult, SweepResult
from etui.sweep.verdict import format_table, format_verdict, no_difference_text
from etui.text import count_cells
from tests.sweep import results
from tests.sweep.results import accuracy, make_result, setting_result

BASE = setting_result("threads=2", measured=accuracy(None, key="threads=2"))


def verdict_of(*settings, **fields) -> str:
    return format_verdict(make_result(BASE, *settings, **fields))


def better(**fields):
    return setting_result("threads=1", 10.1, 4.4, -18.0, 4.0, **fields)


SAVES = "threads=1 saves 18 % [16, 20] of the joules"
COSTS = "costs 4 % [3, 5] of the time"
KEPT = better(measured=accuracy(0.1, 0.5, key="threads=1"))
WORSE = setting_result("threads=1", 14.0, 4.4, 14.0, 4.0)
NOTHING = "Nothing beats the baseline (threads=2); "
WITHIN = "Of the settings at most 5 % slower than the fastest, "


def open_time(percent: float, low: float, high: float, one: SettingResult) -> SettingResult:
    return replace(one, seconds_difference=Difference(percent, low, high, 0.2, 8, False))


@pytest.mark.parametrize(
    ("one", "fields", "text"),
    [
        (KEPT, {}, f"{SAVES}, {COSTS}, and accuracy is unchanged within 0.6 points"),
        (
            better(measured=accuracy(-2.1, 1.3, 0.003, key="threads=1")),
            {},
            f"{SAVES} and {COSTS} and 2.1 points [0.8, 3.4] of accuracy",
        ),
        (
            better(measured=accuracy(2.1, 1.3, 0.003, key="threads=1")),
            {},
            f"{SAVES}, {COSTS}, and gains 2.1 points [0.8, 3.4] of accuracy",
        ),
        (
            better(measured=accuracy(-2.1, 1.3, 0.2)),
            {},
            f"{SAVES}, {COSTS}, and accuracy is unchanged within 3.4 points",
        ),
        (
            better(measured=accuracy(-2.1, 3.0, 0.01)),
            {},
            f"{SAVES}, {COSTS}, and accuracy is unchanged within 5.1 points",
        ),
        (
            better(measured=accuracy(0.0, 0.0, key="threads=2")),
            {},
            f"{SAVES}, {COSTS}, and accuracy is the same, as the same numbers are computed",
        ),
        (
            open_time(0.3, -0.1, 0.7, KEPT),
            {},
            f"{SAVES}, no difference in time above 0.9 % could be shown, and accuracy is unchanged "
            "within 0.6 points",
        ),
        (
            open_time(2.0, -1.0, 5.0, better()),
            {},
            f"{SAVES}, and no difference in time could be shown (interval [-1, 5] %); accuracy was "
            "not measured",
        ),
        (
            WORSE,
            {"best": "threads=2"},
            f"{NOTHING}no saving of joules above 1.3 % could be shown",
        ),
        (
            WORSE,
            {"best": "threads=2", "goal": Goal("time")},
            f"{NOTHING}no saving of time above 0.9 % could be shown",
        ),
        (
            WORSE,
            {"best": "threads=2", "goal": Goal("joules*time")},
            f"{NOTHING}no saving of joules times seconds could be shown",
        ),
        (
            replace(
                setting_result("threads=4", 12.3, 3.4, 0.2, -19.0),
                joules_difference=Difference(0.2, -0.6, 1.0, 0.9, 8, False),
            ),
            {"best": "threads=2"},
            f"{NOTHING}no saving of joules above 1.3 % could be shown; threads=4 saves 19 % "
            "[18, 20] of the time, and no difference in joules above 1.3 % could be shown; "
            "accuracy was not measured",
        ),
        (
            setting_result("threads=4", 14.0, 3.4, 14.0, -19.0),
            {"goal": Goal("time")},
            "threads=4 saves 19 % [18, 20] of the time and costs 14 % [12, 16] of the joules; "
            "accuracy was not measured",
        ),
        (
            better(),
            {"goal": Goal("joules", 5.0)},
            f"{WITHIN}{SAVES} and {COSTS}; accuracy was not measured",
        ),
        (
            better(),
            {"goal": Goal("joules", 5.0), "best": "threads=2"},
            f"{WITHIN}none beats the baseline (threads=2); no saving of joules above 1.3 % "
            "could be shown",
        ),
        (
            better(),
            {"kind": "estimate"},
            f"threads=1 saves ≈18 % [16, 20] of the joules (estimate) and {COSTS}; accuracy was "
            "not measured",
        ),
        (
            replace(
                setting_result("threads=1", 12.1, 4.4, -1.2, 4.0),
                joules_difference=Difference(-1.2, -4.1, 1.7, 0.15, 8, False),
            ),
            {},
            "threads=1 ranks best by joules, but no difference in joules could be shown (interval "
            f"[-4, 2] %), and it {COSTS}; accuracy was not measured",
        ),
        (
            better(),
            {"is_complete": False},
            f"Unfinished after 14 blocks: {SAVES} and {COSTS}; accuracy was not measured",
        ),
    ],
)
def test_the_sentence(one: SettingResult, fields: dict[str, Any], text: str) -> None:
    assert verdict_of(one, **fields) == text


def test_only_values_that_change_are_named() -> None:
    base = setting_result("threads=2 kv_type=f16")
    one = setting_result("threads=1 kv_type=f16", 10.1, 4.4, -18.0, 4.0)
    found = format_verdict(make_result(base, one))
    assert found == f"{SAVES} and {COSTS}; accuracy was not measured"


def test_a_floor_that_shows_nothing() -> None:
    floor = DetectionFloor(6606.4, 0.9, -3.6, 0.1, 8, 2)
    worse = setting_result("threads=1", 14.0, 4.4, 14.0, 4.0, claimed=False)
    result = replace(make_result(BASE, worse, floor=floor), best=None)
    hidden = "o saving of joules could be shown, as the detection floor is above 100 %"
    assert format_verdict(result) == f"N{hidden}"
    faster = setting_result("threads=1", 14.0, 2.4, 17.0, -41.0, claimed=False)
    quick = replace(make_result(BASE, faster, floor=floor), best=None)
    saving = format_verdict(quick)
    assert saving == (
        f"N{hidden}; threads=1 saves 41 % [40, 42] of the time, and no difference in joules could "
        "be shown (interval [15, 19] %); accuracy was not measured"
    )
    unfinished = format_verdict(replace(quick, is_complete=False))
    assert unfinished.startswith(f"Unfinished after 14 blocks: n{hidden}; threads")
    for text in (saving, *format_table(quick)):
        assert "best" not in text
        assert "eats" not in text
    joined = " ".join(" ".join(format_table(result)).split())
    assert (
        "differences from 0.9 % in time can be shown, and no saving of joules: its floor is above "
        "100 %."
    ) in joined
    both = replace(result, floor=DetectionFloor(6606.4, 141.0, -3.6, 0.1, 8, 2))
    joined = " ".join(" ".join(format_table(both)).split())
    assert (
        "with 2 blocks it is above 100 % in joules and time, so no saving can be shown." in joined
    )


@pytest.mark.parametrize(
    ("joules", "text"),
    [((0.8412, 0.36, 1.3314), "0.84 ± 0.49 J"), ((7.82, -70.0, 88.0), "8 ± 80 J")],
)
def test_a_figure_below_twice_its_uncertainty_has_the_digits_of_it(joules, text) -> None:
    one = replace(better(), joules=Interval(*joules, "bootstrap"))
    assert f" {text} " in "\n".join(format_table(make_result(BASE, one)))
    guessed = "\n".join(format_table(make_result(BASE, one, kind="estimate")))
    assert f" ≈{text} " in guessed


def test_a_change_above_300_percent_is_a_multiple() -> None:
    far = Difference(1937.2, 1862.0, 2016.3, 0.001, 8, True)
    one = replace(setting_result("threads=1", 250.0, 3.7, 1937.2, -12.0), joules_difference=far)
    result = make_result(BASE, one, goal=Goal("time"), kind="estimate")
    assert "costs ≈20.4x [19.6, 21.2] the joules (estimate)" in format_verdict(result)
    assert " 20.4x [19.6, 21.2] " in "\n".join(format_table(result))
    open_ = replace(far, percent=400.0, low=-20.0, high=3000.0, is_claimed=False)
    assert no_difference_text("joules", open_, 5.0).endswith("(interval [-20, 3,000] %)")


def test_unmeasured_and_unfinished_sweeps() -> None:
    result = results.unmeasured().result
    assert format_verdict(result) == (
        "Joules are unmeasured, so no setting can beat the baseline (threads=2); threads=4 "
        "saves 19 % [18, 20] of the time; accuracy was not measured"
    )
    fastest = replace(result, goal=Goal("time"), best="threads=4")
    assert format_verdict(fastest) == (
        "threads=4 saves 19 % [18, 20] of the time; joules and accuracy were not measured"
    )
    assert format_verdict(results.incomplete().result) == (
        "Unfinished after 6 blocks: nothing beats the baseline (threads=2); no saving of "
        "joules above 1.3 % could be shown"
    )
    assert format_verdict(results.not_begun().result) == (
        "Unfinished after 0 blocks: nothing has been compared yet"
    )


def test_a_product_alone_claims_neither_part() -> None:
    one = setting_result("threads=1", 12.0, 4.1, -2.0, -2.0, claimed=False, time_claimed=False)
    text = verdict_of(one, goal=Goal("joules*time"))
    assert text.startswith("threads=1 ranks best by joules times time, but no difference in joules")
    assert "saves" not in text


finite = st.floats(-90, 400, allow_nan=False)
differences = st.builds(
    lambda percent, down, up, claimed: Difference(
        percent, percent - down, percent + up, 0.01 if claimed else 0.5, 8, claimed
    ),
    finite,
    st.floats(0, 30),
    st.floats(0, 30),
    st.booleans(),
)


@given(
    joules=differences,
    seconds=differences,
    points=st.floats(-40, 40),
    half=st.floats(0, 20),
    p=st.floats(0, 1),
    floor=st.one_of(
        st.none(), st.builds(lambda a: DetectionFloor(a, a, 0.1, 0.1, 4, 8), st.floats(0, 20))
    ),
    measure=st.sampled_from(["joules", "time", "joules*time"]),
    within=st.one_of(st.none(), st.floats(0, 50)),
    best=st.sampled_from(["threads=1", "threads=2"]),
    complete=st.booleans(),
    kind=st.sampled_from(["counter", "estimate"]),
)
def test_only_claims_are_facts(
    joules, seconds, points, half, p, floor, measure, within, best, complete, kind
) -> None:
    goal = Goal(measure, within if measure == "joules" else None)
    one = replace(
        better(measured=accuracy(points, half, p, key="threads=1")),
        joules_difference=joules,
        seconds_difference=seconds,
    )
    text = verdict_of(one, goal=goal, floor=floor, best=best, is_complete=complete, kind=kind)
    facts = re.findall(
        r"(?:saves|costs|gains) .*?(?=,(?: and)?(?: it)? no |,(?: and)? accuracy|;|$)", text
    )
    found = " ".join(facts)
    claimed_joules = "the joules" in found
    claimed_time = "the time" in found
    assert not claimed_joules or joules.is_claimed
    assert not claimed_time or seconds.is_claimed
    if best == "threads=1":
        assert claimed_joules == joules.is_claimed
        assert claimed_time == seconds.is_claimed
        assert not claimed_joules or ("(estimate)" in found) == (kind == "estimate")
    if "points [" in found:
        assert p < 0.05
        assert abs(points) > half
    assert text.startswith("Unfinished") == (not complete)
    assert "\n" not in text


def test_the_table_of_two_settings() -> None:
    assert format_table(results.two_settings().result) == [
        "threads        J/answer            change    time       change  prefill/token  "
        "decode/token",
        "2        12.30 ± 0.25 J                 –  4.20 s            –        10.7 mJ       "
        "96.1 mJ  baseline",
        "1          10.1 ± 0.2 J  -18 % [-20, -16]  4.40 s  +4 % [3, 5]        8.77 mJ       "
        "78.9 mJ  best",
        "",
        "Detection floor: with 8 blocks, differences from 1.3 % in joules and 0.9 % in time can be "
        "shown. The",
        "  baseline against itself differed by +0.2 % in joules and -0.1 % in time in 4 blocks.",
        "",
        "18 min 20 s for 12 blocks with 28 visits.",
    ]


def test_what_is_not_claimed_is_in_parentheses() -> None:
    lines = format_table(results.incomplete().result)
    figures = "1 10.1 ± 0.2 J (-4 % [-6, -2]) 4.40 s (+4 % [3, 5]) 8.77 mJ 78.9 mJ"
    assert " ".join(lines[2].split()) == figures
    assert "In parentheses: within noise or below the detection floor, so not a claim." in lines
    assert "dropped threads=4 after block 6: 14 % more joules" in lines
    assert lines[-1] == "18 min 20 s for 6 blocks with 16 visits so far."


def test_the_sections_of_a_long_sweep() -> None:
    sweep = results.sixteen_settings()
    lines = format_table(sweep.result)
    text = "\n".join(lines)
    assert re.search(r"^4 +f16 +lookup +9.40 ± 0.19 J +-24 % \[-26, -22\].* best$", text, re.M)
    assert re.search(r"^kv_type=q8_0 against f16 +\+3 % \[2, 4\] +–$", text, re.M)
    assert "dropped threads=2 kv_type=q8_0 speculate=off after block 6: 25.3 %" in text
    assert "31 min 12 s for 18 blocks with 164 visits." in text
    assert "repeated: block 6: another process used 38 % of the CPU (cc1plus)" in text
    assert "note: the package was throttled" in text
    assert re.search(r"^4 +q8_0 .* 60.8 % +\(-0.4 \[-1.1, 0.3\]\)$", text, re.M)
    assert re.search(r"^4 +f16 .* 61.2 % +same$", text, re.M)


def test_an_estimate_is_marked_everywhere() -> None:
    lines = format_table(replace(results.two_settings().result, kind="estimate"))
    assert "J/answer (estimate)" in lines[0]
    assert "≈10.1 ± 0.2 J" in lines[2]
    assert "change (estimate)" in lines[0]


def test_nothing_measured_is_not_zero() -> None:
    text = "\n".join(format_table(results.unmeasured().result))
    assert "unmeasured" in text
    assert " 0 J" not in text
    assert "prefill" not in text
    none = "\n".join(format_table(results.not_begun().result))
    assert "Detection floor: not measured yet." in none


@pytest.mark.parametrize("make", results.ALL)
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_lines_fit(make, width: int) -> None:
    for line in format_table(make().result, width):
        assert count_cells(line) <= width, line


def test_long_lists_are_cut() -> None:
    notes = tuple(f"note {at}" for at in range(20))
    lines = format_table(make_result(BASE, better(), notes=notes, repeated=notes[:8]))
    assert lines.count("note: 12 more in the report and in --json") == 1
    assert sum(line.startswith("note:") for line in lines) == 9
    assert sum(line.startswith("repeated:") for line in lines) == 8


def test_names_cannot_leave_their_line() -> None:
    base = setting_result("model=a\x1b[31m\nb")
    one = replace(better(dropped=3, reason="worse\x1b[2J\nthan"), values=(("model", "c"),))
    lines = format_table(make_result(base, one, notes=("\x1b[1mnote",)))
    assert not any("\x1b" in line or "\n" in line for line in lines)
    assert "\x1b" not in format_verdict(make_result(base, one))


figures = st.builds(
    lambda value, half: Interval(value, value - half, value + half, "bootstrap"),
    st.floats(1e-4, 1e5),
    st.floats(0, 1e3),
)


@given(figures, figures, differences, st.sampled_from(["counter", "estimate"]))
def test_numbers_are_written_by_units(joules, seconds, change, kind) -> None:
    one = replace(
        better(),
        joules=joules,
        seconds=seconds,
        joules_difference=change,
        prefill_joules_per_token=joules,
        decode_joules_per_token=None,
    )
    result: SweepResult = make_result(BASE, one, kind=kind)
    text = "\n".join(format_table(result))
    half = max(joules.value - joules.low, joules.high - joules.value)
    shown = "estimate" if kind == "estimate" else None
    energy = units.energy_text(joules.value, half, shown, spread=True)
    assert energy.removesuffix(" (estimate)") in text
    assert units.seconds_text(seconds.value) in text
    assert units.change_text(change.percent, change.low, change.high) in text


@given(st.floats(-90, 300), st.floats(0, 50), st.floats(0, 50))
def test_changes_keep_what_they_say(percent: float, down: float, up: float) -> None:
    low, high = percent - down, percent + up
    text = units.change_text(percent, low, high)
    ends = [float(end) for end in re.findall(r"-?[\d,.]*\d(?=[,\]])", text.partition("[")[2])]
    assert len(ends) == 2
    for end, value in zip(ends, (low, high), strict=True):
        assert abs(end - value) <= max(0.5, abs(high - low) / 4) + 1e-9
        assert (end == 0) == (abs(value) < 0.005) or abs(value) < 0.006


@pytest.mark.parametrize("percent", [17.0, -0.5, -18.0])
def test_an_effect_that_the_table_contradicts_is_not_shown(percent: float) -> None:
    """The table has the confirming blocks, and the effects have those of the race."""
    result = results.sixteen_settings().result
    wide = Difference(percent, percent - 30, percent + 30, 0.4, 8, False)
    settings = tuple(
        replace(one, joules_difference=wide)
        if one.setting == "threads=4 kv_type=f16 speculate=off"
        else one
        for one in result.settings
    )
    text = "\n".join(format_table(replace(result, settings=settings)))
    shown = "–" if percent > 0 else r"-16.2 % \[-17.1, -15.3\]"
    assert re.search(rf"^threads=4 against 8 +{shown} +\+4.1 % \[3.3, 4.9\]$", text, re.M)


def test_effects_that_are_not_known_yet_are_left_out() -> None:
    result = results.sixteen_settings().result
    first, *others = result.effects
    unknown = replace(first, joules=None, seconds=None)
    lines = format_table(replace(result, effects=(unknown, *others)))
    assert not any(line.startswith("threads=4 against 8") for line in lines)
    assert any(line.startswith("threads=2 against 8") for line in lines)
    alone = format_table(replace(result, effects=(unknown,)))
    assert not any(line.startswith("effect of an axis") for line in alone)
