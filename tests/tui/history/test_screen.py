"""The history screen on a real log."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from etui.config.config import Config
from etui.log.writer import TurnWriter
from etui.tui.history.screen import PAGE_TURNS, HistoryScreen
from etui.tui.start import EtuiApp
from etui.turn.record import TurnRecord
from tests.fixtures.turns import TURN, UNMEASURED
from tests.tui.fakes import until


class HistoryApp(App[None]):
    """Nothing but the screen."""

    CSS_PATH = EtuiApp.CSS_PATH
    HORIZONTAL_BREAKPOINTS = EtuiApp.HORIZONTAL_BREAKPOINTS
    VERTICAL_BREAKPOINTS = EtuiApp.VERTICAL_BREAKPOINTS

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.history = HistoryScreen(config)
        self.pilot: Pilot[None]

    def on_mount(self) -> None:
        self.push_screen(self.history)

    async def until(self, predicate: Callable[[], object]) -> None:
        await until(self.pilot, predicate)

    async def rows(self, count: int) -> None:
        await self.until(lambda: self.table.row_count == count)

    @property
    def table(self) -> DataTable[Any]:
        return self.history.query_one(DataTable)

    @property
    def questions(self) -> list[str]:
        return [str(self.table.get_row_at(row)[1]) for row in range(self.table.row_count)]

    @property
    def headings(self) -> str:
        return " ".join(str(column.label) for column in self.table.columns.values())

    @property
    def shown(self) -> str:
        return "\n".join(str(static.render()) for static in self.history.query(Static))


@asynccontextmanager
async def at_history(
    config: Config, *turns: TurnRecord, size: tuple[int, int] = (140, 30)
) -> AsyncIterator[HistoryApp]:
    """The screen with the first page of these turns on it."""
    with TurnWriter(config) as writer:
        for turn in turns:
            writer.save_turn(turn)
    app = HistoryApp(config)
    async with app.run_test(size=size) as app.pilot:
        await app.rows(min(len(turns), PAGE_TURNS))
        yield app


def turn(number: int, joules: float | None, **changes: Any) -> TurnRecord:
    energy = UNMEASURED if joules is None else replace(TURN.energy, joules=joules)
    time = f"2026-11-24T10:{number // 60:02}:{number % 60:02}.000+00:00"
    return replace(TURN, turn_id=f"id{number:010}", created_at=time, energy=energy, **changes)


async def test_turns_are_sorted_by_joules_and_the_unmeasured_come_last(config: Config) -> None:
    turns = turn(1, 5.0, query="five"), turn(2, None, query="none"), turn(3, 50.0, query="fifty")
    async with at_history(config, *turns) as app:
        assert app.questions == ["fifty", "none", "five"]
        assert "TIME ▼" in app.headings
        await app.pilot.press("s")
        await app.until(lambda: app.questions == ["fifty", "five", "none"])
        await app.until(lambda: "ENERGY ▼" in app.headings and "TIME ▼" not in app.headings)
        await app.pilot.press("r")
        await app.until(lambda: app.questions == ["five", "fifty", "none"])
        await app.until(lambda: "ENERGY ▲" in app.headings)
        assert "unmeasured" in str(app.table.get_row_at(2)[2])


async def test_words_narrow_the_turns_the_days_and_the_export(config: Config) -> None:
    turns = turn(1, 5.0, query="what is a joule"), turn(2, 60.0, query="capital of France")
    async with at_history(config, *turns) as app:
        days = app.history.query_one("#days", Static)
        await app.until(lambda: "65.0 J in 1 day" in str(days.content))
        await app.pilot.press("slash", *"france", "enter")
        await app.until(lambda: app.questions == ["capital of France"])
        await app.until(lambda: "60.0 J in 1 day" in str(days.content))
        await app.pilot.press("e")
        folder = config.home / "exports"
        await app.until(lambda: any(file.stat().st_size for file in folder.glob("*")))
        await app.pilot.press("b")
        assert not days.display
        await app.pilot.press("escape")
        await app.rows(2)
        assert not app.history.query_one(Input).display
    (file,) = folder.iterdir()
    if os.name == "posix":
        assert [path.stat().st_mode & 0o777 for path in (folder, file)] == [0o700, 0o600]
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["query"] == "capital of France"


async def test_the_turn_under_the_cursor_is_told_in_full(config: Config) -> None:
    made = turn(1, 5.0, answer="[b]bold[/b] \x1b[31mred", chat_id=None)
    async with at_history(config, made, size=(160, 60)) as app:
        await app.until(lambda: "math-thinks" in app.shown)
        assert "  read  " in app.shown
        assert "[b]bold[/b]" in app.shown
        assert "\x1b" not in app.shown
        await app.pilot.press("enter")
        await app.until(lambda: app._notifications)
        (notice,) = list(app._notifications)
        assert "belongs to no chat" in notice.message


async def test_more_turns_are_read_when_the_last_ones_are_reached(config: Config) -> None:
    async with at_history(config, *(turn(n, 1.0) for n in range(PAGE_TURNS + 30))) as app:
        app.table.move_cursor(row=PAGE_TURNS - 1)
        await app.rows(PAGE_TURNS + 30)
        assert app.table.cursor_row == PAGE_TURNS - 1


async def test_totals_tell_readings_and_estimates_apart(config: Config) -> None:
    guess = replace(TURN.energy, kind="estimate", joules=7.0)
    other = replace(turn(3, 1.0, model="other"), energy=guess)
    async with at_history(config, turn(1, 5.0), turn(2, None), other) as app:
        await app.pilot.press("t")
        await app.until(lambda: "Joules of answers by model" in app.shown)
        bars = [line for line in app.shown.splitlines() if line.startswith("other")]
        assert ["≈" in line and "(estimate)" not in line for line in bars] == [True]
        assert "1 unmeasured" in app.shown
        assert "Joules of answers by rule" in app.shown
        assert "Joules of answers by day" in app.shown
        await app.pilot.press("t")
        await app.until(lambda: app.table.has_focus)


async def test_an_empty_log_and_one_that_is_none_are_told(config: Config) -> None:
    async with at_history(config) as app:
        await app.until(lambda: "no answers in the log yet" in app.shown)
    config.database.write_bytes(b"this is no database, and long enough to be read as one" * 40)
    app = HistoryApp(config)
    async with app.run_test(size=(100, 24)) as app.pilot:
        await app.until(lambda: app._notifications)
        assert "not a database" in next(iter(app._notifications)).message


async def test_columns_come_and_go_with_the_width_and_the_cursor_stays(config: Config) -> None:
    async with at_history(config, *(turn(n, 5.0) for n in range(30)), size=(200, 50)) as app:

        def keys() -> set[str | None]:
            return {key.value for key in app.table.columns}

        await app.until(lambda: "rule" in keys())
        await app.pilot.press("j", "j", "k", "ctrl+d", "G")
        assert app.table.cursor_row == 29
        await app.pilot.resize_terminal(40, 20)
        await app.until(lambda: keys() == {"question", "joules", "model"})
        assert app.table.cursor_row == 29
        await app.pilot.press("g")
        assert app.table.cursor_row == 0


@pytest.mark.parametrize(("height", "seen"), [(10, False), (19, False), (24, True)])
async def test_the_days_leave_the_table_its_rows(config: Config, height: int, seen: bool) -> None:
    async with at_history(config, *(turn(n, 5.0) for n in range(5)), size=(40, height)) as app:
        days = app.history.query_one("#days")
        await app.until(lambda: days._sums)
        await app.until(lambda: days.display is seen)
        assert app.table.size.height >= 4
