"""Terminals that change their size while something runs, hostile text, and parts that fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from etui.errors import LogUnavailable
from etui.tui.chat._chat_list import ChatsScreen
from etui.tui.chat.screen import ChatScreen
from etui.tui.pacing import QUIET, USUAL
from tests.tui.fakes import House, turn_record
from tests.tui.screen import Terminal, running

SIZES = ((20, 5), (200, 60), (40, 10), (120, 36))
NASTY = "[bold]x[/] \x1b[31mred\x07 <b>h</b> a\x9bm \u202e[/nothing]"


async def through_all_sizes(term: Terminal) -> None:
    for size in SIZES:
        await term.pilot.resize_terminal(*size)
        await term.pilot.pause()
        await term.until(lambda size=size: term.app.size == size)
        assert term.app.is_running


async def test_the_terminal_is_resized_while_an_answer_streams_and_over_a_list(
    house: House,
) -> None:
    house.runner.hold = True
    house.runner.thoughts = ("hm, ", "France")
    house.runner.pieces = ("Paris ",) * 400  # longer than the longest time between two draws
    house.chats.keep("Named", [turn_record(n) for n in range(30)])
    async with running(house) as term:
        await term.streams()
        await term.ask("And Spain?")
        await through_all_sizes(term)
        house.runner.let_go.set()
        await term.answered(2)
        await term.press("ctrl+o")
        await term.at(ChatsScreen)
        await through_all_sizes(term)
        await term.until(lambda: term.app.screen._shown)
        await term.press("enter")
        await term.at(ChatScreen)
        await term.until(lambda: len(term.turns) == 20)
        await through_all_sizes(term)
        await term.answer("Still there?")


async def test_hostile_text_in_names_questions_and_answers_is_text(house: House) -> None:
    record = turn_record(0, query=NASTY, answer=NASTY, thinking=NASTY, rule=NASTY, why=NASTY,
                         model=NASTY, arm=NASTY, error=NASTY, status="error")  # fmt: skip
    house.chats.keep(NASTY, [record, turn_record(1)])
    house.meter.channels = (replace(house.meter.channels[0], label=NASTY),)
    async with running(house) as term:
        await term.press("ctrl+o")
        await term.sees("[bold]x[/] ␛[31mred␇")
        await term.press("enter")
        await term.at(ChatScreen)
        await term.until(lambda: len(term.turns) == 2)
        await term.until(lambda: term.source(0).startswith("[bold]x[/] ␛[31m"))
        for name in ("question", "error"):
            assert "[bold]x[/] ␛[31mred␇" in term.text(0, name)
        await through_all_sizes(term)
        assert not any(c in term.drawn for c in "\x1b\x07\x9b\u202e")


async def test_a_full_disk_keeps_the_answer_and_says_where_it_went(house: House) -> None:
    class FullDisk(type(house.runner)):  # type: ignore[misc]
        def run(self, *args: Any, **options: Any) -> Any:
            yield from super().run(*args, **options)
            raise LogUnavailable("no room for the log; 1 record kept in memory only", "free space")

    house.runner.__class__ = FullDisk
    async with running(house) as term:
        await term.ask("What is the capital of France?")
        await term.told("free space")
        assert term.source(0) == "Paris is the **capital** of France."
        assert " J" in term.text(0, "energy")
        assert "no room for the log" in term.text(0, "error")


async def test_quiet_mode_draws_less_often_by_key_and_by_config(house: House) -> None:
    house.config = replace(house.config, quiet=True)
    async with running(house) as term:
        queue = term.app._chat.queue
        assert queue.pace is QUIET
        await term.until(lambda: "quiet mode" in term.panel)
        await term.answer("What is the capital of France?")
        await term.press("f12")
        await term.until(lambda: queue.pace is USUAL)
        await term.until(lambda: "quiet mode" not in term.panel)
