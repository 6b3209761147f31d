"""Branches of a chat: going back to an earlier answer, going on with one, and what was saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from etui.chat import Message
from etui.runtime.routes import Route
from etui.tui.chat._transcript import Transcript
from etui.tui.chat.progress import answer_parts, build_notes, format_parts
from etui.tui.chat.screen import ChatScreen
from etui.tui.start import EtuiApp
from etui.turn.record import CONTINUES, REPLACES, TurnRecord
from tests.tui.fakes import House, turn_record, until
from tests.tui.screen import running, turns

THINK = Route("balanced", arm="think")


def chat(app: EtuiApp) -> ChatScreen:
    assert isinstance(app.screen, ChatScreen)
    return app.screen


def questions(app: EtuiApp) -> list[str]:
    return [turn.record.query for turn in turns(app) if turn.record is not None]


def forked(house: House) -> None:
    """A chat in the log: First?, then Second? or Other?, with Third? after Second?."""
    first = turn_record(0, query="First?")
    second = turn_record(1, query="Second?", parent_id=first.turn_id)
    third = turn_record(2, query="Third?", parent_id=second.turn_id)
    other = turn_record(3, query="Other?", parent_id=first.turn_id)
    house.chats.keep("Forked", [first, second, third, other])


async def open_forked(pilot, house: House) -> None:
    app = pilot.app
    await until(pilot, lambda: app.backend is not None)
    record = house.chats.kept["chat-1"][0]
    await chat(app).resume(record)
    await until(pilot, lambda: len(turns(app)) >= 2)


async def test_a_resumed_chat_shows_one_branch_and_leads_to_the_other(house: House) -> None:
    forked(house)
    async with running(house) as term:
        await open_forked(term.pilot, house)
        await term.until(lambda: questions(term.app) == ["First?", "Other?"])
        await term.until(lambda: "< 2/2 >" in term.text(1, "energy"))
        assert "<" not in term.text(0, "energy")
        term.turns[1].focus()
        await term.press("less_than_sign")
        await term.until(lambda: questions(term.app) == ["First?", "Second?", "Third?"])
        await term.until(lambda: term.app.focused is term.turns[1])
        await term.until(lambda: house.chats.kept["chat-1"][0].head == "turn-of-log-1")
        await term.press("less_than_sign")
        await term.told("no branch before")
        await term.press("greater_than_sign")
        await term.until(lambda: questions(term.app) == ["First?", "Other?"])
        await term.until(lambda: house.chats.kept["chat-1"][0].head is None)


async def test_steps_between_branches_follow_one_another(house: House, monkeypatch) -> None:
    forked(house)
    async with running(house) as term:
        await open_forked(term.pilot, house)
        transcript = chat(term.app).query_one(Transcript)
        show, at_once, most = transcript.show, 0, 0

        async def count(records: Sequence[TurnRecord]) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await show(records)
            at_once -= 1

        monkeypatch.setattr(transcript, "show", count)
        view = term.turns[1]
        view.action_request("before")
        view.action_request("before")
        await term.until(lambda: questions(term.app) == ["First?", "Second?", "Third?"])
        await term.until(lambda: at_once == 0)
        assert most == 1


async def test_the_context_meter_shows_the_branch_that_is_shown(house: House) -> None:
    def turn(n: int, prompt: int, parent: str | None) -> TurnRecord:
        tokens = replace(turn_record(n).tokens, prompt=prompt, output=10, thinking=0)
        return turn_record(n, query=f"Question {n}?", parent_id=parent, tokens=tokens)

    house.shelf.on_offer = tuple(
        replace(model, context_tokens=8192) for model in house.shelf.on_offer
    )
    first = turn(0, 100, None)
    house.chats.keep("Forked", [first, turn(1, 2090, first.turn_id), turn(2, 190, first.turn_id)])
    async with running(house) as term:
        await open_forked(term.pilot, house)
        await term.sees("context 2.4 %")
        term.turns[1].focus()
        await term.press("less_than_sign")
        await term.sees("context 26 %")
        await term.press("greater_than_sign")
        await term.sees("context 2.4 %")


async def test_a_turn_of_another_branch_is_opened_on_its_branch(house: House) -> None:
    forked(house)
    async with running(house) as term:
        await open_forked(term.pilot, house)
        chat(term.app).open_chat(house.chats.kept["chat-1"][0], "turn-of-log-1")
        await term.until(lambda: questions(term.app) == ["First?", "Second?", "Third?"])
        chat(term.app).call_later(chat(term.app).action_branch, 1)
        await term.until(lambda: questions(term.app) == ["First?", "Other?"])
        await term.until(lambda: term.app.focused is term.turns[1])
        chat(term.app).call_later(chat(term.app).action_branch, 1)
        await term.told("no branch after")


async def test_the_next_question_follows_the_branch_that_is_shown(house: House) -> None:
    forked(house)
    async with running(house) as term:
        await open_forked(term.pilot, house)
        await term.until(lambda: len(term.turns) == 2 and term.turns[1].is_mounted)
        await term.until(lambda: "<" in term.text(1, "energy"))
        term.turns[1].focus()
        await term.press("less_than_sign")
        await term.until(lambda: len(questions(term.app)) == 3)
        term.prompt.focus()
        await term.ask("Fourth?")
        await term.until(lambda: len(house.runner.saved) == 1)
        query = house.runner.asked[0][0]
        asked = [m.content for m in query.history if m.role == "user"]
        assert asked == ["First?", "Second?", "Third?"]
        assert query.parent_id == "turn-of-log-2"
        await term.until(lambda: house.chats.kept["chat-1"][0].head is None)
        assert chat(term.app).queue.conversation.current[-1].query == "Fourth?"


async def test_a_re_asked_turn_is_a_branch_at_once(house: House) -> None:
    house.runner.other = THINK
    async with running(house) as term:
        await term.answer("First?")
        await term.press("shift+tab", "plus")
        await term.answered(2)
        await term.until(lambda: "< 2/2 >" in term.text(1, "energy"))
        await term.until(lambda: " before" in term.text(1, "energy"))
        term.turns[1].focus()
        await term.press("less_than_sign")
        await term.until(lambda: len(term.turns) == 1)
        assert term.turns[0].record is not None
        assert term.turns[0].record.arm == "quick"


async def test_an_answer_that_was_stopped_goes_on_as_one(house: House) -> None:
    house.runner.hold = True
    async with running(house) as term:
        await term.ask("Capital?")
        await term.until(lambda: term.turns and "Paris" in term.source(0))
        await term.press("escape")
        await term.answered(1)
        await term.until(lambda: not chat(term.app).queue.busy)
        house.runner.hold, house.runner.pieces = False, (" It lies ", "on the Seine.")
        await term.press("shift+tab", "m")
        await term.until(lambda: len(house.runner.saved) == 2)
        query, route = house.runner.asked[1]
        first, second = house.runner.saved
        assert query.last == Message("assistant", first.answer)
        assert query.options.continues == first.turn_id
        assert route == Route("balanced", arm="quick")
        await term.until(lambda: len(term.turns) == 1 and not chat(term.app).queue.busy)
        assert term.source(0) == f"{first.answer} It lies on the Seine."
        assert second.settings[CONTINUES] == first.turn_id
        await term.until(lambda: " · continued (whole: " in term.text(0, "energy"))
        history = (
            chat(term.app).queue.conversation.query(term.turns[0].asking.__class__("Next?")).history
        )
        assert [m.content for m in history] == ["Capital?", second.answer]


async def test_a_whole_answer_does_not_go_on(house: House) -> None:
    async with running(house) as term:
        await term.answer("Capital?")
        await term.press("shift+tab", "m")
        await term.told("the answer is complete")
        assert len(house.runner.asked) == 1


def test_the_parts_of_an_answer_add_up_and_a_circle_ends() -> None:
    first = turn_record(0)
    second = turn_record(1, settings={CONTINUES: first.turn_id})
    third = turn_record(2, settings={CONTINUES: second.turn_id})
    by_id = {record.turn_id: record for record in (first, second, third)}
    assert answer_parts(third, by_id) == (first, second, third)
    assert format_parts([first, second]) == "continued (whole: 25.0 J, 50 tok)"
    assert format_parts([first]) == ""
    again = replace(second, query=first.query, settings={REPLACES: first.turn_id})
    assert list(build_notes([first, second])) == [second.turn_id]
    assert build_notes([first, again])[again.turn_id].endswith("12.5 J before")
    assert build_notes([first, replace(again, query="Edited?")]) == {}
    unmeasured = replace(first, energy=replace(first.energy, joules=None))
    assert format_parts([unmeasured, second]) == "continued (whole: unmeasured, 50 tok)"
    loop = turn_record(0, settings={CONTINUES: third.turn_id})
    assert answer_parts(loop, {**by_id, loop.turn_id: loop})[-1] is loop
