"""The chat on a fake backend: streaming, stopping, waiting, and what is said of the energy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Markdown, Static

from etui.errors import EngineFailed, EtuiError, ModelUnavailable
from etui.query import Message
from etui.tui.app import EtuiApp, run_app
from etui.tui.backend import ModelOnOffer, Route
from etui.tui.power_panel import PowerPanel
from etui.tui.prompt import Prompt
from etui.tui.transcript import MOST_TURNS, Transcript
from etui.tui.turn_view import TurnView
from tests.tui.fakes import MODEL, House, until

WIDE = (120, 36)


def turns(app: EtuiApp) -> list[TurnView]:
    return app.screen.query_one(Transcript).turns


def text_of(turn: TurnView, name: str) -> str:
    """The text of one line of a turn, empty where it is hidden."""
    static = turn.query_one(f".{name}", Static)
    shown = str(static.content) if static.display else ""
    return shown.replace("\n", " · ") if name == "energy" else shown


def source_of(turn: TurnView) -> str:
    return turn.query_one(Markdown).source


def panel_text(app: EtuiApp) -> str:
    panel = app.screen.query_one(PowerPanel)
    return "\n".join(str(static.content) for static in panel.query(Static) if static.display)


def notices(app: EtuiApp) -> str:
    return "\n".join(notification.message for notification in app._notifications)


async def ask(pilot: Pilot[Any], question: str) -> None:
    pilot.app.screen.query_one(Prompt).text = question
    await pilot.press("enter")


async def answered(pilot: Pilot[Any], house: House, count: int) -> None:
    """Wait until ``count`` answers are saved and shown."""

    def shown() -> bool:
        done = [turn for turn in turns(pilot.app) if turn.record is not None]  # type: ignore[arg-type]
        return len(house.runner.saved) >= count and len(done) >= min(count, MOST_TURNS)

    await until(pilot, shown)


async def test_an_answer_streams_and_ends_with_its_price(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        await answered(pilot, house, 1)
        turn = turns(app)[0]
        assert source_of(turn) == "Paris is the **capital** of France."
        assert text_of(turn, "question") == "❯ What is the capital of France?"
        assert text_of(turn, "why") == (
            "balanced › everything-else › quick (direct) › smollm2-135m · no signal holds"
        )
        price = text_of(turn, "energy")
        assert price.startswith("6 tokens · ")
        for part in ("tok/s", "TTFT", "± 0.5 J (counter)", "J/token", "50.0 W mean"):
            assert part in price
        assert text_of(turn, "status") == ""


async def test_words_appear_before_the_answer_has_ended(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        assert house.runner.saved == []
        await until(pilot, lambda: text_of(turns(app)[0], "status").startswith("answering … "))
        await until(pilot, lambda: "J (counter)" in text_of(turns(app)[0], "status"))
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
        parsed = Markdown(answer, open_links=False)
        await app.screen.query_one(Transcript).mount(parsed)
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
        assert text_of(turns(app)[0], "energy").startswith("■ stopped · ")
        assert "J (counter)" in text_of(turns(app)[0], "energy")


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
        assert text_of(turns(app)[1], "status").startswith("queued")
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
        assert "thought · 4 tokens" in str(thought.title)  # type: ignore[attr-defined]
        assert "J (counter)" in str(thought.title)  # type: ignore[attr-defined]
        assert text_of(turns(app)[0], "thought-text") == "France has one capital."
        assert "one capital" not in source_of(turns(app)[0])
        await pilot.press("ctrl+t")
        assert not thought.collapsed  # type: ignore[attr-defined]


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

        await until(pilot, lambda: drawn().count(legible) == 3)  # question, thought, answer
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
        assert "a fault in etui: ZeroDivisionError: by zero" in notices(app)


async def test_a_model_that_cannot_be_loaded_ahead_is_said(house: House) -> None:
    house.runner.load_error = ModelUnavailable("smollm2-135m is damaged", "pull it again")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "pull it again" in notices(app))
        assert "none in memory" in panel_text(app)


async def test_the_panel_shows_watts_joules_kind_and_the_resident_model(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "50.0 W of 100 W · counter" in panel_text(app))
        await until(pilot, lambda: MODEL in panel_text(app))
        assert "98.4 MB" in panel_text(app)
        assert "policy balanced" in panel_text(app)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        await until(pilot, lambda: "1 answer: " in panel_text(app))
        assert "± 0.5 J (counter)" in panel_text(app)


async def test_nothing_measured_is_said_so_and_never_zero(house: House) -> None:
    house.meter.channels = ()
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "unmeasured: nothing on this machine" in panel_text(app))
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert "energy unmeasured" in text_of(turns(app)[0], "energy")
        assert " 0 J" not in panel_text(app)
        assert " 0 W" not in panel_text(app)
        await until(pilot, lambda: "1 answer, unmeasured" in panel_text(app))


async def test_a_narrow_terminal_folds_the_panel_to_one_line(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.screen.query_one(PowerPanel)
        await until(pilot, lambda: panel.size.height == 1)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        fold = panel.query_one(".fold", Static)
        await until(pilot, lambda: "now 50.0 W" in str(fold.content))
        assert "J (counter)" in str(fold.content)
        assert MODEL in str(fold.content)
        await pilot.resize_terminal(120, 36)
        await until(pilot, lambda: panel.size.height > 10 and not fold.size.height)


async def test_a_tiny_terminal_still_takes_a_question(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(40, 10)) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert app.screen.query_one(Prompt).region.bottom <= 10
        assert app.screen.query_one(Transcript).size.height >= 5


async def test_a_question_typed_before_the_model_is_there_is_answered_after(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Quick as I am?")
        await answered(pilot, house, 1)
        assert house.runner.warmed == [Route("balanced")]


async def test_policy_and_model_are_chosen_from_the_palette(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        commands = {command.title: command for command in app.get_system_commands(app.screen)}
        assert {"policy: balanced", "policy: best", "policy: frugal"} <= set(commands)
        assert f"model: {MODEL}" in commands
        assert "model: qwen3-0.6b" not in commands, "it is not on disk"
        commands["policy: frugal"].callback()
        await until(pilot, lambda: "policy frugal" in panel_text(app))
        commands[f"model: {MODEL}"].callback()
        await until(pilot, lambda: f"chosen by you: {MODEL}" in panel_text(app))
        await ask(pilot, "Who answers?")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][1] == Route("frugal", MODEL)


async def test_quitting_saves_the_running_answer_first(house: House) -> None:
    house.runner.hold = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "Tell me everything")
        await until(pilot, lambda: turns(app) and "Paris" in source_of(turns(app)[0]))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
    assert [record.status for record in house.runner.saved] == ["stopped"]


async def test_quitting_does_not_wait_for_a_model_to_load(house: House) -> None:
    house.runner.slow_load = True
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: house.runner.warmed)
        await until(pilot, lambda: f"loading {MODEL}" in panel_text(app))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
    assert house.runner.closed


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
        assert "3 earlier turns in the log" in str(earlier.content)
        last, _route = house.runner.asked[-1]
        assert len(last.history) == 2 * (MOST_TURNS + 2), "the model still knows them all"


async def test_keys_are_rebound_by_the_config(house: House) -> None:
    house.config = replace(house.config, keymap={"prompt.send": "ctrl+s"})
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "one")
        assert turns(app) == [], "enter no longer sends"
        await pilot.press("ctrl+s")
        await answered(pilot, house, 1)


async def test_every_key_of_the_app_can_be_rebound(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE):
        for owner in (EtuiApp, type(app.screen), Prompt):
            for binding in owner.BINDINGS:
                assert binding.id, f"{owner.__name__}: {binding}"  # type: ignore[union-attr]


async def test_an_unknown_theme_is_a_notice(house: House) -> None:
    house.config = replace(house.config, theme="no-such-theme")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "no theme is called 'no-such-theme'" in notices(app))


async def test_a_backend_that_cannot_be_opened_is_a_notice(house: House) -> None:
    def broken(_config: object) -> Any:
        raise EngineFailed("the database is from a newer etui", "upgrade etui")

    app = EtuiApp(house.config, Route("balanced"), broken)
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "upgrade etui" in notices(app))


async def test_f1_shows_help_and_hides_it(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press("f1")
        await until(pilot, lambda: app.screen.query("HelpPanel"))
        await pilot.press("f1")
        await until(pilot, lambda: not app.screen.query("HelpPanel"))


async def test_no_color_draws_in_monochrome(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert app.no_color


async def test_a_model_named_like_markup_is_shown_as_it_is_called(house: House) -> None:
    nasty = ModelOnOffer("[red]x[/nope]", "found file, 1 MB [/]", True)
    house.shelf.on_offer = (*house.shelf.on_offer, nasty)
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)

        def drawn() -> str:
            return "\n".join(strip.text for strip in app.screen._compositor.render_strips())

        await pilot.press("ctrl+p")
        await until(pilot, lambda: "model: [red]x[/nope]" in drawn())
        await pilot.press(*"red")
        await until(pilot, lambda: "policy:" not in drawn() and "found file, 1 MB [/]" in drawn())
        await pilot.press("down", "enter")
        await until(pilot, lambda: "chosen by you: [red]x[/nope]" in panel_text(app))


async def test_ctrl_c_copies_what_is_selected_and_else_quits(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        prompt = app.screen.query_one(Prompt)
        prompt.text = "joules"
        prompt.select_all()
        await pilot.press("ctrl+c")
        assert app.clipboard == "joules"
        assert app.is_running
        prompt.text = ""
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not app.is_running)


def test_a_fault_of_the_app_is_told_without_a_traceback(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = house.app()
    monkeypatch.setattr("etui.tui.app.EtuiApp", lambda *_: app)
    monkeypatch.setattr("etui.tui.app.leave_on_hangup", lambda _: None)
    monkeypatch.setattr(app, "run", partial(app.run, headless=True))
    monkeypatch.setattr(house.meter, "latest", lambda: 1 / 0)
    with pytest.raises(EtuiError, match="ZeroDivisionError"):
        run_app(house.config)
    assert house.runner.closed
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
