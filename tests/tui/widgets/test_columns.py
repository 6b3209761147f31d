"""Which columns of a table are shown at a width, and how wide they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.tui.widgets.tables import (
    PADDING_CELLS,
    TableColumn,
    fit_columns,
    has_words,
    measure_columns,
    move_by_half,
)

COLUMNS = (
    TableColumn("time", "TIME", 2, 11),
    TableColumn("question", "QUESTION", 0, 60, least=12),
    TableColumn("joules", "ENERGY", 1, 12),
    TableColumn("rule", "RULE", 3, 20),
)
NEEDED = {"time": 11, "question": 40, "joules": 8, "rule": 14}


def shown(width: int) -> dict[str, int]:
    return {column.key: cells for column, cells in fit_columns(COLUMNS, NEEDED, width)}


def test_the_least_important_columns_go_first_and_the_flexible_one_takes_the_rest() -> None:
    assert shown(120) == {"time": 11, "question": 40, "joules": 8, "rule": 14}
    assert shown(60) == {"time": 11, "question": 19, "joules": 8, "rule": 14}
    assert shown(45) == {"time": 11, "question": 20, "joules": 8}
    assert shown(30) == {"question": 18, "joules": 8}
    assert shown(12) == {"question": 10}


def test_a_sorted_column_has_an_arrow_and_room_for_it() -> None:
    column = COLUMNS[2]
    assert column.heading("joules", True) == "ENERGY ▼"
    assert column.heading("joules", False) == "ENERGY ▲"
    assert column.heading("time", True) == "ENERGY"
    assert column.title_cells == len("ENERGY ▼")


def test_cells_are_measured_as_the_terminal_draws_them() -> None:
    rows = [{"question": "漢字" * 10, "joules": "1 J"}, {"rule": "x" * 90}]
    needed = measure_columns(COLUMNS, rows)
    assert needed == {"time": 6, "question": 40, "joules": 8, "rule": 20}


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 50), st.none() | st.integers(1, 20)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 250),
)
def test_the_columns_never_take_more_than_the_width(
    made: list[tuple[int, int, int | None]], width: int
) -> None:
    columns = [
        TableColumn(str(number), "T", rank, most, least)
        for number, (rank, most, least) in enumerate(made)
    ]
    needed = {str(number): most for number, (_, most, _) in enumerate(made)}
    fitted = fit_columns(columns, needed, width)
    assert fitted
    used = sum(cells + PADDING_CELLS for _, cells in fitted)
    assert used <= max(width, 1 + PADDING_CELLS)
    kept = [column for column, _ in fitted]
    assert kept == [column for column in columns if column in kept]


@given(st.integers(0, 99), st.integers(0, 100), st.integers(0, 60), st.integers(-3, 3))
def test_half_a_page_stays_within_the_list(row: int, rows: int, height: int, pages: int) -> None:
    assert 0 <= move_by_half(row, rows, height, pages) <= max(0, rows - 1)


def test_half_a_page_moves_by_half_the_height() -> None:
    assert move_by_half(5, 100, 20, 1) == 15
    assert move_by_half(15, 100, 20, -1) == 5
    assert move_by_half(3, 100, 1, 1) == 4


def test_a_text_has_words_in_any_order_and_case() -> None:
    assert has_words("qwen3-4b 2.5 GB Code", "code QWEN3")
    assert has_words("anything", "  ")
    assert not has_words("qwen3-4b", "qwen3 llama")
