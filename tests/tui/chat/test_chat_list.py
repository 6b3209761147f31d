"""Chats: listed, searched, named, resumed, exported, deleted; and a system prompt for each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, TextArea

from etui.chat import Message
from etui.errors import LogUnavailable
from etui.tui.chat._chat_list import ChatsScreen, branch_rows
from etui.tui.chat._prompt import Prompt
from etui.tui.chat.screen import ChatScreen
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.start import EtuiApp
from etui.turn.chat_tree import tree_of
from etui.turn.record import TurnRecord
from tests.tui.fakes import House, turn_record, until
from tests.tui.screen import WIDE, answered, ask, drawn, notices, panel_text, source_of, turns


@pytest.fixture
def stocked(house: House) -> House:
    """Three chats in the log."""
    house.chats.keep("Oceans [/]", [turn_record(1, query="The largest?")], "chat-a")
    house.chats.keep("Primes", [turn_record(2), turn_record(3)], "chat-b")
    house.chats.keep("Empty", [], "chat-c")
    return house


def rows(app: EtuiApp) -> list[str]:
    listed = app.screen.query_one(OptionList)
    return [str(listed.get_option_at_index(i).prompt) for i in range(listed.option_count)]


def chat(app: EtuiApp) -> ChatScreen:
    assert isinstance(app.screen, ChatScreen)
    return app.screen


async def open_list(pilot: Pilot[Any], count: int) -> None:
    app = pilot.app
    await until(pilot, lambda: app.backend is not None)  # type: ignore[attr-defined]
    await pilot.press("ctrl+o")
    await until(pilot, lambda: isinstance(app.screen, ChatsScreen))
    await until(pilot, lambda: len(rows(app)) == count)  # type: ignore[arg-type]


async def choose(pilot: Pilot[Any], word: str) -> None:
    """Search for a chat so that it is the only one in the list."""
    await pilot.press("slash", *word)
    await until(pilot, lambda: len(rows(pilot.app)) == 1)  # type: ignore[arg-type]


async def test_chats_are_listed_with_turns_and_joules_and_found_by_words(stocked: House) -> None:
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        assert [row.split(maxsplit=2)[2].strip() for row in rows(app)] == [
            "0 turns       –  Empty",
            "2 turns  25.0 J  Primes",
            "1 turn  12.5 J  Oceans [/]",
        ]
        await choose(pilot, "largest")
        assert "Oceans [/]" in rows(app)[0]
        await until(pilot, lambda: "Oceans [/]" in drawn(app))


async def test_a_chat_is_resumed_with_its_turns_its_history_and_its_questions(
    stocked: House,
) -> None:
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await choose(pilot, "Primes")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and len(turns(app)) == 2)
        await until(pilot, lambda: source_of(turns(app)[1]) == "Answer 3.")
        assert "25.0 J, 6.94 mWh · 2 answers" in panel_text(app)
        await pilot.press("up")
        await until(pilot, lambda: app.screen.query_one(Prompt).text == "Question 3?")
        await ask(pilot, "And now?")
        await answered(pilot, stocked, 1)
        query, _route = stocked.runner.asked[0]
        assert query.chat_id == "chat-b"
        assert query.history[-1] == Message("assistant", "Answer 3.")


async def test_a_chat_is_named_and_the_name_is_kept(stocked: House) -> None:
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await choose(pilot, "Primes")
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(app.screen, TextModal))
        area = app.screen.query_one(TextArea)
        await until(pilot, lambda: area.has_focus and area.selected_text == "Primes")
        await pilot.press(*"All", "space", *"Primes", "enter")
        await until(pilot, lambda: stocked.chats.kept["chat-b"][0].name == "All Primes")
        await until(pilot, lambda: isinstance(app.screen, ChatsScreen))
        await until(pilot, lambda: rows(app) and "  All Primes" in rows(app)[0])


async def test_a_chat_is_deleted_only_after_a_yes(stocked: House) -> None:
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await choose(pilot, "Oceans")
        for answer in ("enter", "y"):
            assert "chat-a" in stocked.chats.kept
            await pilot.press("f8")
            await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
            await pilot.press(answer)
            await until(pilot, lambda: isinstance(app.screen, ChatsScreen))
        await until(pilot, lambda: "chat-a" not in stocked.chats.kept)


async def test_the_chat_that_is_open_gives_way_to_a_new_one_when_it_is_deleted(
    stocked: House,
) -> None:
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await choose(pilot, "Primes")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and len(turns(app)) == 2)
        await open_list(pilot, 3)
        await choose(pilot, "Primes")
        await pilot.press("f8")
        await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
        await pilot.press("y")
        await until(pilot, lambda: "chat-b" not in stocked.chats.kept)
        await until(pilot, lambda: isinstance(app.screen, ChatsScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and turns(app) == [])
        assert chat(app).conversation.chat.chat_id != "chat-b"


@pytest.mark.parametrize(("key", "ending"), [("f3", "md"), ("f4", "json")])
async def test_a_chat_is_exported(stocked: House, key: str, ending: str) -> None:
    app = stocked.app()
    path = stocked.config.home / "exports" / f"primes-b.{ending}"
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await choose(pilot, "Primes")
        await pilot.press(key)
        await until(pilot, lambda: str(path) in notices(app))
    text = path.read_text(encoding="utf-8")
    assert "Answer 3." in text
    if ending == "json":
        assert [turn["query"] for turn in json.loads(text)["turns"]] == [
            "Question 2?",
            "Question 3?",
        ]
    else:
        assert text.startswith("# Primes\n")
        assert "12.5 ± 0.5 J (counter)" in text
    assert list(path.parent.iterdir()) == [path]


async def test_a_file_that_cannot_be_written_is_a_notice(stocked: House) -> None:
    stocked.config.home.mkdir(parents=True, exist_ok=True)
    (stocked.config.home / "exports").write_text("in the way")
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await pilot.press("f3")
        await until(pilot, lambda: "cannot write" in notices(app))
        assert app.is_running


async def test_a_log_that_cannot_be_read_is_a_notice_and_the_chat_goes_on(stocked: House) -> None:
    stocked.chats.error = LogUnavailable("the log is locked by [another]", "close it")
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await until(pilot, lambda: "locked by [another]" in panel_text(app))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "close it" in notices(app))
        await pilot.press("escape")
        await ask(pilot, "Still there?")
        await answered(pilot, stocked, 1)


async def test_the_system_prompt_of_a_chat_goes_with_its_questions(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await pilot.press("f9")
        await until(pilot, lambda: isinstance(app.screen, TextModal))
        app.screen.query_one(TextArea).text = "Answer in Latin."
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        await ask(pilot, "Who are you?")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][0].system == "Answer in Latin."
        assert house.chats.kept == {}, "the log makes the chat with its first turn"
        await pilot.press("f9")
        await until(pilot, lambda: isinstance(app.screen, TextModal))
        app.screen.query_one(TextArea).text = "In Greek."
        await pilot.press("ctrl+s")
        chat_id = house.runner.asked[0][0].chat_id
        assert chat_id is not None
        await until(pilot, lambda: chat_id in house.chats.kept)
        kept, _turns = house.chats.kept[chat_id]
        assert (kept.system, kept.name) == ("In Greek.", "Who are you?")


async def test_a_chat_cannot_be_left_while_an_answer_comes(stocked: House) -> None:
    stocked.runner.hold = True
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Tell me everything")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        await open_list(pilot, 3)
        await pilot.press("enter")
        await until(pilot, lambda: "stop it with Esc first" in notices(app))
        assert len(turns(app)) == 1


def forked() -> list[TurnRecord]:
    """First?, and then Second? with Third?, or Other?."""
    first = turn_record(0, query="First?")
    second = turn_record(1, query="Second?", parent_id=first.turn_id)
    third = turn_record(2, query="Third?", parent_id=second.turn_id)
    return [first, second, third, turn_record(3, query="Other?", parent_id=first.turn_id)]


async def test_a_chat_unfolds_to_its_branches_and_is_resumed_at_one(stocked: House) -> None:
    stocked.chats.keep("Forked", forked(), "chat-d")
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 4)
        assert rows(app)[0].endswith("Forked  ▸ 2 branches")
        await pilot.press("right")
        await until(pilot, lambda: len(rows(app)) == 6)
        assert rows(app)[1:3] == ["  ├ ○ Second? · 3 turns", "  └ ● Other? · 2 turns"]
        await pilot.press("left")
        await until(pilot, lambda: len(rows(app)) == 4)
        await pilot.press("l")
        await until(pilot, lambda: len(rows(app)) == 6)
        await pilot.press("j", "enter")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and len(turns(app)) == 3)
        assert [t.record.query for t in turns(app) if t.record] == ["First?", "Second?", "Third?"]
        await until(pilot, lambda: stocked.chats.kept["chat-d"][0].head == "turn-of-log-2")


async def test_the_list_moves_by_the_keys_of_lists(stocked: House) -> None:
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        listed = app.screen.query_one(OptionList)
        for key, row in (("G", 2), ("k", 1), ("g", 0), ("j", 1), ("ctrl+d", 2), ("ctrl+u", 0)):
            await pilot.press(key)
            await until(pilot, lambda row=row: listed.highlighted == row)
        await pilot.press("slash", "m", "escape")
        await until(pilot, lambda: app.screen.query_one(Input).value == "m")
        await until(pilot, lambda: listed.has_focus and len(rows(app)) == 2)


async def test_the_smallest_model_names_a_chat_and_its_joules_are_shown(stocked: House) -> None:
    stocked.runner.pieces = ('"Title: ', "Large ", 'oceans."')
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await pilot.press("G", "f5")
        await until(pilot, lambda: stocked.chats.kept["chat-a"][0].name == "Large oceans")
        await until(pilot, lambda: "Large oceans · named by smollm2-135m for " in notices(app))
        assert " J" in notices(app)
        query, route = stocked.runner.asked[0]
        assert "The largest?" in query.text
        assert (query.chat_id, route.model) == (None, "smollm2-135m")
        assert query.options.stop == ("\n",)


async def test_a_chat_that_cannot_be_named_keeps_its_name(stocked: House) -> None:
    stocked.runner.pieces = ('"', '"')
    app = stocked.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, 3)
        await pilot.press("f5")
        await until(pilot, lambda: "the chat has no turn yet" in notices(app))
        await pilot.press("j", "f5")
        await until(pilot, lambda: "found no title" in notices(app))
        stocked.runner.smallest = None
        await pilot.press("f5")
        await until(pilot, lambda: "no model is on this machine" in notices(app))
        assert stocked.chats.kept["chat-b"][0].name == "Primes"


async def test_a_small_terminal_lists_chats_with_their_names(stocked: House) -> None:
    app = stocked.app()
    async with app.run_test(size=(40, 10)) as pilot:
        await open_list(pilot, 3)
        names = ("Primes", "Oceans", "Empty")
        await until(pilot, lambda: all(name in drawn(app) for name in names))
        assert "25.0 J  Primes" in drawn(app)


@given(st.integers(0, 4), st.lists(st.integers(-1, 8), max_size=8))
def test_every_branch_has_one_row_and_one_is_current(roots: int, parents: list[int]) -> None:
    records = [
        turn_record(n, parent_id=f"turn-of-log-{parent}" if 0 <= parent < n else None)
        for n, parent in enumerate([-1] * roots + parents)
    ]
    leaves = tree_of(records).leaves()
    found = branch_rows(records, None)
    assert {row.leaf for row in found} == (set(leaves) if len(leaves) > 1 else set())
    if found:
        assert [row.current for row in found].count(True) == 1
        assert [row.last for row in found] == [False] * (len(found) - 1) + [True]
        assert all(row.depth >= 1 for row in found)
