"""The columns of the history at several widths, and the bars of its days."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.log.daily_energy import EnergySum
from etui.log.filters import TurnFilter
from etui.log.queries import LogReader, TurnSummary
from etui.log.totals import Total
from etui.log.writer import TurnWriter
from etui.text import count_cells
from etui.tui.history._detail import day_bar_lines, read_days
from etui.tui.history.screen import COLUMNS, totals_lines, turn_texts
from etui.tui.widgets.tables import fit_columns, measure_columns
from etui.turn.record import LoadRecord
from tests.fixtures.turns import TURN

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


def test_time_energy_and_model_are_seen_at_120_columns() -> None:
    beside_the_detail = shown(120 - 42 - 3)
    assert {"time", "question", "joules", "model"} <= set(beside_the_detail)
    assert "rule" not in beside_the_detail
    assert shown(200) == [column.key for column in COLUMNS]


def test_a_narrow_terminal_keeps_question_energy_and_model() -> None:
    assert {"question", "joules", "model", "time"} <= set(shown(78))
    assert shown(38) == ["question", "joules", "model"]


def test_the_question_gets_the_space_of_a_wide_terminal() -> None:
    needed = measure_columns(COLUMNS, [TEXTS | {"question": "word " * 60}])
    for width, least in ((78, 30), (140, 40), (200, 90)):
        widths = {column.key: cells for column, cells in fit_columns(COLUMNS, needed, width)}
        assert widths["question"] >= least
        assert widths["model"] >= 12, "cut in its middle, it is still told from others"


def summary(**changes: Any) -> TurnSummary:
    return replace(
        TurnSummary(
            turn_id="t", created_at="2026-11-24T10:00:00Z", chat_id=None, query="Why?", answer="",
            status="complete", model="m", arm="quick", policy=None, rule=None, tokens_output=5,
            seconds_total=1.0, joules=2.0, uncertainty=None, kind="counter", joules_per_token=0.4,
            mean_watts=None,
        ),
        **changes,
    )  # fmt: skip


def test_a_sign_says_how_a_turn_ended_and_nothing_is_no_number() -> None:
    assert turn_texts(summary())["question"] == "Why?"
    for status in ("stopped", "truncated", "budget"):
        assert turn_texts(summary(status=status))["question"] == "■ Why?"
    failed = turn_texts(summary(status="error", tokens_output=0, joules_per_token=None))
    assert (failed["question"], failed["tokens"], failed["per_token"]) == ("✗ Why?", "–", "–")


def total(key: str, joules: float | None, estimated: float | None = None, n: int = 1) -> Total:
    return Total(key, n, joules, None, None, estimated, 0, 10, None, 1.0)


@given(st.lists(st.floats(0.001, 1e9), min_size=1, max_size=8), st.integers(30, 200))
def test_every_total_is_one_row(joules: list[float], width: int) -> None:
    totals = [total(f"qwen2.5-coder-{n}.5b", each, n=1_000) for n, each in enumerate(joules)]
    head, _, *rows = totals_lines("model", totals, width)
    assert head.startswith("Joules of answers by model")
    assert len(rows) == len(joules)
    assert all(count_cells(row) <= width for row in rows)
    if width >= 60:
        assert all("1,000 answers" in row for row in rows)


def sums(made: dict[date, float | None]) -> dict[date, EnergySum]:
    return {day: EnergySum(1, joules, False, int(joules is None)) for day, joules in made.items()}


DAY = date(2026, 11, 24)


def test_days_without_turns_are_kept_between_others(config: Config) -> None:
    with TurnWriter(config) as writer:
        for number, day in enumerate((21, 24, 24)):
            made = f"2026-11-{day}T12:00:00.000+00:00"
            writer.save(replace(TURN, turn_id=f"t{number}", created_at=made, chat_id=None))
        load = LoadRecord("l", "2026-11-24T12:00:00.000+00:00", "m", None, None, 1.0, 7.0, 1.0,
                          "counter", 0, 9)  # fmt: skip
        writer.save(load)
    joules = TURN.energy.joules or 0.0
    with LogReader(config) as log:
        every = read_days(log, TurnFilter())
        found = read_days(log, TurnFilter(search="joule"))
    assert [day.day for day in every] == [day.day for day in found] == [21, 22, 23, 24]
    assert [each.joules for each in every.values()] == [joules, None, None, 2 * joules + 7.0]
    assert [each.joules for each in found.values()] == [joules, None, None, 2 * joules]


def test_the_bars_say_their_sum_and_the_highest_day() -> None:
    days = (date(2026, 11, 22), date(2026, 11, 23), DAY)
    made = sums(dict(zip(days, (None, 1000.0, 500.0), strict=True)))
    head, *rows, dates = day_bar_lines(made, 60)
    assert head == "1,500 J in 3 days · most 1,000 J on 11-23"
    assert rows[0][13:25] == "█" * 12  # the highest day reaches the top
    assert rows[0][26:38].strip() == ""
    assert rows[1][26:38].strip() != ""
    assert [row[0:12].strip() for row in rows] == [""] * 3  # unmeasured
    assert dates.split() == ["11-22", "11-23", "11-24"]
    many = {DAY + timedelta(days=n): 5.0 for n in range(30)}
    assert day_bar_lines(sums(many), 60, ", loads included")[0].startswith(
        "100 J in 20 days, loads"
    )
    assert day_bar_lines(sums({DAY: None}), 60) == []


@given(
    st.lists(st.sampled_from([None, 0.0]) | st.floats(0.001, 1e9), max_size=40),
    st.integers(0, 250),
)
def test_the_bars_fit(made: list[float | None], width: int) -> None:
    days = {DAY + timedelta(days=n): joules for n, joules in enumerate(made)}
    lines = day_bar_lines(sums(days), width)
    assert all(count_cells(line) <= max(width, 60) for line in lines)
