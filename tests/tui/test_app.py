"""The app around the chat: palette, keys, help, colours, and every way of leaving it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from textual.css import stylesheet
from textual.driver import Driver

from etui.energy.power_limits.journal import JournalEntry, new_journal, write_journal
from etui.errors import EngineFailed, EtuiError
from etui.runtime.routes import Route
from etui.tui.commands import list_commands
from etui.tui.pacing import MIDDLE_COLLECTIONS_DUE, MOST_MIDDLE_COLLECTIONS
from etui.tui.services import Services
from etui.tui.start import AGAIN_SECONDS, EtuiApp, choose_interrupt, run_app
from tests.support.power_limits import read_package, write_package
from tests.tui.fakes import DEADLINE_SECONDS, MODEL, House, turn_record, until
from tests.tui.screen import WIDE, answered, ask, notices, running, turns


async def test_the_palette_has_each_action_once_and_chooses_policy_and_model(house: House) -> None:
    async with running(house) as term:
        titles = [command.title for command in list_commands(term.app.screen, term.app)]
        assert len({title.casefold() for title in titles}) == len(titles)
        assert all(len(title) <= 40 for title in titles)
        assert {"help", "quit", "theme: choose …", "route: choose …"} <= set(titles)
        assert not {"Keys", "Quit", "Theme"} & set(titles)
        assert "screenshot" in titles
        assert "suspend" not in titles, "a headless driver cannot"
        commands = {command.title: command for command in term.app.commands()}
        assert {"policy: balanced", "policy: best", "policy: frugal"} <= set(commands)
        assert f"model: {MODEL}" in commands
        assert "model: qwen3-0.6b" not in commands, "it is not on disk"
        commands["policy: frugal"].run()
        await term.until(lambda: "frugal → " in term.panel)
        {c.title: c for c in term.app.commands()}[f"model: {MODEL}"].run()
        await term.until(lambda: f"{MODEL} (pinned)" in term.panel)
        await term.answer("Who answers?")
        assert house.runner.asked[0][1] == Route("frugal", MODEL)


async def test_keys_and_colours_are_those_of_the_user(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    house.config = replace(house.config, keymap={"prompt.send": "ctrl+s"})
    async with running(house) as term:
        await term.ask("one")
        assert term.turns == [], "enter no longer sends"
        await term.press("ctrl+s")
        await term.answered(1)
        assert term.app.no_color


async def test_ctrl_c_copies_stops_and_leaves_and_saves_the_answer(house: House) -> None:
    house.runner.hold = True
    async with running(house) as term:
        term.prompt.text = "joules"
        term.prompt.select_all()
        await term.press("ctrl+c", "ctrl+c")
        await term.until(lambda: term.app.clipboard == "joules")
        assert term.app.is_running
        await term.streams()
        await term.press("ctrl+c")
        await term.answered(1)
        assert house.runner.saved[0].status == "stopped"
        await term.told("answer stopped · Ctrl+C again quits")
        term.app._interrupted_at = None
        await term.press("ctrl+c")
        await term.until(lambda: notices(term.app).count("Ctrl+C again quits") == 2)
        assert term.app.is_running
        await term.streams()
        await term.press("ctrl+q")
        await term.until(lambda: not term.app.is_running)
    assert [record.status for record in house.runner.saved] == ["stopped", "stopped"]


async def test_what_the_start_has_to_say_is_a_notice(house: House) -> None:
    def broken(_config: object) -> Any:
        raise EngineFailed("the database is from a newer etui", "upgrade etui")

    house.config = replace(house.config, theme="no-such-theme")
    line = "restored the power limit of GPU 0 to 350 W (an earlier sweep was killed)"
    app = EtuiApp(house.config, Route("balanced"), broken, [line])
    async with app.run_test(size=WIDE) as pilot:
        for words in (line, "upgrade etui", "unknown theme 'no-such-theme'"):
            await until(pilot, lambda words=words: words in notices(app))


async def test_quitting_does_not_wait_for_a_model_to_load(house: House) -> None:
    house.runner.slow_load = True
    async with running(house) as term:
        await term.until(lambda: house.runner.warmed)
        await term.until(lambda: f"loading {MODEL}" in term.panel)
        await term.press("ctrl+q")
        await term.until(lambda: not term.app.is_running)
    assert house.runner.closed


@pytest.mark.parametrize("theme", ["etui-dark", "etui-light", "textual-light", "nord"])
async def test_the_first_paint_has_the_theme_and_parses_the_styles_once(
    house: House, theme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    refresh = EtuiApp.refresh_css
    monkeypatch.setattr(
        EtuiApp, "refresh_css", lambda app, **more: (parsed.append(app.theme), refresh(app, **more))
    )
    house.config = replace(house.config, theme=theme)
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        assert parsed == [theme]
        assert ("-dark-mode" in app.classes) is app.current_theme.dark
        assert ("-light-mode" in app.classes) is not app.current_theme.dark
        assert f"-theme-{theme}" in app.classes
        app.theme = "etui-dark" if theme != "etui-dark" else "etui-light"
        await until(pilot, lambda: f"-theme-{theme}" not in app.classes and len(parsed) == 2)


async def test_each_style_is_parsed_once_until_the_theme_changes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    parse = stylesheet.parse
    monkeypatch.setattr(
        stylesheet,
        "parse",
        lambda scope, css, read_from, **more: (
            parsed.append((scope, read_from, more["tie_breaker"]))
            or parse(scope, css, read_from, **more)
        ),
    )
    async with running(house) as term:
        for key, mode in (("f3", "history"), ("f4", "policies"), ("f6", "models"), ("f2", "chat")):
            await term.press(key)
            await term.until(lambda mode=mode: term.app.current_mode == mode)
        assert [source for source, count in Counter(parsed).items() if count > 1] == []
        parsed.clear()
        term.app.theme = "etui-light"
        await term.until(lambda: parsed)
        assert [source for source, count in Counter(parsed).items() if count > 1] == []


async def test_a_key_meets_no_full_collection_of_objects(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: list[str] = []
    monkeypatch.setattr("gc.get_count", lambda: (0, 0, MIDDLE_COLLECTIONS_DUE))
    monkeypatch.setattr("gc.collect", lambda: full.append("collected"))
    thresholds = gc.get_threshold()
    app = house.app()
    try:
        async with app.run_test(size=WIDE) as pilot:
            await until(pilot, lambda: full)
            assert gc.get_threshold() == (*thresholds[:2], MOST_MIDDLE_COLLECTIONS)
            monkeypatch.setattr("etui.tui.pacing.TYPING_SECONDS", 3600.0)
            await pilot.press("a")
            full.clear()
            await app._chat.queue._tick()
            assert full == []
    finally:
        gc.set_threshold(*thresholds)


async def test_a_lost_terminal_restores_power_limits(house: House) -> None:
    folder = write_package(house.config.sysfs_dir, long_watts=40)
    entry = JournalEntry("package:0", "CPU package 0", "long_term", 65.0, 40.0, False, "etui", "")
    write_journal(house.config.power_limits_file, new_journal((entry,)))
    house.app().save_and_close()
    assert read_package(folder) == (65, 120)
    assert not house.config.power_limits_file.exists()


@pytest.mark.parametrize(
    ("armed_at", "answering", "action"),
    [
        (None, True, "stop"),
        (None, False, "ask"),
        (8.0, True, "quit"),
        (8.0, False, "quit"),
        (10.0 - AGAIN_SECONDS - 0.1, True, "stop"),
        (10.0 - AGAIN_SECONDS - 0.1, False, "ask"),
        (11.0, False, "ask"),
    ],
)
def test_only_a_second_ctrl_c_soon_after_the_first_leaves(
    armed_at: float | None, answering: bool, action: str
) -> None:
    assert choose_interrupt(10.0, armed_at, answering=answering) == action


async def test_ctrl_z_is_offered_only_where_the_terminal_can_suspend(house: House) -> None:
    async with running(house) as term:
        assert "ctrl+z" not in term.app.screen.active_bindings or (
            term.app.screen.active_bindings["ctrl+z"].binding.action != "suspend_process"
        ), "a headless driver cannot, and neither can a browser"
        assert term.app._driver is not None
        type(term.app._driver).can_suspend = property(lambda _self: True)  # type: ignore[assignment]
        try:
            assert term.app.screen.active_bindings["ctrl+z"].binding.id == "app.suspend"
            await term.press("f4")
            await term.until(lambda: term.app.screen.query("PolicyEditor"))
            term.app.screen.query_one("PolicyEditor").focus()
            await term.until(lambda: term.app.focused is term.app.screen.query_one("PolicyEditor"))
            assert term.app.screen.active_bindings["ctrl+z"].binding.action == "undo"
        finally:
            del type(term.app._driver).can_suspend


def test_a_fault_of_the_app_is_told_without_a_traceback(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = house.app()
    monkeypatch.setattr("etui.tui.start.EtuiApp", lambda *_: app)
    monkeypatch.setattr("etui.tui.start.leave_on_hangup", lambda _: None)
    monkeypatch.setattr(app, "run", partial(app.run, headless=True))
    monkeypatch.setattr(house.meter, "latest", lambda: 1 / 0)
    with pytest.raises(EtuiError, match="ZeroDivisionError"):
        run_app(house.config)
    assert house.runner.closed
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err


async def test_an_earlier_chat_is_opened_at_the_start(house: House) -> None:
    house.chats.keep("Capitals", [turn_record(1), turn_record(2)])
    chat = house.chats.kept["chat-1"][0]
    backend = Services(house.runner, house.meter, house.shelf, house.chats, lambda: ("balanced",))
    let_go = threading.Event()

    def open_late(_config: object) -> Services:
        let_go.wait(DEADLINE_SECONDS)
        return backend

    app = EtuiApp(house.config, Route("balanced"), open_late, chat=chat)
    async with app.run_test(size=WIDE) as pilot:
        await ask(pilot, "And of Spain?")  # before anything is open
        let_go.set()
        await answered(pilot, house, 1)
        await until(pilot, lambda: [turn.asking.text for turn in turns(app)] == [
            "Question 1?", "Question 2?", "And of Spain?",
        ])  # fmt: skip
        query, _route = house.runner.asked[0]
        assert query.chat_id == "chat-1"
        assert query.history[0].content == "Question 1?"


async def test_what_the_writer_of_the_log_says_is_shown(house: House) -> None:
    reports: list[Callable[[str], None]] = []
    backend = Services(house.runner, house.meter, house.shelf, house.chats, lambda: ("balanced",))
    backend = replace(backend, report_log=reports.append)
    app = EtuiApp(house.config, Route("balanced"), lambda _config: backend)
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: bool(reports))
        await asyncio.to_thread(reports[0], "the log is locked\x1b[0m; 1 record kept")
        await until(pilot, lambda: "the log is locked␛[0m; 1 record kept" in notices(app))


def test_a_tab_of_the_browser_cannot_suspend(house: House) -> None:
    from etui.tui.web_session import TabDriver

    assert TabDriver.can_suspend is Driver.can_suspend


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (Route("balanced"), "policy balanced"),
        (Route("balanced", "qwen3-4b"), "qwen3-4b"),
        (Route("balanced", arm="think"), "arm think of balanced"),
    ],
)
def test_a_route_is_described_by_what_answers(route: Route, words: str) -> None:
    assert route.description == words
