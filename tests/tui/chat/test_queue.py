"""Questions that wait: shown in their order below the running answer, withdrawn with Del."""

from __future__ import annotations

import pytest

from etui.tui.chat._batches import TextBatch
from etui.tui.chat._prompt import Prompt
from etui.tui.power.panel import PowerPanel
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until
from tests.tui.screen import WIDE, answered, ask, drawn, text_of, turns


def waiting(app: EtuiApp) -> list[str]:
    return [text_of(turn, "question") for turn in turns(app) if turn.queued]


async def ask_three(pilot: object, app: EtuiApp) -> None:
    for question in ("one", "two", "three", "four"):
        await ask(pilot, question)  # type: ignore[arg-type]
    await until(pilot, lambda: len(waiting(app)) == 3)  # type: ignore[arg-type]


async def test_waiting_questions_are_numbered_and_one_is_asked_after_the_other(
    house: House,
) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask_three(pilot, app)
        assert waiting(app) == [
            "❯ queued (1st): two",
            "❯ queued (2nd): three",
            "❯ queued (3rd): four",
        ]
        assert drawn(app).count("del withdraw") == 3
        house.runner.let_go.set()
        await answered(pilot, house, 4)
        assert waiting(app) == []
        assert "del withdraw" not in drawn(app)
        assert text_of(turns(app)[1], "question") == "❯ two"


async def test_del_in_an_empty_prompt_withdraws_the_last_question(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask_three(pilot, app)
        await pilot.press("delete")
        await until(pilot, lambda: waiting(app) == ["❯ queued (1st): two", "❯ queued (2nd): three"])
        prompt = app.screen.query_one(Prompt)
        prompt.text = "xy"
        prompt.move_cursor((0, 0))
        await pilot.press("delete")
        await until(pilot, lambda: prompt.text == "y")
        assert len(waiting(app)) == 2, "in a text, Del deletes"
        prompt.text = ""
        await pilot.press("delete", "delete")
        await until(pilot, lambda: waiting(app) == [])
        house.runner.let_go.set()
        await answered(pilot, house, 1)
        await pilot.press("delete")
        assert [record.query for record in house.runner.saved] == ["one"]


async def test_del_withdraws_the_selected_question(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask_three(pilot, app)
        turns(app)[1].focus()
        await until(pilot, lambda: turns(app)[1].has_focus)
        await pilot.press("delete")
        await until(
            pilot, lambda: waiting(app) == ["❯ queued (1st): three", "❯ queued (2nd): four"]
        )
        await until(pilot, lambda: turns(app)[1].has_focus)
        await pilot.press("delete", "delete")
        await until(pilot, lambda: waiting(app) == [])
        await until(pilot, lambda: isinstance(app.focused, Prompt))
        house.runner.let_go.set()
        await answered(pilot, house, 1)


async def test_a_running_answer_is_not_withdrawn(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "one")
        await until(pilot, lambda: turns(app) and not turns(app)[0].queued)
        turns(app)[0].focus()
        await pilot.press("delete")
        house.runner.let_go.set()
        await answered(pilot, house, 1)


async def test_a_withdrawn_question_comes_back_with_up(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "one")
        await ask(pilot, "two")
        await until(pilot, lambda: waiting(app))
        await pilot.press("delete")
        await until(pilot, lambda: not waiting(app))
        await pilot.press("up")
        await until(pilot, lambda: app.screen.query_one(Prompt).text == "two")
        house.runner.let_go.set()


@pytest.mark.parametrize("size", [(80, 24), (120, 36)])
async def test_the_key_stands_at_the_right_of_the_question(
    house: House, size: tuple[int, int]
) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=size) as pilot:
        await ask(pilot, "one")
        await ask(pilot, "two")
        await until(pilot, lambda: "del withdraw" in drawn(app))
        (line,) = (row for row in drawn(app).split("\n") if "del withdraw" in row)
        assert "queued (1st): two" in line
        house.runner.let_go.set()


async def test_a_waiting_question_has_the_whole_width_of_a_narrow_terminal(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=(40, 16)) as pilot:
        await ask(pilot, "First?")
        await until(pilot, lambda: len(house.runner.asked) == 1)
        await ask(pilot, "Second?")
        await until(pilot, lambda: "queued (1st): Second?" in drawn(app))
        assert "del withdraw" not in drawn(app)
        assert "del Withdraw" in drawn(app), "the footer has the key"
        house.runner.let_go.set()
        await answered(pilot, house, 2)


async def test_numbers_and_graph_are_drawn_along_with_the_text_of_a_running_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "one")
        await until(pilot, lambda: text_of(turns(app)[0], "status").startswith("answering"))
        queue = app._chat._queue
        assert queue._ticker is not None
        queue._ticker.stop()
        seen: list[str] = []
        show_turn = PowerPanel.show_turn
        monkeypatch.setattr(
            PowerPanel, "show_turn", lambda *rest: (seen.append("numbers"), show_turn(*rest))[1]
        )
        monkeypatch.setattr(PowerPanel, "_draw", lambda *_: seen.append("graph"))

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
        await answered(pilot, house, 1)
