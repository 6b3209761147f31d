"""Charts drawn in characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.plots.terminal import (
    ArmPoint,
    Series,
    bar,
    bar_rows,
    idle_row,
    plane_lines,
    plot,
    scale_top,
)

SHARES = st.floats(0, 1)


@st.composite
def points(draw: st.DrawFn) -> ArmPoint:
    low, accuracy, high = sorted(draw(st.tuples(SHARES, SHARES, SHARES)))
    ends = draw(st.none() | st.floats(0, 2e6)), draw(st.none() | st.floats(0, 2e6))
    return ArmPoint(draw(st.floats(0.001, 1e6)), accuracy, low, high, *ends)


@given(st.dictionaries(st.text("abc", min_size=1), points(), min_size=1, max_size=8),
       st.integers(0, 200), st.integers(0, 60))  # fmt: skip
def test_nothing_leaves_the_plane(arms: dict[str, ArmPoint], width: int, height: int) -> None:
    order = sorted(arms, key=lambda name: arms[name].joules)
    lines = plane_lines(arms, order, width, height)
    assert {len(line) for line in lines[:-2]} == {max(8, width - 9) + 9}


def test_a_better_and_dearer_arm_stands_above_and_to_the_right() -> None:
    arms = {
        "small": ArmPoint(5.0, 0.30, 0.26, 0.34),
        "large": ArmPoint(20.0, 0.52, 0.48, 0.56),
    }
    lines = plane_lines(arms, ["small", "large"], 60, 14, "estimate")
    rows = {mark: next(y for y, line in enumerate(lines) if mark in line[9:]) for mark in "AB"}
    columns = {mark: lines[rows[mark]].index(mark, 9) for mark in "AB"}
    assert rows["B"] < rows["A"]
    assert columns["B"] > columns["A"]
    assert any("·" in line for line in lines)
    assert "≈" in lines[-1]


def test_no_arm_with_joules_is_said() -> None:
    assert plane_lines({}, [], 60, 14) == ["no arm has both an accuracy and joules"]


@given(st.one_of(st.none(), st.floats(0, 1e9)), st.floats(0, 1e9), st.integers(0, 80))
def test_a_bar_stays_within_its_room(value: float | None, highest: float, width: int) -> None:
    drawn = bar(value, highest, width)
    assert len(drawn) <= width
    assert bool(drawn) == bool(value and highest > 0 and width)


def test_steady_watts_are_drawn_steady_at_their_share_of_the_limit() -> None:
    rows = bar_rows([250.0, 251.0, 252.0, 250.0], top_watts=500.0, width=4, height=4)
    assert rows == ["    ", "    ", "████", "████"]


def test_the_newest_sample_is_at_the_right_edge() -> None:
    assert bar_rows([10.0], top_watts=10.0, width=5, height=1) == ["    █"]
    assert bar_rows([10.0] * 9 + [5.0], top_watts=10.0, width=3, height=1) == ["██▄"]


def test_a_gap_is_empty_and_a_small_value_is_not() -> None:
    assert bar_rows([None, 0.0, 0.1], top_watts=100.0, width=3, height=2) == ["   ", " ▁▁"]


def test_more_than_the_limit_fills_the_column() -> None:
    assert bar_rows([900.0], top_watts=350.0, width=1, height=3) == ["█", "█", "█"]


@given(
    st.lists(st.none() | st.floats(0, 1e4), max_size=50),
    st.floats(1, 1e4),
    st.integers(0, 40),
    st.integers(1, 8),
)
def test_the_graph_always_fills_its_place(
    watts: list[float | None], top: float, width: int, height: int
) -> None:
    rows = bar_rows(watts, top, width, height)
    assert len(rows) == height
    assert all(len(row) == width for row in rows)


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_more_watts_never_draw_lower(a: float, b: float) -> None:
    low, high = sorted((a, b))

    def filled(watts: float) -> int:
        return sum(" ▁▂▃▄▅▆▇█".index(row) for row in bar_rows([watts], 1000.0, 1, 4))

    assert filled(low) <= filled(high)


@pytest.mark.parametrize(
    ("limit", "highest", "top"),
    [(350.0, 10.0, 350.0), (350.0, 900.0, 350.0), (None, 0.0, 1.0), (None, 14.0, 20.0),
     (None, 50.0, 50.0), (None, 51.0, 100.0), (0.0, 3.0, 5.0)],
)  # fmt: skip
def test_the_scale_ends_at_the_limit_or_at_a_round_number(
    limit: float | None, highest: float, top: float
) -> None:
    assert scale_top(limit, highest) == top


@pytest.mark.parametrize(
    ("idle", "row"), [(None, None), (0.0, 3), (24.0, 3), (26.0, 2), (100.0, 0), (101.0, None)]
)
def test_the_idle_line_lies_at_its_share_of_the_scale(idle: float | None, row: int | None) -> None:
    assert idle_row(idle, 100.0, 4) == row


def test_both_intervals_are_bars_and_the_axes_have_three_labels() -> None:
    arms = {
        "quick": ArmPoint(10.0, 0.30, 0.26, 0.34, 8.0, 12.0),
        "think": ArmPoint(80.0, 0.52, 0.48, 0.56, 60.0, 100.0),
    }
    lines = plane_lines(arms, [], 80, 15)
    row = next(line for line in lines if "B" in line)
    assert row.count("─") == 26  # 60 to 100 J on 71 columns of 108 J, without the letter
    assert row[row.index("B") - 1] == row[row.index("B") + 1] == "─"
    above = lines[lines.index(row) - 1]
    assert above[row.index("B")] == "│"
    assert [line.split()[0] for line in lines if "┤" in line] == ["60.0", "40.0", "20.0"]
    assert lines[14].split() == ["0", "54.0", "J", "108", "J/question"]
    assert lines[13].count("┴") == 3


def test_the_axes_of_a_curve_have_marks_at_their_ends_and_middles() -> None:
    line = Series("one", [(0.0, 0.0), (100.0, 40.0)], [(100.0, 40.0)], "·", "o")
    lines = plot([line], "output tokens", "joules", width=61, height=15)
    assert [row.split()[0] for row in lines if "┤" in row] == ["40.0", "20.0", "0"]
    axis = next(row for row in lines if "└" in row)
    marks = [at for at, sign in enumerate(axis) if sign == "┴"]
    assert [mark - axis.index("└") - 1 for mark in marks] == [0, 30, 60]
    assert lines[1].endswith("o")
