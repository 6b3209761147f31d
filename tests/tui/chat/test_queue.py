"""Questions that wait: shown in their order below the running answer, withdrawn with Del."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from etui.tui.chat._batches import TextBatch
from etui.tui.chat._prompt import Prompt
from etui.tui.power.panel import PowerPanel
from tests.tui.fakes import House
from tests.tui.screen import WIDE, Terminal, running, text_of


def waiting(term: Terminal) -> list[str]:
    return [text_of(turn, "question") for turn in term.turns if turn.queued]


@asynccontextmanager
async def queueing(
    house: House, *questions: str, size: tuple[int, int] = WIDE
) -> AsyncIterator[Terminal]:
    """The first question is being answered, and the others wait."""
    house.runner.hold = True
    async with running(house, size) as term:
        for question in questions:
            await term.ask(question)
        await term.until(lambda: len(waiting(term)) == len(questions) - 1)
        yield term
        house.runner.let_go.set()


async def test_waiting_questions_are_numbered_and_one_is_asked_after_the_other(
    house: House,
) -> None:
    async with queueing(house, "one", "two", "three", "four") as term:
        assert waiting(term) == [
            "❯ queued (1st): two",
            "❯ queued (2nd): three",
            "❯ queued (3rd): four",
        ]
        assert term.drawn.count("del withdraw") == 3
        house.runner.let_go.set()
        await term.answered(4)
        assert waiting(term) == []
        assert "del withdraw" not in term.drawn
        assert term.text(1, "question") == "❯ two"


async def test_del_in_an_empty_prompt_withdraws_the_last_question(house: House) -> None:
    async with queueing(house, "one", "two", "three", "four") as term:
        await term.press("delete")
        await term.until(lambda: waiting(term) == ["❯ queued (1st): two", "❯ queued (2nd): three"])
        term.prompt.text = "xy"
        term.prompt.move_cursor((0, 0))
        await term.press("delete")
        await term.until(lambda: term.prompt.text == "y")
        assert len(waiting(term)) == 2, "in a text, Del deletes"
        term.prompt.text = ""
        await term.press("delete", "delete")
        await term.until(lambda: waiting(term) == [])
        await term.press("up")
        await term.until(lambda: term.prompt.text == "four")
        term.prompt.text = ""
        house.runner.let_go.set()
        await term.answered(1)
        await term.press("delete")
        assert [record.query for record in house.runner.saved] == ["one"]


async def test_del_withdraws_the_selected_question_and_no_running_one(house: House) -> None:
    async with queueing(house, "one", "two", "three", "four") as term:
        term.turns[0].focus()
        await term.press("delete")
        term.turns[1].focus()
        await term.until(lambda: term.turns[1].has_focus)
        await term.press("delete")
        await term.until(lambda: waiting(term) == ["❯ queued (1st): three", "❯ queued (2nd): four"])
        await term.until(lambda: term.turns[1].has_focus)
        await term.press("delete", "delete")
        await term.until(lambda: waiting(term) == [])
        await term.until(lambda: isinstance(term.app.focused, Prompt))
        house.runner.let_go.set()
        await term.answered(1)


@pytest.mark.parametrize(
    ("size", "beside"), [((80, 24), True), ((120, 36), True), ((40, 16), False)]
)
async def test_the_key_stands_at_the_right_of_the_question_where_there_is_room(
    house: House, size: tuple[int, int], beside: bool
) -> None:
    async with queueing(house, "one", "two", size=size) as term:
        await term.sees("queued (1st): two")
        (line,) = (row for row in term.drawn.split("\n") if "queued (1st): two" in row)
        assert ("del withdraw" in line) is beside
        assert "del Withdraw" in term.drawn, "the footer has the key"


async def test_numbers_and_graph_are_drawn_along_with_the_text_of_a_running_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.runner.hold = True
    async with running(house) as term:
        await term.ask("one")
        await term.until(lambda: term.text(0, "status").startswith("answering"))
        queue = term.app._chat.queue
        assert queue._ticker is not None
        queue._ticker.stop()
        seen: list[str] = []
        show_turn = PowerPanel.show_turn
        monkeypatch.setattr(
            PowerPanel, "show_turn", lambda *rest: (seen.append("numbers"), show_turn(*rest))[1]
        )
        monkeypatch.setattr(PowerPanel, "draw", lambda *_: seen.append("graph"))

        queue._counted_ns = 0
        await queue._take(TextBatch("", " more", 0, 1))
        assert seen == ["numbers", "graph"]
        await queue._take(TextBatch("", " and more", 0, 1))
        await queue._tick()
        assert seen == ["numbers", "graph"], "they were drawn a moment ago"
        queue._counted_ns = 0
        await queue._tick()
        assert sorted(seen[2:]) == ["graph", "numbers"], "a text that stalls stops neither"
        house.runner.let_go.set()
        await term.answered(1)
