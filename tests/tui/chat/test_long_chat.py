"""A chat of 500 turns: only some of them are mounted, and every one can be reached."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from etui.tui.chat._chat_list import ChatsScreen
from etui.tui.chat._transcript import MOST_TURNS, MOST_TURNS_READING, Transcript
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, turn_record, until
from tests.tui.screen import running, source_of, turns

LONG = 500


@pytest.fixture
def long(house: House) -> House:
    """A log with one long chat."""
    house.chats.keep("Long", [turn_record(number) for number in range(LONG)])
    return house


def transcript(app: EtuiApp) -> Transcript:
    return app.screen.query_one(Transcript)


def shown(app: EtuiApp) -> list[str]:
    return [turn.asking.text for turn in turns(app)]


def marker(app: EtuiApp, name: str) -> str:
    static = transcript(app).query_one(f".{name}", Static)
    return str(static.content) if static.display else ""


async def resume(pilot: Pilot[Any]) -> None:
    app: Any = pilot.app
    await until(pilot, lambda: app.backend is not None)
    await pilot.press("ctrl+o")
    await until(pilot, lambda: isinstance(app.screen, ChatsScreen) and app.screen._shown)
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(app.screen, ChatsScreen))
    await until(pilot, lambda: len(turns(app)) == MOST_TURNS)
    await until(pilot, lambda: source_of(turns(app)[-1]))


async def test_the_last_turns_are_shown_at_first(long: House) -> None:
    async with running(long) as term:
        await resume(term.pilot)
        assert shown(term.app)[-1] == f"Question {LONG - 1}?"
        assert marker(term.app, "earlier").startswith(f"▲ {LONG - MOST_TURNS} earlier turns")
        await term.until(
            lambda: transcript(term.app).scroll_y == transcript(term.app).max_scroll_y > 0
        )


async def test_scrolling_up_brings_earlier_turns_in_and_stays_where_the_reader_is(
    long: House,
) -> None:
    async with running(long) as term:
        await resume(term.pilot)
        first = term.turns[0]
        transcript(term.app).scroll_home(animate=False)
        await term.until(lambda: len(term.turns) > MOST_TURNS and not transcript(term.app)._moving)
        assert term.turns[0] is not first
        await term.until(lambda: first.region.overlaps(transcript(term.app).region))


async def test_page_up_reaches_the_first_turn_and_page_down_the_last(long: House) -> None:
    async with running(long, (120, 70)) as term:
        await resume(term.pilot)

        async def page(key: str, end: str) -> None:
            for _ in range(LONG * 5):
                if end in shown(term.app):
                    return
                await term.press(key)
                await term.until(lambda: not transcript(term.app)._moving)
                assert len(term.turns) <= MOST_TURNS_READING
            raise AssertionError(f"{end} was never reached")

        await page("pageup", f"Question {LONG - 45}?")
        assert marker(term.app, "later")
        await page("pagedown", f"Question {LONG - 1}?")
        await term.until(lambda: not marker(term.app, "later"))


async def test_a_new_question_brings_the_reader_back_to_the_end(long: House) -> None:
    async with running(long) as term:
        await resume(term.pilot)
        transcript(term.app).scroll_home(animate=False)
        await term.until(lambda: len(term.turns) > MOST_TURNS and not transcript(term.app)._moving)
        await term.answer("One more?")
        assert shown(term.app)[-1] == "One more?"
        assert len(term.turns) <= MOST_TURNS
        query, _route = long.runner.asked[0]
        assert len(query.history) == 2 * LONG
