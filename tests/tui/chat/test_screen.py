"""The chat on a fake backend: streaming, stopping, waiting, and what is said when it fails."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
from textual.binding import Binding
from textual.widgets import Markdown, Static

from etui.chat import Message
from etui.errors import EngineFailed, ModelUnavailable
from etui.runtime.routes import Route
from etui.tui.chat._markdown import AnswerMarkdown
from etui.tui.chat._prompt import Prompt
from etui.tui.chat._transcript import MOST_TURNS, Transcript
from etui.tui.chat._turn_view import TurnView
from etui.tui.chat.screen import ChatScreen
from etui.tui.services import ListedModel
from tests.tui.fakes import House, until
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


async def test_an_answer_streams_and_ends_with_its_price(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        await answered(pilot, house, 1)
        turn = turns(app)[0]
        assert source_of(turn) == "Paris is the **capital** of France."
        assert text_of(turn, "question") == "❯ What is the capital of France?"
        assert text_of(turn, "why") == ""
        price = text_of(turn, "energy")
        assert re.fullmatch(r"[\d.]+ J · [\d.]+ J/tok · 6 tok · [\d.,]+ tok/s", price), price
        assert text_of(turn, "status") == ""


async def test_words_appear_before_the_answer_has_ended(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        assert house.runner.saved == []
        await until(pilot, lambda: text_of(turns(app)[0], "status").startswith("answering … "))
        await until(pilot, lambda: " J/tok" in text_of(turns(app)[0], "status"))
        assert re.fullmatch(
            r"answering … \d+ tok · [\d.]+ J · [\d.]+ J/tok", text_of(turns(app)[0], "status")
        )
        assert "esc stop" in drawn(app)
        house.runner.let_go.set()
        await answered(pilot, house, 1)


async def test_the_streamed_answer_equals_a_parsed_one(house: House) -> None:
    answer = (
        "# Title\n\n| a | b |\n|---|---|\n| [x] | 2 |\n\n```python\nx = 1\n```\n\n[x]: http://a.b\n"
    )
    house.runner.pieces = tuple(answer[i : i + 5] for i in range(0, len(answer), 5))
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Show a table")
        await answered(pilot, house, 1)
        streamed = turns(app)[0].query_one(Markdown)
        parsed = AnswerMarkdown()
        await app.screen.query_one(Transcript).mount(parsed)
        await parsed.update(answer)
        await until(pilot, lambda: len(parsed.children) == len(streamed.children))

        def tree(widget: Markdown) -> list[str]:
            return [type(node).__name__ for node in widget.walk_children()]

        await until(pilot, lambda: tree(parsed) == tree(streamed))


async def test_escape_stops_and_keeps_text_and_joules(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Tell me everything")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        await pilot.press("escape")
        await answered(pilot, house, 1)
        record = house.runner.saved[0]
        assert record.status == "stopped"
        assert record.energy.joules is not None
        assert record.energy.joules > 0
        assert "Paris" in source_of(turns(app)[0])
        assert text_of(turns(app)[0], "energy").endswith(" tok/s · ■ stopped · m = continue")


async def test_a_question_asked_meanwhile_waits_and_then_knows_the_first_answer(
    house: House,
) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "First?")
        await until(pilot, lambda: len(house.runner.asked) == 1)
        await ask(pilot, "Second?")
        await until(pilot, lambda: len(turns(app)) == 2)
        assert text_of(turns(app)[1], "question").startswith("❯ queued (1st): ")
        assert len(house.runner.asked) == 1
        house.runner.let_go.set()
        await answered(pilot, house, 2)
        second, _route = house.runner.asked[1]
        assert second.history == (
            Message("user", "First?"),
            Message("assistant", "Paris is the **capital** of France."),
        )
        assert second.chat_id == house.runner.asked[0][0].chat_id


async def test_the_thought_is_kept_apart_and_folds_when_the_answer_begins(house: House) -> None:
    house.runner.thoughts = ("France ", "has ", "one ", "capital.")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        thought = turns(app)[0].query_one("Collapsible")
        assert thought.display
        assert thought.collapsed  # type: ignore[attr-defined]
        assert "thinking · 4 tokens" in str(thought.title)  # type: ignore[attr-defined]
        assert " J, " in str(thought.title)  # type: ignore[attr-defined]
        assert text_of(turns(app)[0], "thought-text") == "France has one capital."
        assert "one capital" not in source_of(turns(app)[0])
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not thought.collapsed)  # type: ignore[attr-defined]


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
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, nasty)
        await answered(pilot, house, 1)
        await pilot.press("ctrl+t")

        def drawn() -> str:
            return "\n".join(strip.text for strip in app.screen._compositor.render_strips())

        await until(pilot, lambda: drawn().count(legible) == 4)  # title, question, thought, answer
        assert not any(c in drawn() for c in "\x1b\x07\x9b\u202e")


async def test_an_error_is_a_notice_with_its_fix_and_the_chat_goes_on(house: House) -> None:
    house.runner.error = EngineFailed("the engine died: [/oops]", "ask again; it starts anew")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Anyone?")
        await until(pilot, lambda: turns(app) and text_of(turns(app)[0], "error"))
        assert text_of(turns(app)[0], "error") == (
            "✗ the engine died: [/oops]\n→ ask again; it starts anew"
        )
        assert "ask again; it starts anew" in notices(app)
        house.runner.error = None
        await ask(pilot, "And now?")
        await answered(pilot, house, 1)


async def test_a_fault_of_etui_is_a_notice_too(house: House) -> None:
    house.runner.error = ZeroDivisionError("by zero")  # type: ignore[assignment]
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Anyone?")
        await until(pilot, lambda: turns(app) and text_of(turns(app)[0], "error"))
        assert "internal error: ZeroDivisionError: by zero" in notices(app)


async def test_a_model_that_cannot_be_loaded_ahead_is_said(house: House) -> None:
    house.runner.load_error = ModelUnavailable("smollm2-135m is damaged", "pull it again")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "pull it again" in notices(app))
        assert "no model" in panel_text(app)


async def test_a_question_typed_before_the_model_is_there_is_answered_after(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Quick as I am?")
        await answered(pilot, house, 1)
        assert house.runner.warmed == [Route("balanced")]


async def test_only_the_last_turns_stay_on_the_screen(house: House) -> None:
    house.runner.pieces = ("Yes.",)
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        for number in range(MOST_TURNS + 2):
            await ask(pilot, f"Question {number}?")
        await answered(pilot, house, MOST_TURNS + 2)
        await ask(pilot, "One more?")
        await answered(pilot, house, MOST_TURNS + 3)
        assert len(turns(app)) <= MOST_TURNS
        earlier = app.screen.query_one(".earlier", Static)
        assert "3 earlier turns" in str(earlier.content)
        last, _route = house.runner.asked[-1]
        assert len(last.history) == 2 * (MOST_TURNS + 2), "the model still knows them all"


async def test_a_model_named_like_markup_is_shown_as_it_is_called(house: House) -> None:
    nasty = ListedModel("[red]x[/nope]", "found file, 1 MB [/]", True)
    house.shelf.on_offer = (*house.shelf.on_offer, nasty)
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)

        def drawn() -> str:
            return "\n".join(strip.text for strip in app.screen._compositor.render_strips())

        await pilot.press("ctrl+p")
        await until(pilot, lambda: "answer: copy" in drawn())
        await pilot.press("left_square_bracket", *"red")
        await until(pilot, lambda: "model: [red]x[/nope]" in drawn())
        await until(pilot, lambda: "policy:" not in drawn() and "found file, 1 MB [/]" in drawn())
        await pilot.press("down", "enter")
        await until(pilot, lambda: "you → [red]x[/nope]" in panel_text(app))


def test_every_key_of_the_chat_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "chat.md").read_text(encoding="utf-8")
    for owner in (ChatScreen, Prompt, TurnView):
        for binding in owner.BINDINGS:
            assert isinstance(binding, Binding)
            assert f"`{binding.id}`" in text or binding.id in ("turn.up", "turn.down")


async def test_a_short_chat_begins_at_the_top_and_a_long_answer_is_followed(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        transcript = app.screen.query_one(Transcript)
        await ask(pilot, "Short?")
        await answered(pilot, house, 1)
        await until(pilot, lambda: turns(app)[0].region.y == 2)  # below the title
        house.runner.pieces = ("A line.\n\n",) * 60
        await ask(pilot, "Long?")
        await answered(pilot, house, 2)
        await until(pilot, lambda: transcript.max_scroll_y > 0)
        await until(pilot, lambda: transcript.scroll_y == transcript.max_scroll_y)
        await until(pilot, lambda: turns(app)[-1].ended)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: transcript.scroll_y == 0 and not turns(app))


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


async def test_a_waiting_question_leaves_no_status_at_the_answer_before_it(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "First?")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        await ask(pilot, "Second?")
        await until(pilot, lambda: len(turns(app)) == 2)
        house.runner.let_go.set()
        await answered(pilot, house, 2)
        assert text_of(turns(app)[0], "status") == ""
