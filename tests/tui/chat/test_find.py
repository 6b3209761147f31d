"""Finding words in a chat, and moving through it by the keys of a pager."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from etui.tui.chat._find import FindBar, choose_match, find_spans, find_turns
from etui.tui.chat._transcript import Transcript
from etui.tui.chat._turn_view import TurnView
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, turn_record, until
from tests.tui.screen import Terminal, running, turns

SIZE = (80, 24)
RECORDS = [
    turn_record(n, answer=f"Answer {n}." + (" A Needle is here." if n in (3, 30) else ""))
    for n in range(60)
]


def test_turns_are_found_in_question_thinking_and_answer_in_any_case() -> None:
    records = [
        turn_record(0, query="a NEEDLE"), turn_record(1),
        turn_record(2, thinking="needles"), turn_record(3, answer="Needle"),
    ]  # fmt: skip
    assert find_turns(records, "needle") == [0, 2, 3]
    assert find_turns(records, "") == []


@pytest.mark.parametrize(
    ("current", "step", "chosen"),
    [(5, 0, 7), (7, 0, 7), (7, 1, 9), (9, 1, 2), (2, -1, 9), (7, -1, 2), (8, -1, 7)],
)
def test_matches_go_round(current: int, step: int, chosen: int) -> None:
    assert choose_match([2, 7, 9], current, step) == chosen
    assert choose_match([], current, step) is None


@given(st.text(max_size=30), st.text(max_size=4))
def test_spans_hold_the_words(text: str, words: str) -> None:
    spans = find_spans(text, words)
    assert all(text[start:end].casefold() == words.casefold() for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


async def long_chat(pilot: Pilot[Any], app: EtuiApp) -> Transcript:
    transcript = app.screen.query_one(Transcript)
    await until(pilot, lambda: app.backend is not None)
    await transcript.show(RECORDS)
    await until(pilot, lambda: len(turns(app)) == 20)
    await pilot.press("shift+tab")
    await until(pilot, lambda: isinstance(app.focused, TurnView))
    return transcript


def focused_turn(app: EtuiApp) -> str | None:
    view = app.focused
    return view.record.turn_id if isinstance(view, TurnView) and view.record else None


async def test_words_are_found_in_turns_that_are_not_mounted(house: House) -> None:
    async with running(house, SIZE) as term:
        await long_chat(term.pilot, term.app)
        await term.press("/")
        await term.until(lambda: isinstance(term.app.focused, Input))
        await term.press(*"needle", "enter")
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-3")
        await term.sees("Needle")
        assert "answer 1 of 2" in term.drawn
        await term.press("n")
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-30")
        await term.sees("answer 2 of 2")
        await term.press("N")
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-3")
        await term.press("/", "escape")
        await term.until(lambda: not term.app.screen.query_one(FindBar).display)
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-3")
        assert marked(term) == []


def marked(term: Terminal) -> list[str]:
    """The texts on the screen that are drawn as found."""
    theme = term.app.theme_variables
    found = []
    for strip in term.app.screen._compositor.render_strips():
        for segment in strip:
            style = segment.style
            is_current = style is not None and style.bgcolor is not None and (
                style.bgcolor.triplet is not None
                and style.bgcolor.triplet.hex.upper() == theme["accent"].upper()
            )  # fmt: skip
            if is_current or (style is not None and style.reverse):
                found.append(segment.text)
    return [text for text in found if text.strip().casefold() == "needle"]


LONG = "\n\n".join(
    f"Paragraph {n} says something." + (" A **needle** is here." if n in (2, 60) else "")
    for n in range(80)
)


async def test_ctrl_f_finds_from_the_prompt_each_place_of_a_long_answer_and_esc_ends_it(
    house: House,
) -> None:
    async with running(house, SIZE) as term:
        transcript = await long_chat(term.pilot, term.app)
        records = [*RECORDS[4:29], turn_record(70, answer=LONG), *RECORDS[40:]]
        await transcript.show(records)
        await term.press("escape", "ctrl+f")
        await term.until(lambda: isinstance(term.app.focused, Input))
        await term.press(*"a needle")
        await term.sees("in 1 answer · Enter: the first, n next")
        await term.press(*" is", "enter")
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-70")
        await term.sees("Paragraph 2 says")
        await term.sees("answer 1 of 1 · place 1 of 2")
        await term.press("enter")
        await term.sees("Paragraph 60 says", "place 2 of 2")
        await term.press("ctrl+f", *"needle", "enter")
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-70")
        await term.press("N")
        await term.sees("Paragraph 60 says", "place 2 of 2")
        await term.until(lambda: marked(term))
        await term.press("escape")
        await term.until(lambda: not term.app.screen.query_one(FindBar).display)
        assert focused_turn(term.app) == "turn-of-log-70"
        await term.until(lambda: not marked(term))
        assert not transcript.check_action("found", (1,))


async def test_a_search_is_gone_with_the_screen_and_with_the_chat(house: House) -> None:
    async with running(house, SIZE) as term:
        await long_chat(term.pilot, term.app)
        bar = term.app.screen.query_one(FindBar)
        await term.press("ctrl+f", *"needle", "enter")
        await term.until(lambda: marked(term))
        await term.press("f3")
        await term.until(lambda: not bar.display)
        await term.press("f2")
        await term.until(lambda: term.app.focused is term.prompt)
        assert marked(term) == []
        await term.press("ctrl+f", *"needle", "enter")
        await term.until(lambda: bar.display)
        await term.press("ctrl+n")
        await term.until(lambda: not bar.display)


async def test_words_of_another_branch_are_found_there(house: House) -> None:
    first = turn_record(1)
    old = turn_record(2, answer="An old needle.", parent_id=first.turn_id)
    new = turn_record(3, answer="A new answer.", parent_id=first.turn_id)
    house.chats.keep("Branches", [first, old, new])
    async with running(house, SIZE) as term:
        await term.app._chat.resume(house.chats.kept["chat-1"][0])
        await term.sees("A new answer.")
        await term.press("ctrl+f", *"needle", "enter")
        await term.sees("An old needle.")
        await term.until(lambda: marked(term))
        await term.told("another branch")
        await term.press("escape", "escape", "ctrl+f", *"answer", "enter")
        await term.sees("1 on other branches")


async def test_a_jump_waits_for_the_one_before_it(house: House) -> None:
    async with running(house, SIZE) as term:
        transcript = await long_chat(term.pilot, term.app)
        transcript._moving = True
        await transcript.show_turn("turn-of-log-3")
        transcript._moving = False
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-3")


async def test_what_is_nowhere_is_not_found(house: House) -> None:
    async with running(house, SIZE) as term:
        await long_chat(term.pilot, term.app)
        await term.press("/")
        await term.until(lambda: isinstance(term.app.focused, Input))
        await term.press(*"xyzzy", "enter")
        await term.sees("not found")


async def test_keys_of_a_pager_move_through_the_chat(house: House) -> None:
    async with running(house, SIZE) as term:
        transcript = await long_chat(term.pilot, term.app)
        await term.until(lambda: transcript.scroll_y == transcript.max_scroll_y > 0)
        bottom = transcript.scroll_y
        await term.press("k")
        await term.until(lambda: transcript.scroll_y == bottom - 1)
        await term.press("j")
        await term.until(lambda: transcript.scroll_y == bottom)
        await term.press("ctrl+u")
        await term.until(lambda: transcript.scroll_y == bottom - transcript.size.height // 2)
        await term.press("g")
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-0")
        await term.press("G")
        await term.until(lambda: focused_turn(term.app) == "turn-of-log-59")
        await term.until(lambda: transcript.scroll_y == transcript.max_scroll_y)
