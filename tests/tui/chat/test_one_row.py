"""One row of notes for each answer of a mixed day, at every width."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.varied_home import make_day
from etui.log.records import ChatRecord
from etui.tui.chat._transcript import MOST_TURNS
from etui.tui.chat._turn_view import TurnView
from etui.tui.widgets.lines import keep_facts
from tests.tui.fakes import House
from tests.tui.screen import running

_NOTES = ("why", "status-row", "energy-row", "round")


def note_rows(view: TurnView) -> int:
    return sum(part.region.height for part in view.children if any(map(part.has_class, _NOTES)))


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 50)])
async def test_an_answer_of_a_mixed_day_has_one_row_of_notes(
    house: House, size: tuple[int, int]
) -> None:
    day = make_day(random.Random(1))
    rows: list[int] = []
    async with running(house, size) as term:
        for first in range(0, len(day), MOST_TURNS):
            part = [
                replace(record, turn_id=f"t{n}", chat_id="c", parent_id=f"t{n - 1}")
                for n, record in enumerate(day[first : first + MOST_TURNS], first)
            ]
            house.chats.kept["c"] = (ChatRecord("c", "2026-11-30T10:00:00Z", "Day"), list(part))
            await term.app.screen.resume(house.chats.kept["c"][0])
            await term.until(lambda part=part: len(term.turns) == len(part))
            await term.until(lambda: all(note_rows(view) for view in term.turns))
            await term.pilot.pause()
            rows += [note_rows(view) for view in term.turns]
    assert len(rows) == len(day)
    assert rows.count(1) >= 0.95 * len(rows), rows


def test_what_has_no_room_is_left_out_and_never_broken() -> None:
    facts = "≈11 J ±4 · 38 tok/s · 0.60 s · 7 tok"
    assert keep_facts(facts, 80) == facts
    assert keep_facts(facts, 28) == "≈11 J ±4 · 38 tok/s · 0.60 s"
    assert keep_facts(facts, 17) == "≈11 J ±4 · 0.60 s", "a shorter one after it may fit"
    assert keep_facts(facts, 12) == "≈11 J ±4"
    assert keep_facts(facts, 3) == "≈11 J ±4"
