"""The history screen on a real log."""

from __future__ import annotations

import json
from collections.abc import Callable
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


class _HistoryApp(App[None]):
    """Nothing but the screen."""

    CSS_PATH = EtuiApp.CSS_PATH
    HORIZONTAL_BREAKPOINTS = EtuiApp.HORIZONTAL_BREAKPOINTS
    VERTICAL_BREAKPOINTS = EtuiApp.VERTICAL_BREAKPOINTS

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.history = HistoryScreen(config)

    def on_mount(self) -> None:
        self.push_screen(self.history)


Keep = Callable[[list[TurnRecord]], None]


@pytest.fixture
def keep(config: Config) -> Keep:
    """Writes turns into the log of the test."""

    def write(turns: list[TurnRecord]) -> None:
        writer = TurnWriter(config)
        for turn in turns:
            writer.save_turn(turn)
        writer.close()

    return write


def turn(number: int, joules: float | None, **changes: Any) -> TurnRecord:
    energy = UNMEASURED if joules is None else replace(TURN.energy, joules=joules)
    time = f"2026-11-24T10:{number // 60:02}:{number % 60:02}.000+00:00"
    return replace(TURN, turn_id=f"id{number:010}", created_at=time, energy=energy, **changes)


def table_of(app: _HistoryApp) -> DataTable[Any]:
    return app.history.query_one(DataTable)


def questions(app: _HistoryApp) -> list[str]:
    table = table_of(app)
    return [str(table.get_row_at(row)[1]) for row in range(table.row_count)]


def shown(app: _HistoryApp) -> str:
    return "\n".join(str(static.render()) for static in app.history.query(Static))


async def rows(pilot: Pilot[Any], app: _HistoryApp, count: int) -> None:
    await until(pilot, lambda: table_of(app).row_count == count)


async def test_turns_are_sorted_by_joules_and_the_unmeasured_come_last(
    config: Config, keep: Keep
) -> None:
    keep([turn(1, 5.0, query="five"), turn(2, None, query="none"), turn(3, 50.0, query="fifty")])
    app = _HistoryApp(config)
    async with app.run_test(size=(140, 30)) as pilot:
        await rows(pilot, app, 3)
        assert questions(app) == ["fifty", "none", "five"]
        await pilot.press("s")
        await until(pilot, lambda: questions(app) == ["fifty", "five", "none"])
        await pilot.press("r")
        await until(pilot, lambda: questions(app) == ["five", "fifty", "none"])
        assert "unmeasured" in str(table_of(app).get_row_at(2)[2])


async def test_words_narrow_the_turns_and_escape_brings_all_back(
    config: Config, keep: Keep
) -> None:
    keep([turn(1, 5.0, query="what is a joule"), turn(2, 6.0, query="capital of France")])
    app = _HistoryApp(config)
    async with app.run_test(size=(140, 30)) as pilot:
        await rows(pilot, app, 2)
        await pilot.press("slash", *"france")
        await until(pilot, lambda: questions(app) == ["capital of France"])
        await pilot.press("escape")
        await rows(pilot, app, 2)
        assert not app.history.query_one(Input).display


async def test_the_turn_under_the_cursor_is_told_in_full(config: Config, keep: Keep) -> None:
    keep([turn(1, 5.0, answer="[b]bold[/b] \x1b[31mred")])
    app = _HistoryApp(config)
    async with app.run_test(size=(160, 60)) as pilot:
        await rows(pilot, app, 1)
        await until(pilot, lambda: "math-thinks" in shown(app))
        said = shown(app)
        assert "prefill" in said
        assert "[b]bold[/b]" in said
        assert "\x1b" not in said


async def test_more_turns_are_read_when_the_last_ones_are_reached(
    config: Config, keep: Keep
) -> None:
    keep([turn(number, 1.0) for number in range(PAGE_TURNS + 30)])
    app = _HistoryApp(config)
    async with app.run_test(size=(140, 30)) as pilot:
        await rows(pilot, app, PAGE_TURNS)
        table_of(app).move_cursor(row=PAGE_TURNS - 1)
        await rows(pilot, app, PAGE_TURNS + 30)
        assert table_of(app).cursor_row == PAGE_TURNS - 1


async def test_totals_tell_readings_and_estimates_apart(config: Config, keep: Keep) -> None:
    guess = replace(TURN.energy, kind="estimate", joules=7.0)
    keep([turn(1, 5.0), turn(2, None), replace(turn(3, 1.0, model="other"), energy=guess)])
    app = _HistoryApp(config)
    async with app.run_test(size=(140, 30)) as pilot:
        await rows(pilot, app, 3)
        await pilot.press("t")
        await until(pilot, lambda: "joules by model" in shown(app))
        said = shown(app)
        bars = [line for line in said.splitlines() if line.startswith("other")]
        assert ["≈" in line and "(estimate)" not in line for line in bars] == [True]
        assert "1 turn unmeasured" in said
        for way in ("rule", "day"):
            await pilot.press("t")
            await until(pilot, lambda way=way: f"joules by {way}" in shown(app))


async def test_what_is_shown_is_exported(config: Config, keep: Keep) -> None:
    keep([turn(1, 5.0, query="what is a joule"), turn(2, 6.0, query="capital of France")])
    app = _HistoryApp(config)
    folder = config.home / "exports"
    async with app.run_test(size=(140, 30)) as pilot:
        await rows(pilot, app, 2)
        await pilot.press("slash", *"france", "enter")
        await rows(pilot, app, 1)
        await pilot.press("e")
        await until(pilot, lambda: any(file.stat().st_size for file in folder.glob("*")))
    (file,) = folder.iterdir()
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["query"] == "capital of France"


async def test_an_empty_log_says_so(config: Config) -> None:
    app = _HistoryApp(config)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "no turns in the log yet" in shown(app))


async def test_a_log_that_is_none_is_told_with_its_fix(config: Config) -> None:
    config.database.parent.mkdir(parents=True, exist_ok=True)
    config.database.write_bytes(b"this is no database, and long enough to be read as one" * 40)
    app = _HistoryApp(config)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: app._notifications)
        (notice,) = list(app._notifications)
        assert "not a database" in notice.message


async def test_the_heading_of_the_sorted_column_has_an_arrow(config: Config, keep: Keep) -> None:
    keep([turn(1, 5.0), turn(2, 50.0)])
    app = _HistoryApp(config)

    def headings() -> str:
        return " ".join(str(column.label) for column in table_of(app).columns.values())

    async with app.run_test(size=(140, 30)) as pilot:
        await rows(pilot, app, 2)
        assert "TIME ▼" in headings()
        await pilot.press("s")
        await until(pilot, lambda: "ENERGY ▼" in headings() and "TIME ▼" not in headings())
        await pilot.press("r")
        await until(pilot, lambda: "ENERGY ▲" in headings())


async def test_columns_come_and_go_with_the_width_and_the_cursor_stays(
    config: Config, keep: Keep
) -> None:
    keep([turn(number, 5.0) for number in range(30)])
    app = _HistoryApp(config)

    def keys() -> set[str | None]:
        return {key.value for key in table_of(app).columns}

    async with app.run_test(size=(200, 50)) as pilot:
        await rows(pilot, app, 30)
        await until(pilot, lambda: "rule" in keys())
        await pilot.press("j", "j", "k", "ctrl+d", "G")
        assert table_of(app).cursor_row == 29
        await pilot.resize_terminal(40, 20)
        await until(pilot, lambda: keys() == {"question", "joules", "model"})
        assert table_of(app).cursor_row == 29
        await pilot.press("g")
        assert table_of(app).cursor_row == 0


async def test_the_joules_by_day_are_those_of_the_search(config: Config, keep: Keep) -> None:
    keep([turn(1, 5.0, query="what is a joule"), turn(2, 60.0, query="capital of France")])
    app = _HistoryApp(config)

    def days() -> str:
        return str(app.history.query_one("#days", Static).content)

    async with app.run_test(size=(140, 30)) as pilot:
        await until(pilot, lambda: "65.0 J in 1 day" in days())
        await pilot.press("slash", *"france")
        await until(pilot, lambda: "60.0 J in 1 day" in days())
        await pilot.press("enter", "b")
        assert not app.history.query_one("#days", Static).display


async def test_a_turn_without_a_chat_says_so(config: Config, keep: Keep) -> None:
    keep([turn(1, 5.0, chat_id=None)])
    app = _HistoryApp(config)
    async with app.run_test(size=(140, 30)) as pilot:
        await rows(pilot, app, 1)
        await pilot.press("enter")
        await until(pilot, lambda: app._notifications)
        (notice,) = list(app._notifications)
        assert "belongs to no chat" in notice.message


@pytest.mark.parametrize(("height", "seen"), [(10, False), (19, False), (24, True)])
async def test_the_days_leave_the_table_its_rows(
    keep: Keep, config: Config, height: int, seen: bool
) -> None:
    keep([turn(number, 5.0) for number in range(5)])
    app = _HistoryApp(config)
    async with app.run_test(size=(40, height)) as pilot:
        await rows(pilot, app, 5)
        days = app.history.query_one("#days")
        await until(pilot, lambda: days._totals)
        await until(pilot, lambda: days.display is seen)
        assert app.history.query_one(DataTable).size.height >= 4
