"""The graph of power: dots that are the watts, axes that are true, ink by phase."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from etui.plots.braille import (
    Graph,
    axis_labels,
    braille_rows,
    draw_graph,
    gutter_width,
    sparkline,
    time_axis,
)
from etui.plots.power_history import Buckets
from etui.tui.ascii import to_ascii

WATTS = st.none() | st.floats(0.0, 1e5)


def graph(*watts: float | None, phases: str = "", **facts: Any) -> Graph:
    return Graph(Buckets(1.0, watts, watts, phases), **facts)


def dots(rows: list[str]) -> int:
    return sum((ord(c) - 0x2800).bit_count() for row in rows for c in row if c != " ")


@given(st.lists(WATTS, max_size=60), st.integers(0, 40), st.integers(1, 8))
def test_every_row_is_as_wide_as_asked(watts: list[float | None], width: int, height: int) -> None:
    rows = braille_rows(watts, 350.0, width, height)
    assert [cell_len(row) for row in rows] == [width] * height


@given(st.floats(0.0, 1000.0), st.floats(0.0, 1000.0))
def test_more_watts_are_never_fewer_dots(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert dots(braille_rows([low], 500.0, 1, 5)) <= dots(braille_rows([high], 500.0, 1, 5))


def test_the_newest_value_is_at_the_right_and_a_gap_is_empty() -> None:
    assert sparkline([10.0, 10.0, None, None, 5.0, 10.0], 10.0, 4) == " ⣿ ⣼"
    assert sparkline([0.0], 10.0, 1) == "⢀"


@given(
    st.lists(WATTS, max_size=80),
    st.text(" LPTA", max_size=80),
    st.integers(1, 90),
    st.integers(1, 12),
    st.none() | st.floats(0.1, 1000.0),
    st.none() | st.floats(0.0, 1000.0),
)
def test_a_graph_fills_its_size_exactly(
    watts: list[float | None],
    phases: str,
    width: int,
    height: int,
    limit: float | None,
    idle: float | None,
) -> None:
    shown = Graph(Buckets(0.5, tuple(watts), tuple(watts), phases), limit, idle)
    rows = draw_graph(shown, max(width, gutter_width(shown) + 1), height)
    assert len(rows) == height
    for row in rows:
        assert sum(cell_len(text) for text, _ in row) == max(width, gutter_width(shown) + 1)
        assert to_ascii("".join(text for text, _ in row)).isascii()


@given(st.integers(0, 200), st.floats(0.01, 60.0))
def test_a_mark_of_the_axis_is_at_its_age(width: int, seconds: float) -> None:
    axis = time_axis(width, seconds)
    assert len(axis) == width
    for at, cell in enumerate(axis):
        if cell == "├":
            label = re.fullmatch(r"([\d.]+)(s|min|h)", axis[:at].rpartition("╴")[2])
            assert label is not None
            age = float(label[1]) * {"s": 1, "min": 60, "h": 3600}[label[2]]
            assert age == pytest.approx((width - at) * seconds, abs=seconds / 2 + 1e-6)


def test_the_axis_is_that_of_nvitop() -> None:
    assert time_axis(40, 3.0) == "120s────────────╴60s├────────────────now"
    assert "╴30s├" in time_axis(40, 1.5)
    assert "╴30min├" in time_axis(40, 90.0)
    assert time_axis(0, 1.0) == ""


def test_the_axis_of_watts_has_top_half_and_idle() -> None:
    shown = graph(10.0, 18.0, limit_watts=18.0, idle_watts=5.0)
    assert axis_labels(shown, 6) == ["18", "", "", "", "5", ""]
    assert axis_labels(shown, 9) == ["18", "", "", "", "9", "", "5", "", ""]
    assert axis_labels(graph(3.0, limit_watts=350.0), 5) == ["350", "", "175", "", ""]


def test_the_idle_line_is_drawn_where_nothing_else_is() -> None:
    shown = graph(*[None] * 40, *[10.0] * 4, limit_watts=10.0, idle_watts=4.0)
    rows = draw_graph(shown, 30, 7)
    idle = next(row for row in rows if any(ink == "idle" for _, ink in row))
    text = "".join(text for text, _ in idle)
    assert "┄ idle ┄" in text
    assert text.endswith("⣿⣿")
    assert text.startswith(" 4┤")


def test_only_the_top_near_the_limit_is_red() -> None:
    shown = graph(*[200.0] * 4, 340.0, 340.0, limit_watts=350.0)
    rows = draw_graph(shown, 3, 4, axes=False, letters=False)
    assert [ink for _, ink in rows[0]] == ["plain", "limit"]
    assert all(ink == "plain" for row in rows[1:] for _, ink in row)
    calm = draw_graph(graph(*[340.0] * 6), 3, 4, axes=False, letters=False)
    assert all(ink == "plain" for row in calm for _, ink in row), "no limit, no red"


def test_a_phase_is_a_colour_and_a_word() -> None:
    shown = graph(*[5.0] * 8, phases="L PPTTA ", limit_watts=10.0)
    rows = draw_graph(shown, 4, 5, axes=False)
    assert rows[-1] == [(" ", "load"), (" ", "prefill"), (" ", "thinking"), (" ", "answer")], (
        "no word fits, and no part of one is written"
    )
    assert [ink for _, ink in rows[3]] == ["load", "prefill", "thinking", "answer"]
    wide = draw_graph(graph(*[5.0] * 20, phases="A" * 20), 12, 5, axes=False)
    assert wide[-1] == [("  ", "plain"), ("write─────", "answer")]


def test_a_number_without_its_line_and_a_word_without_its_colour_are_left_out() -> None:
    full = draw_graph(graph(*[9.0] * 80, limit_watts=10.0, idle_watts=4.0), 40, 9)
    assert [row[0][0].strip() for row in full[:7]] == ["10┤", "│", "│", "5┤", "│", "│", "│"]
    stacked = graph(*[9.0] * 80, phases="L" * 16 + "A" * 64, own=(2.0,) * 80)
    *_, words = draw_graph(stacked, 60, 9, axes=False)
    assert "load" not in "".join(text for text, _ in words[:2])
    assert [ink for text, ink in words if "write" in text] == ["axis"]


def test_a_colour_without_room_for_its_word_is_named_at_the_side() -> None:
    watts = [None] * 80 + [5.0] * 4 + [9.9] * 4
    shown = graph(*watts, phases=" " * 80 + "LL" + " " * 6, limit_watts=10.0)
    row = draw_graph(shown, 44, 8, axes=False)[-1]
    text = "".join(part for part, _ in row)
    assert text.startswith(" █ loading █ near the max █ other work")
    assert [ink for part, ink in row if part == "█"] == ["load", "limit", "plain"]
    assert len(text) == 44
    calm = draw_graph(graph(*[5.0] * 80, limit_watts=10.0), 40, 8, axes=False)
    assert "".join(part for part, _ in calm[-1]).strip() == "", "one colour needs no name"
    own = draw_graph(graph(*[5.0] * 20, own=(2.0,) * 20), 60, 8, axes=False)[-1]
    assert "█ etui █ other programs and idle" in "".join(part for part, _ in own)


def test_without_unicode_the_graph_is_still_one() -> None:
    assert to_ascii(sparkline([0.0, 2.5, 5.0, 10.0], 10.0, 2)) == ".="


def test_own_watts_stand_below_those_of_others_in_an_ink_of_their_own() -> None:
    watts = (80.0,) * 80
    own = (20.0,) * 40 + (None,) * 20 + (60.0,) * 20
    shown = graph(*watts, phases="A" * 80, limit_watts=160.0, own=own)
    rows = draw_graph(shown, 40, 8, axes=False, letters=False)
    low, high = rows[7], rows[5]
    assert low == [("⣿" * 20, "own"), ("⣿" * 10, "answer"), ("⣿" * 10, "own")]
    assert high == [("⣿" * 20, "others"), ("⣿" * 10, "answer"), ("⣿" * 10, "own")]


@given(st.lists(st.tuples(WATTS, WATTS), max_size=60), st.integers(0, 40), st.integers(1, 8))
def test_a_stack_changes_ink_and_never_the_width(
    pairs: list[tuple[float | None, float | None]], width: int, height: int
) -> None:
    shown = graph(*(watts for watts, _ in pairs), own=tuple(own for _, own in pairs))
    plain = graph(*(watts for watts, _ in pairs))
    for rows in (draw_graph(one, width, height) for one in (shown, plain)):
        assert [sum(cell_len(text) for text, _ in row) for row in rows] == [
            sum(cell_len(text) for text, _ in row) for row in draw_graph(plain, width, height)
        ]


def test_without_own_watts_there_is_no_legend() -> None:
    rows = draw_graph(graph(*(80.0,) * 80, limit_watts=160.0), 40, 8)
    assert "etui" not in "".join(text for row in rows for text, _ in row)
