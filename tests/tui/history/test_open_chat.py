"""Enter on a turn of the history shows it in its chat."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot
from textual.widgets import DataTable

from etui.log.writer import TurnWriter
from etui.tui.chat._turn_view import TurnView
from etui.tui.chat.screen import ChatScreen
from etui.tui.start import EtuiApp
from etui.turn.record import TurnRecord
from tests.tui.fakes import House, turn_record, until
from tests.tui.screen import running

SIZE = (120, 36)
TURNS = 45


def stock(house: House) -> list[TurnRecord]:
    """One long chat, in the log and behind the chat screen."""
    made = [
        turn_record(n, created_at=f"2026-01-01T00:{n:02}:00.000+00:00", answer="line\n\n" * 5)
        for n in range(TURNS)
    ]
    house.chats.keep("Long", made, "chat-1")
    with TurnWriter(house.config) as writer:
        writer.save_chat(house.chats.kept["chat-1"][0])
        for turn in house.chats.kept["chat-1"][1]:
            writer.save_turn(turn)
    return made


async def at_history(pilot: Pilot[Any], app: EtuiApp) -> DataTable[Any]:
    await until(pilot, lambda: app.backend is not None)
    await pilot.press("f3")
    await until(pilot, lambda: app.current_mode == "history" and app.screen.query(DataTable))
    table = app.screen.query_one(DataTable)
    await until(pilot, lambda: table.row_count == TURNS)
    return table


def in_view(app: EtuiApp, turn_id: str) -> bool:
    """Whether the turn has the focus, and its question is on the screen."""
    view = app.focused
    if not isinstance(app.screen, ChatScreen) or not isinstance(view, TurnView):
        return False
    top = app.screen.query_one("Transcript").content_region.y
    return view.record is not None and view.record.turn_id == turn_id and view.region.y == top


async def test_enter_opens_the_chat_at_the_turn_and_at_another_one(house: House) -> None:
    made = stock(house)
    async with running(house, SIZE) as term:
        table = await at_history(term.pilot, term.app)
        for row in (37, 3):
            table.move_cursor(row=row)
            await term.press("enter")
            await term.until(lambda row=row: in_view(term.app, made[TURNS - 1 - row].turn_id))
            assert term.app.current_mode == "chat"
            await term.press("f3")
            await term.until(
                lambda: term.app.current_mode == "history" and table.row_count == TURNS
            )
