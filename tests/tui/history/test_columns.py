"""The columns of the history at several widths, and the bars of its days."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from etui.log.totals import Total
from etui.text import count_cells
from etui.tui.history._detail import day_bar_lines, list_days
from etui.tui.history.screen import COLUMNS
from etui.tui.widgets.tables import fit_columns, measure_columns

TEXTS = {
    "time": "11-24 10:01",
    "question": "What is the capital of France, and why is it there?",
    "joules": "123 J",
    "per_token": "0.560 J",
    "tokens": "512",
    "seconds": "12.3 s",
    "model": "qwen2.5-coder-1.5b",
    "rule": "everything-else",
}


def shown(width: int) -> list[str]:
    needed = measure_columns(COLUMNS, [TEXTS])
    return [column.key for column, _ in fit_columns(COLUMNS, needed, width)]


def test_energy_model_and_joules_per_token_are_seen_at_120_columns() -> None:
    beside_the_detail = shown(120 - 42 - 3)
    assert {"question", "joules", "model", "per_token"} <= set(beside_the_detail)
    assert "rule" not in beside_the_detail
    assert shown(200) == [column.key for column in COLUMNS]


def test_a_model_is_named_in_full_before_the_question_gets_the_rest() -> None:
    needed = measure_columns(COLUMNS, [TEXTS])
    for width in (120 - 42 - 3, 78):
        widths = {column.key: cells for column, cells in fit_columns(COLUMNS, needed, width)}
        assert widths["model"] == len("qwen2.5-coder-1.5b")
        assert widths["question"] >= 12


def test_a_narrow_terminal_keeps_question_energy_and_model() -> None:
    assert {"question", "joules", "model", "time", "per_token"} <= set(shown(78))
    assert shown(38) == ["question", "joules", "model"]


def total(day: str, joules: float | None, estimated: float | None = None) -> Total:
    return Total(day, 1, joules, None, None, estimated, 0, 10, None, 1.0)


def test_days_without_turns_are_kept_between_others() -> None:
    days = list_days([total("2026-11-24", 5.0, 2.0), total("2026-11-21", 3.0)], 30)
    assert [day.joules for day in days] == [3.0, None, None, 7.0]
    assert [day.estimated for day in days] == [False, False, False, True]
    assert [day.day.day for day in list_days([total("2026-11-24", 1.0)], 30)] == [24]


def test_the_bars_say_their_sum_and_the_highest_day() -> None:
    totals = [total("2026-11-24", 500.0), total("2026-11-23", 1000.0), total("2026-11-22", None)]
    head, *rows, dates = day_bar_lines(totals, 60)
    assert head == "1,500 J in 3 days · most 1,000 J on 11-23"
    assert rows[0][3:5] == "██"  # the highest day reaches the top
    assert rows[0][6:8].strip() == ""
    assert rows[1][6:8].strip() != ""
    assert [row[0:2].strip() for row in rows] == [""] * 3  # unmeasured
    assert dates.startswith("11-22")
    assert day_bar_lines([total("2026-11-24", None)], 60) == []


@given(
    st.dictionaries(
        st.integers(0, 400), st.sampled_from([None, 0.0]) | st.floats(0.001, 1e9), max_size=40
    ),
    st.integers(0, 250),
)
def test_the_bars_fit_and_their_days_add_up(made: dict[int, Any], width: int) -> None:
    first = date(2026, 1, 1)
    totals = [total((first + timedelta(days=n)).isoformat(), joules) for n, joules in made.items()]
    lines = day_bar_lines(totals, width)
    days = list_days(totals, width // 3)
    assert all(count_cells(line) <= max(width, 60) for line in lines)
    if width // 3 > 400:
        assert sum(day.joules or 0.0 for day in days) == sum(j or 0.0 for j in made.values())
    drawn = {day.day: day.joules for day in days}
    for number, joules in made.items():
        day = first + timedelta(days=number)
        if day in drawn:
            assert drawn[day] == joules
