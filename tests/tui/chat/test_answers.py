"""What can be done with an answer: ask again, edit, copy; hops of a cascade; predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Collapsible

from etui.chat import Message
from etui.runtime.routes import Route
from etui.tui.chat._prompt import Prompt
from etui.tui.chat._transcript import Transcript
from etui.tui.chat._turn_view import TurnView
from etui.tui.modals import ConfirmModal
from etui.tui.start import EtuiApp
from etui.turn.events import HopEnded, HopStarted
from etui.turn.record import REPLACES, LoopRecord, TurnRecord
from tests.tui.fakes import MODEL, House, until
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

THINK = Route("balanced", arm="think")


def prompt(app: EtuiApp) -> Prompt:
    return app.screen.query_one(Prompt)


async def two_answers(pilot: Pilot[Any], house: House) -> None:
    for number, question in enumerate(("First?", "Second?"), 1):
        await ask(pilot, question)
        await answered(pilot, house, number)


async def test_asking_again_shows_both_costs_and_dims_what_was_replaced(house: House) -> None:
    house.runner.other = THINK
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        await pilot.press("shift+tab")
        assert app.focused is turns(app)[1]
        await pilot.press("plus")
        await answered(pilot, house, 3)
        query, route = house.runner.asked[2]
        assert (query.text, route) == ("Second?", THINK)
        assert [m.content for m in query.history if m.role == "user"] == ["First?"]
        assert house.runner.saved[2].settings[REPLACES] == house.runner.saved[1].turn_id
        before, now, *_times = text_of(turns(app)[2], "costs").split("\n")
        assert before.startswith(f"before  quick › {MODEL}")
        assert now.startswith(f"now     think › {MODEL}")
        assert " J " in before
        assert " J " in now
        await until(pilot, lambda: turns(app)[1].has_class("-replaced"))
        assert not turns(app)[0].has_class("-replaced")
        assert isinstance(app.focused, Prompt)


async def test_the_next_question_knows_only_what_counts(house: House) -> None:
    house.runner.other = THINK
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        await pilot.press("shift+tab", "minus")
        await answered(pilot, house, 3)
        house.runner.other = None
        await ask(pilot, "Third?")
        await answered(pilot, house, 4)
        history = house.runner.asked[3][0].history
        assert [m.content for m in history if m.role == "user"] == ["First?", "Second?"]


async def test_where_no_arm_is_larger_it_is_said(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        await pilot.press("shift+tab", "plus")
        await until(pilot, lambda: "no arm on this machine is larger than quick" in notices(app))
        assert len(house.runner.asked) == 2


async def test_an_edited_question_takes_the_place_of_the_old_one(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        prompt(app).text = "a draft"
        await pilot.press("shift+tab", "shift+tab")
        assert app.focused is turns(app)[0]
        await pilot.press("e")
        assert prompt(app).text == "First?"
        assert app.focused is prompt(app)
        prompt(app).text = "First, edited?"
        await pilot.press("enter")
        await answered(pilot, house, 3)
        assert prompt(app).text == "a draft"
        query, _route = house.runner.asked[2]
        assert (query.text, query.history) == ("First, edited?", ())
        await until(pilot, lambda: [t.has_class("-replaced") for t in turns(app)] == [1, 1, 0])
        assert text_of(turns(app)[2], "costs") == "", "another question has another cost"
        await ask(pilot, "Next?")
        await answered(pilot, house, 4)
        assert house.runner.asked[3][0].history[0] == Message("user", "First, edited?")


async def test_escape_gives_an_edit_up_and_brings_the_draft_back(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        prompt(app).text = "a draft"
        await pilot.press("shift+tab", "e")
        assert "editing" in str(prompt(app).border_title)
        await pilot.press("escape")
        assert prompt(app).text == "a draft"
        assert not prompt(app).border_title
        assert prompt(app).editing is None


async def test_an_answer_is_copied_as_it_was_written(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        await pilot.press("shift+tab", "c")
        await until(pilot, lambda: app.clipboard == "Paris is the **capital** of France.")
        await pilot.press("escape")
        assert isinstance(app.focused, Prompt)


async def test_the_thought_of_a_chosen_answer_unfolds(house: House) -> None:
    house.runner.thoughts = ("hm",)
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        await pilot.press("shift+tab", "shift+tab", "t")
        folded = [turn.query_one(Collapsible).collapsed for turn in turns(app)]
        assert folded == [False, True]
        assert "(14 %)" in str(turns(app)[0].query_one(Collapsible).title)


async def test_a_hop_that_is_not_taken_is_folded_away_before_the_next_answer(house: House) -> None:
    rejected = HopEnded(1, "quick", MODEL, 0.4, 0.41, False, 12.0, "41 % sure [x]", kind="estimate")
    second = HopStarted(2, "think", "qwen3-0.6b", "cot", "quick was 41 % sure")
    taken = HopEnded(2, "think", "qwen3-0.6b", 0.9, 0.9, True, 30.0, "90 % sure", True)
    house.runner.hops = ((None, ("Lyon.",), rejected), (second, ("Pa", "ris"), taken))
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        (turn,) = turns(app)
        (hop,) = turn.query(".hop").results(Collapsible)
        assert hop.collapsed
        assert str(hop.title) == f"not taken: quick › {MODEL} · 41 % sure \\[x] · ≈12 J"
        assert "Lyon" not in source_of(turn)
        assert text_of(turn, "why") == "then think › qwen3-0.6b"


async def test_the_first_hop_is_named_once(house: House) -> None:
    first = HopStarted(1, "quick", MODEL, "direct")
    house.runner.hops = (
        (first, ("Pa", "ris"), HopEnded(1, "quick", MODEL, 0.9, 0.9, True, 9.0, "90 % sure", True)),
    )
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert text_of(turns(app)[0], "why") == "", "the first arm answered, as planned"


async def test_a_spent_budget_asks_before_it_goes_on(house: House) -> None:
    house.runner.over_budget = "the hour's 20 kJ are spent: go on?"
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        for key, answers in (("n", 0), ("y", 1)):
            await ask(pilot, "Anyone?")
            await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
            await pilot.press(key)
            await until(pilot, lambda n=answers: len(house.runner.saved) == n)
            await until(pilot, lambda: not isinstance(app.screen, ConfirmModal))
            await until(pilot, lambda: all(turn.ended for turn in app.screen.query(TurnView)))


async def test_quitting_answers_no_to_a_budget(house: House) -> None:
    house.runner.over_budget = "the hour's 20 kJ are spent: go on?"
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Anyone?")
        await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
    assert house.runner.saved == []


async def test_a_model_given_up_between_answers_leaves_the_panel(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "98.4 MB" in panel_text(app))
        house.runner.on_unloaded(MODEL)
        await until(pilot, lambda: "no model" in panel_text(app))


async def test_a_repetition_is_streamed_and_then_cut_with_its_reason(house: House) -> None:
    house.runner.pieces = ["Paris.", *[" la Femme,"] * 20]
    record = house.runner._record

    def cut(*args: Any) -> TurnRecord:
        loop = LoopRecord("Paris." + " la Femme," * 20, "", 491, 43.2)
        return replace(record(*args), answer="Paris. la Femme,", ended="repeats", loop=loop)

    house.runner._record = cut
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        view = turns(app)[0]
        assert source_of(view) == "Paris. la Femme,"
        ended = "■ ended: the answer repeats itself (saved up to ≈43 J)"
        await until(pilot, lambda: ended in text_of(view, "energy"))


async def test_a_turn_with_branches_shows_its_place_and_asks_for_another(house: House) -> None:
    wanted: list[tuple[str, int]] = []

    class Listening(EtuiApp):
        def on_turn_view_branch_wanted(self, message: TurnView.BranchWanted) -> None:
            assert message.view.record is not None
            wanted.append((message.view.record.turn_id, message.step))

    app = house.app(Listening)
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        second = house.runner.saved[1].turn_id
        app.screen.query_one(Transcript).show_branches({second: (2, 3)})
        assert text_of(turns(app)[0], "branch") == ""
        assert text_of(turns(app)[1], "branch") == "< 2/3 >"
        await pilot.press("shift+tab", "<", ">")
        await until(pilot, lambda: wanted == [(second, -1), (second, 1)])
        await pilot.press("up", ">")
        await pilot.pause()
        assert len(wanted) == 2, "a turn without branches has nowhere to go"


async def test_code_blocks_are_copied_one_after_the_other_by_the_tool_that_is_there(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, out = tmp_path / "xclip", tmp_path / "copied"
    tool.write_text(f"#!/bin/sh\n/bin/cat > {out}\n")
    tool.chmod(0o755)
    for name in ("TMUX", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setenv("PATH", str(tmp_path))
    house.runner.pieces = (
        "One:\n```python\n",
        "x = [1]\ny = 2\n```\nTwo:\n\n```\nls\n```\n",
    )
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Code?")
        await answered(pilot, house, 1)
        await pilot.press("shift+tab", "y")
        said = "copied code block 1 of 2 (python, 2 lines) · by xclip, the terminal (OSC 52)"
        await until(pilot, lambda: said in notices(app))
        assert (app.clipboard, out.read_text()) == ("x = [1]\ny = 2",) * 2
        await pilot.press("y")
        await until(pilot, lambda: "code block 2 of 2 (1 line)" in notices(app))
        assert out.read_text() == "ls"
        await pilot.press("y")
        await until(pilot, lambda: notices(app).count("code block 1 of 2") == 2)


async def test_an_answer_without_code_says_so(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "First?")
        await answered(pilot, house, 1)
        await pilot.press("shift+tab", "y")
        await until(pilot, lambda: "no code block in this answer" in notices(app))


async def test_copying_an_answer_that_is_being_written_says_so(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is Zig?")
        await until(pilot, lambda: turns(app) and "answering" in drawn(app))
        turns(app)[0].focus()
        await pilot.press("c")
        await until(pilot, lambda: "still being written" in notices(app))
        house.runner.let_go.set()
        await answered(pilot, house, 1)


async def test_an_answer_is_graded_and_the_grade_is_taken_back(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await two_answers(pilot, house)
        turn_id = house.runner.saved[1].turn_id
        await pilot.press("shift+tab", "v")
        await until(pilot, lambda: house.chats.graded == {turn_id: True})
        await until(pilot, lambda: text_of(turns(app)[1], "grade") == "you said: good")
        await pilot.press("x")
        await until(pilot, lambda: text_of(turns(app)[1], "grade") == "you said: bad")
        assert house.chats.graded == {turn_id: False}
        await pilot.press("x")
        await until(pilot, lambda: house.chats.graded == {})
        await until(pilot, lambda: not turns(app)[1].query_one(".grade").display)
        assert not turns(app)[0].query_one(".grade").display
