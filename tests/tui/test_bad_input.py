"""Terminals of every size in every state, hostile text everywhere, and parts that fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot

from etui.errors import EngineFailed, LogUnavailable
from etui.tui.chat._chat_list import ChatsScreen
from etui.tui.chat.screen import ChatScreen
from etui.tui.pacing import QUIET, USUAL
from etui.tui.services import BudgetState, SpendingTotals
from tests.tui.fakes import MODEL, House, turn_record, until
from tests.tui.screen import (
    WIDE,
    answered,
    ask,
    drawn,
    notices,
    panel_text,
    source_of,
    text_of,
    turns,
)

SIZES = ((120, 36), (80, 24), (40, 10), (20, 5), (200, 60), (99, 15), (120, 36))
NASTY = "[bold]x[/] \x1b[31mred\x07 <b>h</b> a\x9bm \u202e[/nothing]"


async def through_all_sizes(pilot: Pilot[Any]) -> None:
    for size in SIZES:
        await pilot.resize_terminal(*size)
        await pilot.pause()
        await until(pilot, lambda size=size: pilot.app.size == size)
        assert pilot.app.is_running


async def test_the_terminal_is_resized_in_every_state(house: House) -> None:
    house.runner.hold = True
    house.runner.slow_load = True
    house.runner.thoughts = ("hm, ", "France")
    house.runner.pieces = ("Paris ",) * 400  # longer than the longest time between two draws
    house.chats.keep("Named", [turn_record(n) for n in range(30)])
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await until(pilot, lambda: f"loading {MODEL}" in panel_text(app))
        await through_all_sizes(pilot)
        house.runner._end.set()
        await until(pilot, lambda: "Paris" in source_of(turns(app)[0]))
        await ask(pilot, "And Spain?")
        await through_all_sizes(pilot)
        house.runner.let_go.set()
        await answered(pilot, house, 2)
        await through_all_sizes(pilot)
        await pilot.press("f1")
        await through_all_sizes(pilot)
        await pilot.press("f1", "ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, ChatsScreen))
        await through_all_sizes(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and len(turns(app)) == 20)
        await through_all_sizes(pilot)
        await ask(pilot, "Still there?")
        await answered(pilot, house, 3)


async def test_hostile_text_in_names_questions_and_answers_is_text(house: House) -> None:
    record = turn_record(0, query=NASTY, answer=NASTY, thinking=NASTY, rule=NASTY, why=NASTY,
                         model=NASTY, arm=NASTY, error=NASTY, status="error")  # fmt: skip
    house.chats.keep(NASTY, [record, turn_record(1)])
    house.meter.channels = (replace(house.meter.channels[0], label=NASTY),)
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "[bold]x[/] ␛[31mred␇" in drawn(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and len(turns(app)) == 2)
        await until(pilot, lambda: source_of(turns(app)[0]).startswith("[bold]x[/] ␛[31m"))
        for name in ("question", "error"):
            assert "[bold]x[/] ␛[31mred␇" in text_of(turns(app)[0], name)
        await through_all_sizes(pilot)
        assert not any(c in drawn(app) for c in "\x1b\x07\x9b\u202e")


async def test_an_engine_that_was_killed_serves_the_next_question(house: House) -> None:
    house.runner.error = EngineFailed("the engine process was killed by SIGKILL", "ask again")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "98.4 MB" in panel_text(app))
        await ask(pilot, "Anyone?")
        await until(pilot, lambda: "SIGKILL" in text_of(turns(app)[0], "error"))
        assert "no model" in panel_text(app)
        house.runner.error = None
        await ask(pilot, "And now?")
        await answered(pilot, house, 1)


async def test_a_full_disk_keeps_the_answer_and_says_where_it_went(house: House) -> None:
    class FullDisk(type(house.runner)):  # type: ignore[misc]
        def run(self, *args: Any) -> Any:
            yield from super().run(*args)
            raise LogUnavailable("no room for the log; 1 record kept in memory only", "free space")

    house.runner.__class__ = FullDisk
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await until(pilot, lambda: "free space" in notices(app))
        assert source_of(turns(app)[0]) == "Paris is the **capital** of France."
        assert "J/tok" in text_of(turns(app)[0], "energy")
        assert "no room for the log" in text_of(turns(app)[0], "error")


async def test_answers_that_never_reached_the_log_do_not_pile_up(house: House) -> None:
    house.runner.error = EngineFailed("no", "")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        for number in range(4):
            await ask(pilot, f"Question {number}?")
            await until(pilot, lambda: turns(app)[-1].ended)
        assert len(turns(app)) <= 2


async def test_quiet_mode_draws_less_often_by_key_and_by_config(house: House) -> None:
    house.config = replace(house.config, quiet=True)
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        assert isinstance(app.screen, ChatScreen)
        assert app.screen._queue.pace is QUIET
        await until(pilot, lambda: "quiet mode" in panel_text(app))
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        await pilot.press("f12")
        await until(pilot, lambda: app.screen._queue.pace is USUAL)
        await until(pilot, lambda: "quiet mode" not in panel_text(app))


async def test_gross_and_net_change_places_by_one_key(house: House) -> None:
    house.meter.idle_watts = 10.0
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "GPU0" in panel_text(app))
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        await until(pilot, lambda: "LAST ANSWER  gross" in panel_text(app))
        gross, net = (house.runner.saved[0].energy.joules, house.runner.saved[0].energy.net_joules)
        assert gross is not None
        assert net is not None
        assert net == pytest.approx(gross * 0.8, rel=0.01)
        before = panel_text(app)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "LAST ANSWER  net" in panel_text(app))
        assert panel_text(app) != before
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "LAST ANSWER  gross" in panel_text(app))


async def test_the_day_and_the_budgets_stand_in_the_panel(house: House) -> None:
    house.chats.today = SpendingTotals(None, (BudgetState("hour", 20_000.0, 12_300.0),))
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "62 % of 20.0 kJ" in panel_text(app))
        assert "today nothing yet" in panel_text(app)
        await until(pilot, lambda: "this screen: 2.1 % of one core" in panel_text(app))
