"""Chats: listed, searched, named, resumed, exported, deleted; and a system prompt for each."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.widgets import Input, OptionList, TextArea

from etui.chat import Message
from etui.errors import LogUnavailable
from etui.tui.chat._chat_list import ChatsScreen, branch_rows
from etui.tui.chat.screen import ChatScreen
from etui.tui.modals import ConfirmModal, TextModal
from etui.turn.chat_tree import tree_of
from etui.turn.record import NAMES, TurnRecord
from tests.tui.fakes import House, turn_record
from tests.tui.screen import WIDE, Terminal, notices, running


@pytest.fixture
def stocked(house: House) -> House:
    """Three chats in the log."""
    house.chats.keep("Oceans [/]", [turn_record(1, query="The largest?")], "chat-a")
    house.chats.keep("Primes", [turn_record(2), turn_record(3)], "chat-b")
    house.chats.keep("Empty", [], "chat-c")
    return house


def rows(term: Terminal) -> list[str]:
    listed = term.app.screen.query_one(OptionList)
    return [str(listed.get_option_at_index(i).prompt) for i in range(listed.option_count)]


@asynccontextmanager
async def at_chats(
    house: House, size: tuple[int, int] = WIDE, count: int = 3
) -> AsyncIterator[Terminal]:
    """The app at its list of chats."""
    async with running(house, size) as term:
        await open_list(term, count)
        yield term


async def open_list(term: Terminal, count: int) -> None:
    await term.press("ctrl+o")
    await term.at(ChatsScreen)
    await term.until(lambda: len(rows(term)) == count)


async def choose(term: Terminal, word: str) -> None:
    """Search for a chat so that it is the only one in the list, and go to it."""
    await term.press("slash", *word)
    await term.until(lambda: len(rows(term)) == 1)
    await term.press("down")


async def test_chats_are_listed_with_turns_and_joules_and_found_by_words(stocked: House) -> None:
    async with at_chats(stocked) as term:
        await term.sees("LAST USED         TURNS  JOULES  NAME")
        assert [row.split(maxsplit=2)[2] for row in rows(term)] == [
            "0       –  Empty",
            "2  25.0 J  Primes",
            "1  12.5 J  Oceans [/]",
        ]
        listed = term.app.screen.query_one(OptionList)
        for key, row in (("G", 2), ("k", 1), ("g", 0), ("j", 1), ("ctrl+d", 2), ("ctrl+u", 0)):
            await term.press(key)
            await term.until(lambda row=row: listed.highlighted == row)
        await term.press("slash", "m", "escape")
        await term.until(lambda: term.app.screen.query_one(Input).value == "m")
        await term.until(lambda: listed.has_focus and len(rows(term)) == 2)
        term.app.screen.query_one(Input).value = ""
        await choose(term, "largest")
        assert "Oceans [/]" in rows(term)[0]
        await term.sees("Oceans [/]")


async def test_a_chat_is_resumed_with_its_turns_its_history_and_its_questions(
    stocked: House,
) -> None:
    async with at_chats(stocked) as term:
        await choose(term, "Primes")
        await term.press("enter")
        await term.at(ChatScreen)
        await term.until(lambda: len(term.turns) == 2 and term.source(1) == "Answer 3.")
        assert re.search(r"chat answers +25\.0 +0\.00694 +2\n", term.panel)
        await term.press("up")
        await term.until(lambda: term.prompt.text == "Question 3?")
        await term.answer("And now?")
        query, _route = stocked.runner.asked[0]
        assert query.chat_id == "chat-b"
        assert query.history[-1] == Message("assistant", "Answer 3.")
        await open_list(term, 3)
        await choose(term, "Primes")
        await term.press("d")
        await term.at(ConfirmModal)
        await term.press("y")
        await term.until(lambda: "chat-b" not in stocked.chats.kept)
        await term.at(ChatsScreen)
        await term.press("escape")
        await term.at(ChatScreen)
        await term.until(lambda: term.turns == [])
        assert term.app._chat.queue.conversation.chat.chat_id != "chat-b", "it gave way"


async def test_a_chat_is_renamed_and_deleted_only_after_a_yes(stocked: House) -> None:
    async with at_chats(stocked) as term:
        await choose(term, "Primes")
        await term.press("r")
        await term.at(TextModal)
        area = term.app.screen.query_one(TextArea)
        await term.until(lambda: area.has_focus and area.selected_text == "Primes")
        await term.press(*"All", "space", *"Primes", "enter")
        await term.until(lambda: stocked.chats.kept["chat-b"][0].name == "All Primes")
        await term.at(ChatsScreen)
        await term.until(lambda: rows(term) and "  All Primes" in rows(term)[0])
        for answer in ("enter", "y"):
            assert "chat-b" in stocked.chats.kept
            await term.press("d")
            await term.at(ConfirmModal)
            await term.press(answer)
            await term.at(ChatsScreen)
        await term.until(lambda: "chat-b" not in stocked.chats.kept)


async def test_a_chat_is_exported(stocked: House) -> None:
    folder = stocked.config.home / "exports"
    async with at_chats(stocked) as term:
        await choose(term, "Primes")
        for key, ending in (("e", "md"), ("E", "json")):
            await term.press(key)
            await term.told(str(folder / f"primes-b.{ending}"))
        if os.name == "posix":
            assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        text = (folder / "primes-b.md").read_text(encoding="utf-8")
        assert text.startswith("# Primes\n")
        assert "12.5 ± 0.5 J (counter)" in text
        document = json.loads((folder / "primes-b.json").read_text(encoding="utf-8"))
        assert [turn["query"] for turn in document["turns"]] == ["Question 2?", "Question 3?"]
        assert len(list(folder.iterdir())) == 2
        shutil.rmtree(folder)
        folder.write_text("in the way")
        await term.press("e")
        await term.told("cannot write")
        assert term.app.is_running


async def test_a_log_that_cannot_be_read_is_a_notice_and_the_chat_goes_on(stocked: House) -> None:
    stocked.chats.error = LogUnavailable("the log is locked by [another]", "close it")
    async with running(stocked) as term:
        await term.until(lambda: "locked by [another]" in term.panel)
        await term.press("ctrl+o")
        await term.told("close it")
        await term.press("escape")
        await term.answer("Still there?")


async def test_the_system_prompt_of_a_chat_goes_with_its_questions(house: House) -> None:
    async with running(house) as term:
        await term.press("f9")
        await term.at(TextModal)
        term.app.screen.query_one(TextArea).text = "Answer in Latin."
        await term.press("ctrl+s")
        await term.at(ChatScreen)
        await term.answer("Who are you?")
        assert house.runner.asked[0][0].system == "Answer in Latin."
        assert house.chats.kept == {}, "the log makes the chat with its first turn"
        await term.press("f9")
        await term.at(TextModal)
        term.app.screen.query_one(TextArea).text = "In Greek."
        await term.press("ctrl+s")
        chat_id = house.runner.asked[0][0].chat_id
        assert chat_id is not None
        await term.until(lambda: chat_id in house.chats.kept)
        kept, _turns = house.chats.kept[chat_id]
        assert (kept.system, kept.name) == ("In Greek.", "Who are you?")


async def test_a_chat_cannot_be_left_while_an_answer_comes(stocked: House) -> None:
    stocked.runner.hold = True
    async with running(stocked) as term:
        await term.streams()
        await open_list(term, 3)
        await term.press("enter")
        await term.told("stop it with Esc first")
        assert len(term.turns) == 1


def forked() -> list[TurnRecord]:
    """First?, and then Second? with Third?, or Other?."""
    first = turn_record(0, query="First?")
    second = turn_record(1, query="Second?", parent_id=first.turn_id)
    third = turn_record(2, query="Third?", parent_id=second.turn_id)
    return [first, second, third, turn_record(3, query="Other?", parent_id=first.turn_id)]


async def test_a_chat_unfolds_to_its_branches_and_is_resumed_at_one(stocked: House) -> None:
    stocked.chats.keep("Forked", forked(), "chat-d")
    async with at_chats(stocked, count=4) as term:
        assert rows(term)[0].endswith("Forked  ▸ 2 branches")
        await term.press("right")
        await term.until(lambda: len(rows(term)) == 6)
        assert rows(term)[1:3] == ["  ├ ○ Second? · 3 turns", "  └ ● Other? · 2 turns"]
        await term.press("left")
        await term.until(lambda: len(rows(term)) == 4)
        await term.press("l")
        await term.until(lambda: len(rows(term)) == 6)
        await term.press("j", "enter")
        await term.at(ChatScreen)
        await term.until(lambda: len(term.turns) == 3)
        asked = [t.record.query for t in term.turns if t.record]
        assert asked == ["First?", "Second?", "Third?"]
        await term.until(lambda: stocked.chats.kept["chat-d"][0].head == "turn-of-log-2")


async def test_the_smallest_model_names_a_chat_and_its_joules_are_shown(stocked: House) -> None:
    async with at_chats(stocked) as term:
        await term.press("t")
        await term.told("a title by a model costs joules, so it is off")
        assert stocked.runner.asked == []
    stocked.config = replace(stocked.config, name_chats=True)
    async with at_chats(stocked) as term:
        await term.press("t")
        await term.told("the chat has no turn yet")
        stocked.runner.pieces = ('"', '"')
        await term.press("j", "t")
        await term.told("found no title")
        stocked.runner.smallest = None
        await term.press("t")
        await term.told("no model is on this machine")
        assert stocked.chats.kept["chat-b"][0].name == "Primes"
        stocked.runner.smallest = "smollm2-135m"
        stocked.runner.pieces = ('"Title: ', "Large ", 'oceans."')
        await term.press("G", "t")
        await term.until(lambda: stocked.chats.kept["chat-a"][0].name == "Large oceans")
        await term.told("Large oceans · named by smollm2-135m for ")
        assert " J" in notices(term.app)
        query, route = stocked.runner.asked[-1]
        assert "The largest?" in query.text
        assert (query.chat_id, route.model) == (None, "smollm2-135m")
        named = stocked.chats.kept["chat-a"][1][0].chat_id
        assert stocked.runner.saved[-1].settings[NAMES] == named
        assert query.options.stop == ("\n",)


async def test_a_small_terminal_lists_chats_with_their_names(stocked: House) -> None:
    async with at_chats(stocked, (40, 10)) as term:
        await term.sees("25.0 J  Primes", "Oceans", "Empty")


@given(st.integers(0, 4), st.lists(st.integers(-1, 8), max_size=8))
def test_every_branch_has_one_row_and_one_is_current(roots: int, parents: list[int]) -> None:
    records = [
        turn_record(n, parent_id=f"turn-of-log-{parent}" if 0 <= parent < n else None)
        for n, parent in enumerate([-1] * roots + parents)
    ]
    leaves = tree_of(records).leaves()
    found = branch_rows(records, None)
    assert {leaf for leaf, _ in found} == (set(leaves) if len(leaves) > 1 else set())
    if found:
        rows = [row for _, row in found]
        assert sum("●" in row for row in rows) == 1
        assert [row.startswith("  └ ") for row in rows] == [False] * (len(rows) - 1) + [True]
        assert all(row.startswith("  ├ ") for row in rows[:-1])
