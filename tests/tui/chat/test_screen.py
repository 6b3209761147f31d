"""The chat on a fake backend: streaming, stopping, waiting, and what is said when it fails."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
from textual.binding import Binding
from textual.widgets import Collapsible, Markdown, Static

from etui.chat import Message
from etui.errors import EngineFailed, ModelUnavailable
from etui.runtime.routes import Route
from etui.tui.chat._markdown import AnswerMarkdown
from etui.tui.chat._prompt import Prompt
from etui.tui.chat._transcript import MOST_TURNS, Transcript
from etui.tui.chat._turn_view import TurnView
from etui.tui.chat.screen import ChatScreen
from etui.tui.services import ListedModel
from tests.tui.fakes import MODEL, House, until
from tests.tui.screen import WIDE, answered, ask, running


async def test_an_answer_streams_and_ends_with_its_price(house: House) -> None:
    house.runner.hold = True
    async with running(house) as term:
        await term.streams("What is the capital of France?")
        assert house.runner.saved == []
        await term.until(lambda: " J/tok" in term.text(0, "status"))
        assert re.fullmatch(
            r"answering … \d+ tok · [\d.]+ J · [\d.]+ J/tok", term.text(0, "status")
        )
        assert "esc stop" in term.drawn
        house.runner.let_go.set()
        await term.answered(1)
        assert term.source(0) == "Paris is the **capital** of France."
        assert term.text(0, "question") == "❯ What is the capital of France?"
        assert term.text(0, "why") == term.text(0, "status") == ""
        price = r"[\d.]+ J( ±[\d.]+)? · [\d.,]+k? tok/s · [\d.]+ m?s · 6 tok"
        await term.until(lambda: re.fullmatch(price, term.text(0, "energy")))


async def test_the_streamed_answer_equals_a_parsed_one(house: House) -> None:
    answer = (
        "# Title\n\n| a | b |\n|---|---|\n| [x] | 2 |\n\n```python\nx = 1\n```\n\n[x]: http://a.b\n"
    )
    house.runner.pieces = tuple(answer[i : i + 5] for i in range(0, len(answer), 5))
    async with running(house) as term:
        await term.answer("Show a table")
        streamed = term.turns[0].query_one(Markdown)
        parsed = AnswerMarkdown()
        await term.app.screen.query_one(Transcript).mount(parsed)
        await parsed.update(answer)

        def tree(widget: Markdown) -> list[str]:
            return [type(node).__name__ for node in widget.walk_children()]

        await term.until(lambda: tree(parsed) == tree(streamed))


async def test_escape_stops_and_keeps_text_and_joules(house: House) -> None:
    house.runner.hold = True
    async with running(house) as term:
        await term.streams()
        await term.press("escape")
        await term.answered(1)
        record = house.runner.saved[0]
        assert record.status == "stopped"
        assert record.energy.joules is not None
        assert record.energy.joules > 0
        assert "Paris" in term.source(0)
        assert " · ■ stopped · " in term.text(0, "energy")
        await term.sees("m continue")


async def test_a_question_asked_meanwhile_waits_and_then_knows_the_first_answer(
    house: House,
) -> None:
    house.runner.hold = True
    async with running(house) as term:
        await term.streams("First?")
        await term.ask("Second?")
        await term.until(lambda: len(term.turns) == 2)
        assert term.text(1, "question").startswith("❯ queued (1st): ")
        assert len(house.runner.asked) == 1
        house.runner.let_go.set()
        await term.answered(2)
        assert term.text(0, "status") == ""
        second, _route = house.runner.asked[1]
        assert second.history == (
            Message("user", "First?"),
            Message("assistant", "Paris is the **capital** of France."),
        )
        assert second.chat_id == house.runner.asked[0][0].chat_id


async def test_the_thought_is_kept_apart_and_folds_when_the_answer_begins(house: House) -> None:
    house.runner.thoughts = ("France ", "has ", "one ", "capital.")
    async with running(house) as term:
        await term.answer("What is the capital of France?")
        thought = term.turns[0].query_one(Collapsible)
        assert thought.display
        assert thought.collapsed
        assert "thinking · 4 tokens" in str(thought.title)
        assert " J, " in str(thought.title)
        assert term.text(0, "thought-text") == "France has one capital."
        assert "one capital" not in term.source(0)
        await term.press("ctrl+t")
        await term.until(lambda: not thought.collapsed)


@pytest.mark.parametrize(
    ("nasty", "legible"),
    [
        ("[bold red]loud[/]", "[bold red]loud[/]"),
        ("\x1b[31mred\x1b[0m\x07", "␛[31mred␛[0m␇"),
        ("<b>html</b>", "<b>html</b>"),
        ("a\x9bm\u202eb", "a�m�b"),
        ("[/nothing]", "[/nothing]"),
    ],
)
async def test_markup_and_control_characters_are_text(
    house: House, nasty: str, legible: str
) -> None:
    house.runner.pieces = house.runner.thoughts = (nasty,)
    async with running(house) as term:
        await term.answer(nasty)
        await term.press("ctrl+t")
        # In the title, the question, the thought and the answer.
        await term.until(lambda: term.drawn.count(legible) == 4)
        assert not any(c in term.drawn for c in "\x1b\x07\x9b\u202e")


async def test_an_error_is_a_notice_with_its_fix_and_the_chat_goes_on(house: House) -> None:
    house.runner.error = EngineFailed("the engine died: [/oops]", "ask again; it starts anew")
    async with running(house) as term:
        await term.until(lambda: "98.4 MB" in term.panel)
        await term.ask("Anyone?")
        await term.until(lambda: term.turns and term.text(0, "error"))
        assert term.text(0, "error") == "✗ the engine died: [/oops]\n→ ask again; it starts anew"
        assert "IN MEMORY  none" in term.panel
        await term.told("ask again; it starts anew")
        house.runner.error = ZeroDivisionError("by zero")  # type: ignore[assignment]
        for _ in range(3):
            await term.ask("Anyone?")
            await term.until(lambda: term.turns[-1].ended)
        await term.told("internal error: ZeroDivisionError: by zero")
        assert len(term.turns) <= 2, "what never reached the log does not pile up"
        house.runner.error = None
        await term.answer("And now?")


async def test_a_model_that_cannot_be_loaded_ahead_is_said(house: House) -> None:
    house.runner.load_error = ModelUnavailable("smollm2-135m is damaged", "pull it again")
    async with running(house) as term:
        await term.told("pull it again")
        assert "IN MEMORY  none" in term.panel


async def test_a_question_typed_before_the_model_is_there_is_answered_after(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Quick as I am?")
        await answered(pilot, house, 1)
        assert house.runner.warmed == [Route("balanced")]


async def test_only_the_last_turns_stay_on_the_screen(house: House) -> None:
    house.runner.pieces = ("Yes.",)
    async with running(house) as term:
        for number in range(MOST_TURNS + 2):
            await term.ask(f"Question {number}?")
        await term.answered(MOST_TURNS + 2)
        await term.answer("One more?")
        assert len(term.turns) <= MOST_TURNS
        earlier = term.app.screen.query_one(".earlier", Static)
        assert "3 earlier turns" in str(earlier.content)
        last, _route = house.runner.asked[-1]
        assert len(last.history) == 2 * (MOST_TURNS + 2), "the model still knows them all"


async def test_a_model_named_like_markup_is_shown_as_it_is_called(house: House) -> None:
    nasty = ListedModel("[red]x[/nope]", "found file, 1 MB [/]", True)
    house.shelf.on_offer = (*house.shelf.on_offer, nasty)
    async with running(house) as term:
        await term.press("ctrl+p")
        await term.sees("answer: copy")
        await term.press("left_square_bracket", *"red")
        await term.sees("model: [red]x[/nope]", "found file, 1 MB [/]")
        await term.until(lambda: "policy:" not in term.drawn)
        await term.press("down", "enter")
        await term.until(lambda: "[red]x[/nope] (pinned)" in term.panel)


def test_every_key_of_the_chat_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "chat.md").read_text(encoding="utf-8")
    for owner in (ChatScreen, Prompt, TurnView):
        for binding in owner.BINDINGS:
            assert isinstance(binding, Binding)
            assert f"`{binding.id}`" in text or binding.id in ("turn.up", "turn.down")


async def test_a_short_chat_begins_at_the_top_and_a_long_answer_is_followed(house: House) -> None:
    async with running(house) as term:
        transcript = term.app.screen.query_one(Transcript)
        await term.answer("Short?")
        await term.until(lambda: term.turns[0].region.y == 2)  # below the title
        house.runner.pieces = ("A line.\n\n",) * 60
        await term.answer("Long?")
        await term.until(lambda: transcript.max_scroll_y > 0)
        await term.until(lambda: transcript.scroll_y == transcript.max_scroll_y)
        await term.until(lambda: term.turns[-1].ended)
        await term.press("ctrl+n")
        await term.until(lambda: transcript.scroll_y == 0 and not term.turns)


async def test_a_look_up_of_the_spending_may_be_cancelled_before_it_starts(
    house: House, recwarn: pytest.WarningsRecorder
) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: house.runner.warmed)
        assert isinstance(app.screen, ChatScreen)
        # The second replaces the first in the same turn of the event loop.
        app.screen.take_route(Route("balanced"))
        app.screen.take_route(Route("balanced"))
        await pilot.pause()
    gc.collect()
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


async def test_a_model_given_up_between_answers_leaves_the_panel(house: House) -> None:
    async with running(house) as term:
        await term.until(lambda: "98.4 MB" in term.panel)
        house.runner.on_unloaded(MODEL)
        await term.until(lambda: "IN MEMORY  none" in term.panel)
