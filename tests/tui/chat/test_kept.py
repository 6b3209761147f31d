"""What the app keeps: theme, width of the panel, and the route of a chat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.config.config import Config, load_config
from etui.log.chat_queries import list_chats
from etui.log.queries import LogReader
from etui.log.records import ChatRecord
from etui.log.writer import TurnWriter
from etui.runtime.routes import Route, restore_route
from etui.tui.chat._title_row import TitleRow
from etui.tui.power.panel import PowerPanel
from etui.tui.services import Services
from etui.tui.start import EtuiApp, run_app
from tests.tui.fakes import MODEL, House, turn_record, until
from tests.tui.screen import Terminal, notices, running

PINNED = Route("frugal", arm="think")


def settings(house: House) -> Config:
    """The settings of the next start."""
    return load_config({"ETUI_HOME": str(house.config.home)})


def title(term: Terminal) -> str:
    return str(term.app.screen.query_one(TitleRow).content)


def stored_route(house: House, chat_id: str) -> tuple[str | None, ...]:
    chat = house.chats.kept[chat_id][0]
    return chat.route_policy, chat.route_model, chat.route_arm


async def test_a_theme_and_a_width_are_kept_and_the_rest_of_the_file_stays(house: House) -> None:
    house.config.config_file.write_text("# mine\ntheme: etui-dark  # by day\npue: 1.2\n")
    async with running(house) as term:
        term.app.theme = "etui-light"
        await term.until(lambda: settings(house).theme == "etui-light")
        panel = term.app.screen.query_one(PowerPanel)
        before = panel.outer_size.width
        await term.press("shift+tab", "tab", "tab")
        term.app.set_focus(None)
        await term.press("{", "{")
        await term.until(lambda: panel.outer_size.width == before + 8)
        await term.press("}")
        await term.until(lambda: settings(house).panel_columns == before + 4)
    text = house.config.config_file.read_text()
    assert text.startswith("# mine\ntheme: etui-light  # by day\npue: 1.2\n")
    house.config = replace(house.config, panel_columns=before + 4)
    async with running(house) as term:
        await term.until(
            lambda: term.app.screen.query_one(PowerPanel).outer_size.width == before + 4
        )


async def test_a_file_that_cannot_be_written_is_said(house: House) -> None:
    house.config.config_file.mkdir()
    async with running(house) as term:
        term.app.theme = "etui-light"
        await term.told("write it there yourself: theme: etui-light")


async def test_a_chosen_route_is_stored_with_its_first_answer_and_with_each_change(
    house: House,
) -> None:
    async with running(house) as term:
        term.app._take_route(PINNED)
        await term.answer("One?")
        chat_id = term.app._chat.queue.conversation.chat.chat_id
        await term.until(lambda: chat_id in house.chats.kept)
        assert stored_route(house, chat_id) == ("frugal", None, "think")
        assert "frugal ▸ think (pinned)" in title(term)
        term.app._take_route(Route("frugal", MODEL))
        await term.until(lambda: stored_route(house, chat_id) == ("frugal", MODEL, None))
        await term.press("ctrl+n")
        await term.ask("Two?")
        await term.until(lambda: len(house.runner.saved) == 2)
        other = term.app._chat.queue.conversation.chat.chat_id
        await term.until(lambda: other in house.chats.kept)
        assert stored_route(house, other) == ("frugal", MODEL, None), "a new chat keeps it"


async def test_a_chat_that_follows_the_settings_stores_no_route(house: House) -> None:
    async with running(house) as term:
        await term.answer("One?")
        assert house.chats.kept == {}


def keep_pinned(house: House, route: Route) -> None:
    house.chats.keep("Pinned", [turn_record(1)], "chat-1")
    chat, turns = house.chats.kept["chat-1"]
    chat = replace(chat, route_policy=route.policy, route_model=route.model, route_arm=route.arm)
    house.chats.kept["chat-1"] = (chat, turns)


async def test_opening_a_chat_restores_its_route_and_another_one_has_that_of_the_start(
    house: House,
) -> None:
    keep_pinned(house, PINNED)
    house.chats.keep("Plain", [turn_record(2, chat_id="chat-2")], "chat-2")
    async with running(house) as term:
        await term.app._chat.resume(house.chats.kept["chat-1"][0])
        await term.until(lambda: "frugal ▸ think (pinned)" in title(term))
        await term.until(lambda: term.app._route == PINNED)
        await term.answer("And now?")
        assert house.runner.asked[-1][1] == PINNED
        await term.app._chat.resume(house.chats.kept["chat-2"][0])
        await term.until(lambda: "(pinned)" not in title(term))
        await term.until(lambda: term.app._route == Route(house.config.policy))
        assert stored_route(house, "chat-2") == (None, None, None)


async def test_what_is_gone_of_a_route_is_said_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_pinned(house, PINNED)
    build = house.app

    def app(kind: type[EtuiApp] = EtuiApp) -> EtuiApp:
        made = build(kind)
        opened = made._open_backend

        def restored(config: Config) -> Services:
            def restore(route: Route) -> tuple[Route, str]:
                gone = "arm think of frugal" if route.arm else ""
                return Route(route.policy), gone

            return replace(opened(config), restore_route=restore)

        made._open_backend = restored
        made._to_open = house.chats.kept["chat-1"][0]
        return made

    monkeypatch.setattr(house, "app", app)
    async with running(house) as term:
        await term.told("arm think of frugal of this chat is gone")
        await term.until(lambda: stored_route(house, "chat-1") == ("frugal", None, None))
        assert "(pinned)" not in title(term)
    async with running(house) as term:
        await term.until(lambda: len(term.turns) == 1)
        await until(term.pilot, lambda: term.app._route == Route("frugal"))
        assert "gone" not in notices(term.app)


def test_what_is_gone_is_found_by_the_files_of_this_machine(config: Config) -> None:
    mine = config.policies_dir / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        "version: 1\nmodels: {only: [smollm2-135m]}\n"
        "arms: {quick: {model: only, reasoning: direct}}\n"
        "rules: [{name: everything, use: quick}]\n"
    )
    assert restore_route(Route("mine", arm="quick"), config) == (Route("mine", arm="quick"), "")
    assert restore_route(Route("mine", arm="old"), config) == (Route("mine"), "arm old of mine")
    assert restore_route(Route("none"), config) == (Route(config.policy), "policy none")
    assert restore_route(Route("none", "nothing"), config) == (
        Route(config.policy), "model nothing and policy none",
    )  # fmt: skip


def test_a_route_is_in_the_log(config: Config) -> None:
    chat = ChatRecord("c", "2026", "name", route_policy="frugal", route_arm="think")
    writer = TurnWriter(config)
    writer.save_chat(chat)
    writer.close()
    with LogReader(config) as log:
        assert list_chats(log)[0].chat == chat


def test_the_command_line_wins_over_the_route_of_a_chat(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ChatRecord("c", "2026", "name", route_policy="frugal", route_arm="think")
    opened: list[EtuiApp] = []
    monkeypatch.setattr(EtuiApp, "run", lambda app: opened.append(app))
    monkeypatch.setattr("etui.tui.start.leave_on_hangup", lambda _save: None)
    run_app(config, model=MODEL, chat=chat)
    run_app(config, chat=chat)
    chats = [app._to_open for app in opened]
    assert [(each.route_policy, each.route_model, each.route_arm) for each in chats if each] == [
        (config.policy, MODEL, None), ("frugal", None, "think"),
    ]  # fmt: skip
