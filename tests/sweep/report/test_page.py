"""The page of a sweep: complete, by itself, and safe whatever the texts are."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.stats.tests import Interval
from etui.sweep.blocks import VisitPower
from etui.sweep.page import (
    build_findings,
    build_rows,
    draw_frontier,
    draw_power,
    find_role,
    place_visits,
    render_report,
    split_ends,
    thin_watts,
)
from etui.sweep.result import SettingResult
from etui.sweep.verdict import format_verdict
from tests.sweep import results
from tests.sweep.results import (
    Sweep,
    accuracy,
    make_result,
    make_sweep,
    setting_result,
)

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31m\x07 ' \" & \u202e"
VOID = {"meta", "br", "img", "input", "link", "line", "circle", "rect", "path", "polygon"}


class Page(HTMLParser):
    """Tags and attributes; fails where an end tag does not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return [name for name, _ in self.tags].count(tag)


def page_of(sweep: Sweep) -> str:
    return render_report(sweep.config, sweep.result, sweep.blocks, sweep.power)


@pytest.mark.parametrize("make", results.ALL)
def test_it_stands_alone(make) -> None:
    text = page_of(make())
    assert not re.search(r"(?i)\b(https?|wss?|ftp):|//[a-z0-9-]+\.[a-z]", text)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert not {"src", "href", "action", "srcset"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "nan" not in re.findall(r'(?:d|x|y|cx|cy|x1)="([^"]*)"', text)


def test_every_section_of_a_full_sweep() -> None:
    sweep = results.sixteen_settings()
    text = page_of(sweep)
    page = Page(text)
    assert f"{format_verdict(sweep.result)}." in page.text
    assert page.count("h1") == 1
    assert page.text.index("saves 24 %") < page.text.index("Joules and time")
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Joules and time",
        "Settings",
        "Effect of each axis",
        "What this machine can show",
        "Watts over time",
        "Conditions",
        "Method",
    ]
    assert text.count("<svg") == 2
    shown = page.text
    assert "8 dropped settings are far outside" in shown
    assert "repeated: block 6: another process used 38 %" in shown
    assert "kv_type=q8_0 against f16" in shown
    assert "25.3 % [23.3, 27.3] more joules than threads=4" in shown
    assert "--axis threads=8,4,2,1" in shown
    assert "rapl:package-0, rapl:dram-0" in shown
    assert "<dt>pue</dt><dd>1.0</dd>" in text


def test_every_setting_is_in_the_table() -> None:
    text = page_of(results.sixty_settings())
    table = text[text.index('id="settings-table"') : text.index("</table>")]
    assert table.count("<tr") == 61
    assert "left out" in table
    assert 'class="scroll tall"' in text


@pytest.mark.parametrize("make", [results.not_begun, results.unmeasured])
def test_what_is_not_there_has_no_figure(make) -> None:
    text = page_of(make())
    assert "Joules and time" not in text
    assert "Watts over time" not in text
    assert "unmeasured" in Page(text).text
    assert ">0 J<" not in text
    unfinished = page_of(results.incomplete())
    assert 'class="badge">unfinished' in unfinished
    assert "Unfinished after 6 blocks" in unfinished


def test_an_estimate_is_marked() -> None:
    sweep = results.sixteen_settings()
    text = page_of(replace(sweep, result=replace(sweep.result, kind="estimate")))
    assert "joules per answer (estimate)" in text
    assert "do not come from a sensor" in text
    assert "watts are estimates" in text
    assert "≈9.40 J<small>± 0.19 J" in text
    own = page_of(replace(sweep, result=replace(sweep.result, kind=None)))
    assert "estimate" not in own


def test_texts_cannot_leave_their_place() -> None:
    evil = (("model", EVIL),)
    first = replace(setting_result("threads=2"), values=evil, setting=EVIL)
    second = replace(
        setting_result("threads=1", 10.0, 4.0, -18.0, 4.0),
        values=(("model", EVIL + "2"),),
        setting=EVIL + "2",
        drop_reason=EVIL,
        dropped_after=5,
    )
    result = make_result(first, second, best=EVIL, notes=(EVIL,), repeated=(EVIL,), blocks=8)
    sweep = make_sweep(
        result,
        model=EVIL,
        workload=EVIL,
        suite=EVIL,
        policy=EVIL,
        id=EVIL,
        provenance={"machine": EVIL, EVIL: EVIL},
        channels=(EVIL,),
    )
    text = page_of(sweep)
    page = Page(text)
    assert page.count("script") == 1
    assert page.count("img") == 0
    assert not any(name.startswith("on") for _, values in page.tags for name in values)
    assert not any(mark in text for mark in ("\x1b", "\x07", "\u202e"))
    assert "alert(1)</script>" not in text


def test_roles_follow_from_the_result() -> None:
    result = results.sixteen_settings().result
    roles = {one.setting: find_role(result, one) for one in result.settings}
    assert roles["threads=4 kv_type=f16 speculate=lookup"] == "best"
    assert roles["threads=8 kv_type=f16 speculate=off"] == "baseline"
    assert roles["threads=8 kv_type=f16 speculate=lookup"] == "frontier"
    assert roles["threads=1 kv_type=f16 speculate=off"] == "dropped"
    kept = results.two_settings().result
    assert find_role(replace(kept, best=kept.baseline), kept.settings[0]) == "baseline"


def test_the_frontier_names_its_settings_and_needs_two() -> None:
    chart = draw_frontier(results.two_settings().result)
    assert chart is not None
    assert "baseline" in chart
    assert "<title>threads=1: 10.1 ± 0.2 J" in chart
    assert draw_frontier(make_result(setting_result("threads=2"))) is None


def test_visits_follow_each_other_after_a_restart() -> None:
    def visit(start: int, end: int) -> VisitPower:
        return VisitPower(0, "a", 0, start, end, (1.0,))

    second = 1_000_000_000
    placed = place_visits([visit(0, second), visit(3 * second, 4 * second), visit(10, second)])
    assert placed[:2] == [(0.0, 1.0), (3.0, 4.0)]
    assert placed[2][0] == 64.0
    late = place_visits([visit(0, second), visit(5000 * second, 5001 * second)])
    assert late[1][0] == 61.0
    assert place_visits([]) == []


def test_gaps_in_the_watts_stay_gaps() -> None:
    sweep = results.two_settings()
    power = VisitPower(0, "threads=2", 0, 0, 10**10, (5.0, None, None, 7.0, 7.0))
    chart = draw_power(sweep.result, (power,))
    assert chart is not None
    assert "nan" not in chart
    silent = replace(power, watts=(None, None))
    assert draw_power(sweep.result, (silent,)) is None
    assert draw_power(sweep.result, ()) is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1000)), max_size=200), st.integers(1, 100))
def test_thinned_watts_keep_their_range(watts, most: int) -> None:
    thin = thin_watts(watts, most)
    assert len(thin) <= most
    known = [value for value in watts if value is not None]
    for value in thin:
        assert value is None or min(known) - 1e-6 <= value <= max(known) + 1e-6
    assert any(value is not None for value in thin) == bool(known)


finite = st.floats(1e-3, 1e4)
rows = st.tuples(
    st.integers(1, 64),
    finite,
    finite,
    st.floats(0, 1e4),
    st.booleans(),
    st.none() | st.integers(4, 9),
)


@settings(max_examples=8)
@given(st.lists(rows, min_size=1, max_size=12, unique_by=lambda row: row[0]))
def test_any_figures_can_be_drawn(found) -> None:
    shown: list[SettingResult] = [setting_result("threads=0")]
    for at, joules, seconds, half, frontier, dropped in found:
        one = setting_result(
            f"threads={at}",
            joules,
            seconds,
            100 * (joules / 12.3 - 1),
            3.0,
            dropped=dropped,
            frontier=frontier,
        )
        wide = Interval(joules, joules - half, joules + half, "bootstrap")
        shown.append(replace(one, joules=wide))
    sweep = make_sweep(make_result(*shown, blocks=10))
    text = page_of(sweep)
    Page(text)
    assert "NaN" not in text
    assert not re.search(r'="-?(nan|inf)', text)


def test_findings_are_the_changes_of_the_best_and_the_floor() -> None:
    base = setting_result("threads=2", measured=accuracy(None, key="threads=2"))
    measured = accuracy(-2.1, 1.3, 0.003, key="threads=1")
    one = setting_result("threads=1", 12.2, 4.2, -0.8, 4.0, claimed=False, measured=measured)
    result = make_result(base, one)
    assert build_findings(result) == [
        ("change in joules", "(-1 %)", "[-3, 1]"),
        ("change in time", "+4 %", "[3, 5]"),
        ("change in points", "-2.1", "[-3.4, -0.8]"),
        ("detection floor", "1.3 % of the joules", "0.9 % of the time"),
    ]
    kept = build_findings(replace(result, best="threads=2", floor=None))
    assert kept == [
        ("joules per answer", "12.30 J", "± 0.25 J"),
        ("detection floor", "unmeasured", ""),
    ]
    unpaired = replace(measured, difference_points=None)
    found = build_findings(make_result(base, replace(one, accuracy=unpaired)))
    assert found[2] == ("change in points", "–", "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("-18 % [-20, -16]", ("-18 %", "[-20, -16]")),
        ("(+0.8 % [-0.1, 1.7])", ("(+0.8 %)", "[-0.1, 1.7]")),
        ("12.3 J", ("12.3 J", "")),
        ("61.2 % [58.9-63.5]", ("61.2 %", "[58.9-63.5]")),
        ("9.40 ± 0.19 J", ("9.40 J", "± 0.19 J")),
        ("≈9.40 ± 0.19 J", ("≈9.40 J", "± 0.19 J")),
        ("8 ± 80 J", ("8 J", "± 80 J")),
        ("1 min 05 s ± 1 min 00 s", ("1 min 05 s", "± 1 min 00 s")),
        ("unmeasured", ("unmeasured", "")),
    ],
)
def test_cells_split_their_ends(text: str, parts: tuple[str, str]) -> None:
    assert split_ends(text) == parts


def test_the_table_sorts_by_numbers() -> None:
    for row in build_rows(results.sixty_settings().result):
        for cell in row.cells:
            assert cell.order == "" or float(cell.order) == float(cell.order)
    missing = build_rows(results.unmeasured().result)[1].cells[0]
    assert (missing.text, missing.order) == ("unmeasured", "")
