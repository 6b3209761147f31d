"""Tables of text, and texts that fit into them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.text import (
    count_cells,
    fit_cells,
    format_markdown_table,
    format_table,
    one_line,
)

ROWS = [("small", "1.5", "yes"), ("a long name", "20", "")]
HEAD = ("NAME", "JOULES", "")


def test_columns_are_as_wide_as_their_widest_cell():
    assert format_table(ROWS, header=HEAD) == [
        "NAME         JOULES",
        "small        1.5     yes",
        "a long name  20",
    ]


def test_the_last_alignment_holds_for_the_columns_that_follow():
    assert format_table(ROWS, header=HEAD, align="<>") == [
        "NAME         JOULES",
        "small           1.5  yes",
        "a long name      20",
    ]
    assert format_table([("a", "b"), ("ccc", "ddd")], align=">") == ["  a    b", "ccc  ddd"]


def test_a_table_of_nothing_is_empty():
    assert format_table([]) == []
    assert format_table([], header=("A", "B")) == ["A  B"]


def test_markdown_aligns_by_its_second_line():
    assert format_markdown_table([("a", "1")], header=("x", "y"), align="<>") == (
        "| x | y |\n| --- | ---: |\n| a | 1 |"
    )


def test_a_wide_character_takes_two_cells():
    assert count_cells("能量") == 4
    assert fit_cells("能量守恒", 5) == "能量…"
    assert fit_cells("能量守恒", 6) == "能量…"
    assert fit_cells("short", 5) == "short"


def test_wide_characters_are_aligned_where_cells_are_counted():
    rows = [("能量", "x"), ("joule", "y")]
    assert format_table(rows, measure=count_cells) == ["能量   x", "joule  y"]


@given(st.text(), st.integers(1, 40))
def test_a_text_that_is_cut_fits(text, room):
    assert count_cells(fit_cells(text, room)) <= room


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_takes_one_cell_a_character(text):
    assert count_cells(text) == count_cells(f"{text}能") - 2


@given(st.text())
def test_one_line_is_one_line(text):
    assert "\n" not in one_line(text)
    assert one_line(one_line(text)) == one_line(text)
