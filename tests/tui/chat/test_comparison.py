"""Two answers of one question side by side, and prompts made of a question."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.prompts.library import find_prompt
from etui.tui.chat._dialogs import AnswerColumn, ComparisonScreen, ratio_line
from tests.tui.chat.test_branches import open_forked
from tests.tui.fakes import House, turn_record
from tests.tui.screen import Terminal, running


def asked_thrice(house: House) -> None:
    """A chat in the log with three answers of one question, and a question of its own beside."""
    first = turn_record(0, query="First?", answer="Yes.")
    answers = [
        turn_record(at, query="Why?", answer=f"Because {at}.", parent_id=first.turn_id)
        for at in (1, 2, 3)
    ]
    other = turn_record(4, query="Other?", parent_id=first.turn_id)
    failed = turn_record(5, query="Why?", answer="", parent_id=first.turn_id)
    house.chats.keep("Asked thrice", [first, other, failed, *answers])


async def compare(term: Terminal) -> None:
    await open_forked(term.pilot, term.house)
    await term.until(lambda: len(term.turns) == 2 and "< " in term.text(1, "energy"))
    term.turns[1].focus()
    await term.press("s")
    await term.at(ComparisonScreen)
    await term.sees("Because 2.", "Because 3.")


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 50)])
async def test_two_answers_are_shown_beside_each_other_and_one_is_kept(
    house: House, size: tuple[int, int]
) -> None:
    asked_thrice(house)
    async with running(house, size) as term:
        await compare(term)
        left, right = term.app.screen.query(AnswerColumn)
        assert left.region.y == right.region.y
        assert left.region.right <= right.region.x
        assert right.has_focus, "the answer that was selected"
        await term.sees("❯ Why?", "2 of 3", "3 of 3", "right: 1.0× the joules")
        await term.sees("12.5 J ±0.5 · 0.50 s · 25 tok")
        await term.press("left", "less_than_sign")
        await term.sees("Because 1.", "Because 3.")
        await term.press("enter")
        await term.until(
            lambda: [turn.record.answer for turn in term.turns] == ["Yes.", "Because 1."]
        )
        await term.until(lambda: house.chats.kept["chat-1"][0].head == "turn-of-log-1")


async def test_what_is_shown_already_can_be_kept_and_escape_changes_nothing(house: House) -> None:
    asked_thrice(house)
    async with running(house) as term:
        for key in ("enter", "escape"):
            await compare(term)
            await term.press(key)
            await term.until(lambda: not isinstance(term.app.screen, ComparisonScreen))
            assert [turn.record.answer for turn in term.turns] == ["Yes.", "Because 3."]


async def test_one_answer_is_compared_with_none(house: House) -> None:
    async with running(house) as term:
        await term.answer("Who?")
        term.turns[0].focus()
        await term.press("s")
        await term.told("one answer: - or + asks another arm")


def test_costs_of_other_kinds_are_not_compared() -> None:
    one, other = turn_record(1), turn_record(2)
    assert ratio_line(one, other) == "right: 1.0× the joules, 1.0× the seconds"
    unknown = replace(other, energy=replace(other.energy, joules=None))
    assert "joules" not in ratio_line(one, unknown)
    estimate = replace(other, energy=replace(other.energy, kind="estimate"))
    assert "joules" not in ratio_line(one, estimate)


async def test_a_question_is_saved_as_a_prompt_and_asked_again(house: House) -> None:
    async with running(house) as term:
        await term.answer("Write {{language}} well: # no comment")
        term.turns[0].focus()
        await term.press("p")
        await term.sees("Save the question as a prompt", "write-language-well")
        await term.press("enter")
        await term.told("/write-language-well asks it again")
        saved = find_prompt("write-language-well", house.config)
        assert saved.text == "Write {{language}} well: # no comment"
        term.turns[0].focus()
        await term.press("p")
        await term.sees("Save the question")
        await term.press("enter")
        await term.told("there is a prompt 'write-language-well' already")
        term.prompt.focus()
        term.prompt.text = "/write-language-well Zig"
        await term.press("enter")
        await term.answered(2)
        assert house.runner.asked[1][0].text == "Write Zig well: # no comment"
