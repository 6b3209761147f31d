"""F1: one page with the keys that work on this screen, and the energy words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.containers import VerticalScroll

from etui.tui.help import WORDS, HelpScreen, KeyGroup, format_pairs, list_key_groups
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until
from tests.tui.screen import WIDE, answered, ask, drawn


def titles(groups: list[KeyGroup]) -> list[str]:
    return [group.title for group in groups]


def keys_of(groups: list[KeyGroup], title: str) -> dict[str, str]:
    (group,) = (group for group in groups if group.title == title)
    return {description: key for key, description in group.keys}


async def open_help(pilot: object, app: EtuiApp) -> None:
    await pilot.press("f1")  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(app.screen, HelpScreen))  # type: ignore[arg-type]
    await until(pilot, lambda: "Energy words" in drawn(app) or app.size.width < 100)  # type: ignore[arg-type]


async def test_f1_shows_keys_and_energy_words_and_hides_them(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_help(pilot, app)
        page = drawn(app)
        for word, _meaning in WORDS:
            assert word in page
        assert "Send" in page
        assert "Everywhere" in page
        await pilot.press("f1")
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen))


async def test_the_page_is_one_page_and_does_not_squeeze_the_chat(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 40)) as pilot:
        before = app.screen.query_one("Transcript").size
        await open_help(pilot, app)
        assert app.screen.query_one("#help-page", VerticalScroll).max_scroll_y == 0
        assert app.screen_stack[0].query_one("Transcript").size == before


async def test_keys_of_text_fields_are_left_out(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        said = " ".join(d for group in list_key_groups(app.screen) for _key, d in group.keys)
        assert "Delete word" not in said
        assert "Cursor word left" not in said


async def test_keys_of_an_answer_are_listed_once_there_is_one(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        assert "Answer (when selected)" not in titles(list_key_groups(app.screen))
        await ask(pilot, "one")
        await answered(pilot, house, 1)
        assert keys_of(list_key_groups(app.screen), "Answer (when selected)")["Copy answer"] == "c"
        await pilot.press("shift+tab")
        await until(pilot, lambda: "Answer" in titles(list_key_groups(app.screen)))


async def test_rebound_keys_are_shown_as_they_are(house: House) -> None:
    house.config = replace(house.config, keymap={"chat.new": "ctrl+b"})
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        assert keys_of(list_key_groups(app.screen), "Chat")["New"] == "^b"


async def test_the_page_scrolls_in_the_smallest_terminal(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(40, 10)) as pilot:
        await open_help(pilot, app)
        assert "unmeasured" not in drawn(app)
        await pilot.press("G")
        await until(pilot, lambda: "unmeasured" in drawn(app))
        await pilot.press("g")
        await until(pilot, lambda: "Question" in drawn(app))
        await pilot.press("q")
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen))


async def test_the_keys_of_a_window_are_shown_over_it(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "Chats" in titles(list_key_groups(app.screen)))
        groups = list_key_groups(app.screen)
        assert "Rename" in keys_of(groups, "Chats")
        assert "Help" in keys_of(groups, "Everywhere")
        assert "History" not in keys_of(groups, "Everywhere"), "F3 does not work over a window"


@pytest.mark.parametrize("pairs", [[], [("a", "b")], [("≈", "x"), ("J/tok", "y")]])
def test_meanings_stand_in_one_column(pairs: list[tuple[str, str]]) -> None:
    lines = format_pairs(pairs).split("\n") if pairs else []
    starts = {line.index(meaning) for line, (_word, meaning) in zip(lines, pairs, strict=True)}
    assert len(starts) <= 1
