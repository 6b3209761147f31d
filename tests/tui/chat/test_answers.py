"""What can be done with an answer: ask again, edit, copy, grade; hops of a cascade; budgets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
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
from tests.tui.fakes import MODEL, House
from tests.tui.screen import notices, running

THINK = Route("balanced", arm="think")


async def test_asking_again_shows_both_costs_and_dims_what_was_replaced(house: House) -> None:
    async with running(house) as term:
        await term.answer("First?", "Second?")
        await term.press("shift+tab", "plus")
        await term.told("no arm on this machine is larger than quick")
        assert len(house.runner.asked) == 2
        house.runner.other = THINK
        assert term.app.focused is term.turns[1]
        await term.press("plus")
        await term.answered(3)
        query, route = house.runner.asked[2]
        assert (query.text, route) == ("Second?", THINK)
        assert [m.content for m in query.history if m.role == "user"] == ["First?"]
        assert house.runner.saved[2].settings[REPLACES] == house.runner.saved[1].turn_id
        await term.until(lambda: re.search(r"[\d.]+× the [\d.]+ J before",
                                           term.text(2, "energy")))  # fmt: skip
        await term.until(lambda: term.turns[1].has_class("-replaced"))
        assert not term.turns[0].has_class("-replaced")
        assert isinstance(term.app.focused, Prompt)
        house.runner.other = None
        await term.answer("Third?")
        history = house.runner.asked[3][0].history
        assert [m.content for m in history if m.role == "user"] == ["First?", "Second?"]


async def test_an_edited_question_takes_the_place_of_the_old_one(house: House) -> None:
    async with running(house) as term:
        await term.answer("First?", "Second?")
        term.prompt.text = "a draft"
        await term.press("shift+tab", "e")
        assert "editing" in str(term.prompt.border_title)
        await term.press("escape")
        assert (term.prompt.text, term.prompt.editing) == ("a draft", None)
        assert not term.prompt.border_title
        await term.press("shift+tab", "shift+tab", "e")
        assert term.prompt.text == "First?"
        assert term.app.focused is term.prompt
        term.prompt.text = "First, edited?"
        await term.press("enter")
        await term.answered(3)
        assert term.prompt.text == "a draft"
        query, _route = house.runner.asked[2]
        assert (query.text, query.history) == ("First, edited?", ())
        await term.until(lambda: [t.has_class("-replaced") for t in term.turns] == [1, 1, 0])
        assert "was" not in term.text(2, "energy"), "another question has another cost"
        await term.answer("Next?")
        assert house.runner.asked[3][0].history[0] == Message("user", "First, edited?")


async def test_an_answer_is_copied_graded_and_its_thought_unfolded(house: House) -> None:
    house.runner.thoughts = ("hm",)
    async with running(house) as term:
        await term.answer("First?", "Second?")
        turn_id = house.runner.saved[1].turn_id
        await term.press("shift+tab", "v")
        await term.until(lambda: house.chats.graded == {turn_id: True})
        await term.until(lambda: "you said good" in term.text(1, "energy"))
        await term.press("x")
        await term.until(lambda: "you said bad" in term.text(1, "energy"))
        assert house.chats.graded == {turn_id: False}
        await term.press("x")
        await term.until(lambda: house.chats.graded == {})
        await term.until(lambda: "you said" not in term.text(1, "energy"))
        assert "you said" not in term.text(0, "energy")
        await term.press("y")
        await term.told("no code block in this answer")
        await term.press("c")
        await term.until(lambda: term.app.clipboard == "Paris is the **capital** of France.")
        await term.press("shift+tab", "t")
        folded = [turn.query_one(Collapsible).collapsed for turn in term.turns]
        assert folded == [False, True]
        assert "(14 %)" in str(term.turns[0].query_one(Collapsible).title)
        await term.press("escape")
        assert isinstance(term.app.focused, Prompt)


async def test_a_hop_that_is_not_taken_is_folded_away_before_the_next_answer(house: House) -> None:
    rejected = HopEnded(1, "quick", MODEL, 0.4, 0.41, False, 12.0, "41 % sure [x]", kind="estimate")
    second = HopStarted(2, "think", "qwen3-0.6b", "cot", "quick was 41 % sure")
    taken = HopEnded(2, "think", "qwen3-0.6b", 0.9, 0.9, True, 30.0, "90 % sure", True)
    house.runner.hops = ((None, ("Lyon.",), rejected), (second, ("Pa", "ris"), taken))
    async with running(house) as term:
        await term.answer("What is the capital of France?")
        (hop,) = term.turns[0].query(".hop").results(Collapsible)
        assert hop.collapsed
        assert str(hop.title) == f"not taken: quick › {MODEL} · 41 % sure \\[x] · ≈12 J"
        assert "Lyon" not in term.source(0)
        assert term.text(0, "why") == ""
        first = HopStarted(1, "quick", MODEL, "direct")
        ended = HopEnded(1, "quick", MODEL, 0.9, 0.9, True, 9.0, "90 % sure", True)
        house.runner.hops = ((first, ("Pa", "ris"), ended),)
        await term.answer("And of Spain?")
        assert term.text(1, "why") == "", "the first arm answered, as planned"


async def test_a_spent_budget_asks_before_it_goes_on_and_leaving_means_no(house: House) -> None:
    house.runner.over_budget = "the hour's 20 kJ are spent: go on?"
    async with running(house) as term:
        for key, answers in (("n", 0), ("y", 1)):
            await term.ask("Anyone?")
            await term.at(ConfirmModal)
            await term.press(key)
            await term.until(lambda n=answers: len(house.runner.saved) == n)
            await term.until(lambda: not isinstance(term.app.screen, ConfirmModal))
            await term.until(lambda: all(t.ended for t in term.app.screen.query(TurnView)))
        await term.ask("Anyone?")
        await term.at(ConfirmModal)
        await term.press("ctrl+q")
        await term.until(lambda: not term.app.is_running)
    assert len(house.runner.saved) == 1


async def test_a_repetition_is_streamed_and_then_cut_with_its_reason(house: House) -> None:
    house.runner.pieces = ["Paris.", *[" la Femme,"] * 20]
    record = house.runner._record

    def cut(*args: Any) -> TurnRecord:
        loop = LoopRecord("Paris." + " la Femme," * 20, "", 491, 43.2)
        return replace(record(*args), answer="Paris. la Femme,", ended="repeats", loop=loop)

    house.runner._record = cut
    async with running(house) as term:
        await term.answer("What is the capital of France?")
        assert term.source(0) == "Paris. la Femme,"
        await term.until(lambda: "■ ended: it repeats itself" in term.text(0, "energy"))
        await term.press("shift+tab", "i")
        await term.sees("the answer repeats itself (saved up to ≈43 J)")


async def test_a_turn_with_branches_shows_its_place_and_asks_for_another(house: House) -> None:
    wanted: list[tuple[str, str]] = []

    class Listening(EtuiApp):
        def on_turn_view_action_requested(self, message: TurnView.ActionRequested) -> None:
            assert message.view.record is not None
            wanted.append((message.view.record.turn_id, message.action))

    async with running(house, kind=Listening) as term:
        await term.answer("First?", "Second?")
        second = house.runner.saved[1].turn_id
        term.app.screen.query_one(Transcript).mark(branches={second: (2, 3)})
        assert "<" not in term.text(0, "energy")
        assert "< 2/3 >" in term.text(1, "energy")
        await term.press("shift+tab", "<", ">")
        await term.until(lambda: wanted == [(second, "before"), (second, "after")])
        await term.press("up", ">")
        await term.pilot.pause()
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
    house.runner.pieces = ("One:\n```python\n", "x = [1]\ny = 2\n```\nTwo:\n\n```\nls\n```\n")
    async with running(house) as term:
        await term.answer("Code?")
        await term.press("shift+tab", "y")
        await term.told("copied code block 1 of 2 (python, 2 lines) · by xclip, the terminal (OSC")
        assert (term.app.clipboard, out.read_text()) == ("x = [1]\ny = 2",) * 2
        await term.press("y")
        await term.told("code block 2 of 2 (1 line)")
        assert out.read_text() == "ls"
        await term.press("y")
        await term.until(lambda: notices(term.app).count("code block 1 of 2") == 2)


async def test_copying_an_answer_that_is_being_written_says_so(house: House) -> None:
    house.runner.hold = True
    async with running(house) as term:
        await term.streams()
        term.turns[0].focus()
        await term.press("c")
        await term.told("still being written")
        house.runner.let_go.set()
        await term.answered(1)
