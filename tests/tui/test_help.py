"""F1: one page with the keys that work on this screen, and the words on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.containers import VerticalScroll

from etui.tui.help import WORDS, HelpScreen, format_pairs, list_key_groups
from tests.tui.fakes import House
from tests.tui.screen import Terminal, running


def groups(term: Terminal) -> dict[str, dict[str, str]]:
    """Title -> what each key does -> the key."""
    found = list_key_groups(term.app.screen)
    return {title: {text: key for key, text in keys} for title, keys in found}


async def test_f1_shows_keys_and_energy_words_on_one_page_over_the_chat(house: House) -> None:
    async with running(house, (120, 40)) as term:
        before = term.app.screen.query_one("Transcript").size
        await term.press("f1")
        await term.at(HelpScreen)
        await term.sees("Send", "Everywhere", "Words", *(word for word, _ in WORDS))
        assert term.app.screen.query_one("#help-page", VerticalScroll).max_scroll_y == 0
        assert term.app.screen_stack[0].query_one("Transcript").size == before
        await term.press("f1")
        await term.until(lambda: not isinstance(term.app.screen, HelpScreen))


async def test_the_keys_are_those_that_work_now_as_they_are_bound(house: House) -> None:
    house.config = replace(house.config, keymap={"chat.new": "ctrl+b"})
    async with running(house) as term:
        said = " ".join(text for keys in groups(term).values() for text in keys)
        assert "Delete word" not in said, "those of text fields are left out"
        assert groups(term)["Chat"]["New"] == "^b"
        assert groups(term)["Chat"]["Select an answer, last first"] == "⇧tab"
        assert "Answer (click or tab to it first)" not in groups(term)
        await term.answer("one")
        assert groups(term)["Answer (click or tab to it first)"]["Copy"] == "c"
        await term.press("shift+tab")
        await term.until(lambda: "Answer" in groups(term))
        await term.press("ctrl+o")
        await term.until(lambda: "Chats" in groups(term))
        assert groups(term)["Selected chat"]["Rename"] == "r"
        assert "Search" in groups(term)["Chats"]
        assert "Help" in groups(term)["Everywhere"]
        assert "History" not in groups(term)["Everywhere"], "F3 does not work over a window"


async def test_the_page_scrolls_in_the_smallest_terminal(house: House) -> None:
    async with running(house, (40, 10)) as term:
        await term.press("f1")
        await term.at(HelpScreen)
        await term.sees("Question")
        assert "unmeasured" not in term.drawn
        await term.press("G")
        await term.sees("unmeasured")
        await term.press("g")
        await term.sees("Question")
        await term.press("q")
        await term.until(lambda: not isinstance(term.app.screen, HelpScreen))


@pytest.mark.parametrize("pairs", [[], [("a", "b")], [("≈", "x"), ("J/tok", "y")]])
def test_meanings_stand_in_one_column(pairs: list[tuple[str, str]]) -> None:
    lines = format_pairs(pairs).split("\n") if pairs else []
    starts = {line.index(meaning) for line, (_word, meaning) in zip(lines, pairs, strict=True)}
    assert len(starts) <= 1
