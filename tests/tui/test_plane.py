"""Accuracy against joules in characters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.tui.bars import bar
from etui.tui.plane import ArmPoint, plane_lines

SHARES = st.floats(0, 1)


@st.composite
def points(draw: st.DrawFn) -> ArmPoint:
    low, accuracy, high = sorted(draw(st.tuples(SHARES, SHARES, SHARES)))
    return ArmPoint(draw(st.floats(0.001, 1e6)), accuracy, low, high)


@given(st.dictionaries(st.text("abc", min_size=1), points(), min_size=1, max_size=8),
       st.integers(0, 200), st.integers(0, 60))  # fmt: skip
def test_every_arm_has_a_line_in_the_legend_and_nothing_leaves_the_plane(
    arms: dict[str, ArmPoint], width: int, height: int
) -> None:
    order = sorted(arms, key=lambda name: arms[name].joules)
    lines = plane_lines(arms, order, width, height)
    plane, legend = lines[: -len(arms)], lines[-len(arms) :]
    assert {len(line) for line in plane[:-2]} == {max(8, width - 9) + 9}
    assert [line.split(" ", 1)[1].split(":")[0] for line in legend] == list(arms)


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
    assert "(estimate)" in lines[-1]


def test_no_arm_with_joules_is_said() -> None:
    assert plane_lines({}, [], 60, 14) == ["no arm has both an accuracy and its joules"]


@given(st.one_of(st.none(), st.floats(0, 1e9)), st.floats(0, 1e9), st.integers(0, 80))
def test_a_bar_stays_within_its_room(value: float | None, highest: float, width: int) -> None:
    drawn = bar(value, highest, width)
    assert len(drawn) <= width
    assert bool(drawn) == bool(value and highest > 0 and width)
