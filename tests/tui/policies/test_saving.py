"""Saving, making, deleting and using policies on the policies screen."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, TextArea

from etui.config.config import Config
from etui.runtime.routes import Route
from etui.tui.chat._prompt import Prompt
from etui.tui.commands import PoliciesListed, RouteRequested, Unsaved
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.policies._files import NewPolicyModal
from etui.tui.policies.screen import PoliciesScreen
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until
from tests.tui.policies_app import OWN, PoliciesApp, keep, shipped

SIZE = (140, 40)


async def opened(pilot: Pilot[None], app: PoliciesApp) -> None:
    await until(pilot, lambda: "✓ valid" in app.verdict)


async def shown(
    pilot: Pilot[None], app: PoliciesApp, modal: type[Screen[Any]], inside: type[Widget]
) -> None:
    """Wait for a window over the screen, and what is typed into, which has the focus then."""
    await until(pilot, lambda: isinstance(app.screen, modal) and isinstance(app.focused, inside))


async def asked(pilot: Pilot[None], app: PoliciesApp, what: str) -> None:
    """Wait for a yes-or-no question that says ``what``."""
    await until(pilot, lambda: isinstance(app.screen, ConfirmModal) and what in app.drawn())


async def at_policies(pilot: Pilot[None], app: EtuiApp) -> PoliciesScreen:
    """Go to the policies of the whole app; the one that the route names is open."""
    await until(pilot, lambda: app.backend is not None)
    await pilot.press("f4")
    await until(
        pilot, lambda: isinstance(app.screen, PoliciesScreen) and app.screen._files.catalogue
    )
    screen = app.screen
    assert isinstance(screen, PoliciesScreen)
    await until(pilot, lambda: screen._pane.opened is not None)
    return screen


async def test_what_is_saved_is_what_was_typed(config: Config) -> None:
    text = OWN.replace("\n", "\r\n")
    file = keep(config, "mine", text)
    file.chmod(0o640)
    app = PoliciesApp(config, "mine")
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.type_over("Few joules.", "Fewer joules.  # ü")
        await until(pilot, lambda: Unsaved("policy mine") in app.wishes)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "saved as" in app.told())
        assert app.wishes[-1] != Unsaved("policy mine")
    assert file.read_bytes() == text.replace("Few joules.", "Fewer joules.  # ü").encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert not list(config.policies_dir.glob("*draft*"))


async def test_a_shipped_policy_is_saved_as_a_copy(config: Config) -> None:
    app = PoliciesApp(config)
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.type_over("version: 1", "version: 1 # mine")
        await pilot.press("ctrl+s")
        await shown(pilot, app, TextModal, TextArea)
        assert app.screen.query_one(TextArea).text == "balanced"
        app.screen.query_one(TextArea).text = "calm"
        await pilot.press("enter")
        await until(pilot, lambda: any("calm" in line for line in app.shelf_lines()))
        await until(pilot, lambda: not app.pane.changed)
        assert app.pane.opened is not None
        assert (app.pane.opened.named, app.pane.opened.place.origin) == ("calm", "user")
    copy = config.policies_dir / "calm.yaml"
    assert copy.read_text() == shipped("balanced").replace("version: 1", "version: 1 # mine", 1)
    assert [w.names for w in app.wishes if isinstance(w, PoliciesListed)][-1] == (
        "balanced", "best", "calm", "frugal",
    )  # fmt: skip


@pytest.mark.parametrize("answer", ["y", "n"])
async def test_a_file_that_changed_on_disk_is_asked_about(config: Config, answer: str) -> None:
    file = keep(config, "mine", OWN)
    app = PoliciesApp(config, "mine")
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.type_over("Few joules.", "Here.")
        file.write_text("# from elsewhere\n" + OWN)
        await pilot.press("ctrl+s")
        await asked(pilot, app, "changed on disk")
        await pilot.press(answer)
        await until(pilot, lambda: app.screen is app.policies)
        if answer == "y":
            await until(pilot, lambda: "saved as" in app.told())
            assert file.read_text() == OWN.replace("Few joules.", "Here.")
        else:
            assert file.read_text().startswith("# from elsewhere")
            assert app.pane.changed


async def test_a_new_name_is_not_written_over_another_policy(config: Config) -> None:
    keep(config, "mine", OWN)
    other = keep(config, "other", OWN)
    app = PoliciesApp(config, "mine")
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.policies.action_save_as()
        await shown(pilot, app, TextModal, TextArea)
        app.screen.query_one(TextArea).text = "other"
        app.type_over("Few", "New")
        await pilot.press("enter")
        await asked(pilot, app, "policy 'other' already exists")
        await pilot.press("n")
        await until(pilot, lambda: app.screen is app.policies)
    assert other.read_text() == OWN


async def test_errors_are_saved_only_when_asked_and_never_used(config: Config) -> None:
    file = keep(config, "mine", OWN)
    app = PoliciesApp(config, "balanced")
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.policies._policy_list.put_cursor("mine")
        await pilot.press("enter")
        await until(pilot, lambda: app.pane.text == OWN and app.pane.editor.has_focus)
        app.type_over("direct", "driect")
        await pilot.press("ctrl+s")
        await asked(pilot, app, "the text has 1 error")
        await pilot.press("n")
        await until(pilot, lambda: app.screen is app.policies)
        assert file.read_text() == OWN
        await pilot.press("ctrl+s")
        await asked(pilot, app, "the text has 1 error")
        await pilot.press("y")
        await until(pilot, lambda: any("has errors" in line for line in app.shelf_lines()))
        assert "driect" in file.read_text()
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "cannot be used" in app.told())
        assert not [wish for wish in app.wishes if isinstance(wish, RouteRequested)]


@pytest.mark.parametrize("use", ["route", "config"])
async def test_the_policy_in_use_is_never_broken(config: Config, use: str) -> None:
    file = keep(config, "mine", OWN)
    if use == "config":
        config = replace(config, policy="mine")
    app = PoliciesApp(config, "mine" if use == "route" else "best")
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.policies._policy_list.put_cursor("mine")
        await pilot.press("enter")
        await until(pilot, lambda: app.pane.text == OWN and app.pane.editor.has_focus)
        app.type_over("direct", "driect")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "mine is in use" in app.told())
        assert file.read_text() == OWN
        await pilot.press("escape")
        await until(pilot, lambda: app.policies._policy_list.has_focus)
        await pilot.press("d")
        await until(pilot, lambda: "another policy" in app.told())
        assert file.exists()


async def test_opening_another_policy_asks_about_what_is_not_saved(config: Config) -> None:
    keep(config, "mine", OWN)
    app = PoliciesApp(config)
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.type_over("version: 1", "version: 1 # typed")
        await pilot.press("end", "enter")
        await asked(pilot, app, "discard unsaved edits")
        await pilot.press("n")
        await until(pilot, lambda: app.screen is app.policies)
        assert "# typed" in app.pane.text
        app.policies._policy_list.put_cursor("mine")
        await pilot.press("enter")
        await asked(pilot, app, "discard unsaved edits")
        await pilot.press("y")
        await until(pilot, lambda: app.pane.text == OWN)
        assert app.wishes[-1] != Unsaved("policy balanced")


async def test_a_new_policy_begins_with_a_template_or_blank(config: Config) -> None:
    app = PoliciesApp(config)
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        await pilot.press("n")
        await until(
            pilot, lambda: isinstance(app.screen, NewPolicyModal) and app.screen.query(Input)
        )
        await pilot.press(*"a b", "enter")
        await until(pilot, lambda: "is not a valid policy name" in app.drawn())
        app.screen.query_one(Input).value = "calm"
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: app.pane.text == shipped("frugal"))
        await opened(pilot, app)
        await pilot.press("n")
        await until(
            pilot, lambda: isinstance(app.screen, NewPolicyModal) and app.screen.query(Input)
        )
        app.screen.query_one(Input).value = "bare"
        await pilot.press("up", "up", "up", "up", "up", "enter")
        await until(pilot, lambda: "long-questions" in app.pane.text)
        await opened(pilot, app)
        assert "1 probe" in app.verdict
        assert "warning" not in app.verdict
    assert sorted(path.name for path in config.policies_dir.glob("*.yaml")) == [
        "bare.yaml", "calm.yaml",
    ]  # fmt: skip


async def test_a_policy_of_ones_own_is_deleted_after_asking(config: Config) -> None:
    file = keep(config, "mine", OWN)
    app = PoliciesApp(config)
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        await pilot.press("d")
        await until(pilot, lambda: "not in your folder" in app.told())
        app.policies._policy_list.put_cursor("mine")
        await pilot.press("d")
        await asked(pilot, app, "delete")
        await pilot.press("y")
        await until(pilot, lambda: not file.exists() and len(app.shelf_lines()) == 3)


async def test_a_policy_that_changed_elsewhere_is_read_again(config: Config) -> None:
    file = keep(config, "mine", OWN)
    app = PoliciesApp(config, "mine")
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        file.write_text(OWN + "# more\n")
        app.policies.on_screen_resume()
        await until(pilot, lambda: app.pane.text.endswith("# more\n"))


async def test_a_folder_that_cannot_be_written_keeps_what_was_typed(config: Config) -> None:
    config.policies_dir.write_text("in the way")
    app = PoliciesApp(config)
    async with app.run_test(size=SIZE) as pilot:
        await opened(pilot, app)
        app.type_over("version: 1", "version: 1 # typed")
        await pilot.press("ctrl+s")
        await shown(pilot, app, TextModal, TextArea)
        app.screen.query_one(TextArea).text = "calm"
        await pilot.press("enter")
        await until(pilot, lambda: "cannot" in app.told())
        assert app.pane.changed
        assert Path(config.policies_dir).read_text() == "in the way"


async def test_the_app_uses_a_policy_for_the_next_questions(house: House) -> None:
    keep(house.config, "mine", OWN)
    app = house.app()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await pilot.press("f4")
        await until(
            pilot, lambda: isinstance(app.screen, PoliciesScreen) and app.screen._files.catalogue
        )
        screen = app.screen
        assert isinstance(screen, PoliciesScreen)
        screen._policy_list.put_cursor("mine")
        await pilot.press("u")
        await until(pilot, lambda: app._route == Route("mine"))
        await until(pilot, lambda: "in use" in str(screen._policy_list.options[-1].prompt))
        assert app.backend is not None
        assert "mine" in app.backend.policies
        await pilot.press("f2")
        await until(pilot, lambda: app.screen.query(Prompt))
        app.screen.query_one(Prompt).text = "Who?"
        await pilot.press("enter")
        await until(pilot, lambda: house.runner.asked)
        assert house.runner.asked[0][1] == Route("mine")


async def test_leaving_etui_asks_about_what_is_not_saved(house: House) -> None:
    app = house.app()
    async with app.run_test(size=SIZE) as pilot:
        screen = await at_policies(pilot, app)
        screen._pane.editor.insert("# typed\n", (0, 0))
        await until(pilot, lambda: app._unsaved.what == "policy balanced")
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
        await pilot.press("n")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, ConfirmModal))
        await pilot.press("y")
        await until(pilot, lambda: not app.is_running)


async def test_leaving_etui_asks_nothing_once_it_is_saved(house: House) -> None:
    keep(house.config, "mine", OWN)
    app = house.app()
    app._route = Route("mine")
    async with app.run_test(size=SIZE) as pilot:
        screen = await at_policies(pilot, app)
        screen._pane.editor.insert("# typed\n", (0, 0))
        await until(pilot, lambda: app._unsaved.what == "policy mine")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app._unsaved.what == "")
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)


async def test_what_is_not_saved_is_put_aside_where_nobody_can_be_asked(house: House) -> None:
    file = keep(house.config, "mine", OWN)
    app = house.app()
    app._route = Route("mine")
    async with app.run_test(size=SIZE) as pilot:
        pane = (await at_policies(pilot, app))._pane
        app.save_and_close()
        assert not list(house.config.policies_dir.glob("*.unsaved")), "nothing was typed"
        await until(pilot, lambda: pane.text == OWN)
        pane.editor.text = OWN + "# one more\n"
        await until(pilot, lambda: app._unsaved.what == "policy mine")
        app.save_and_close()
    aside = file.with_name("mine.yaml.unsaved")
    assert aside.read_text(encoding="utf-8") == OWN + "# one more\n"
    assert file.read_text(encoding="utf-8") == OWN


async def test_the_verdict_counts_the_cases(config: Config) -> None:
    file = keep(config, "mine", OWN)
    cases = file.with_name("mine.cases.jsonl")
    cases.write_text('{"query": "Why?", "arm": "quick"}\n{"query": "Who?", "arm": "quick"}\n')
    app = PoliciesApp(config, "mine")
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "1 probe, 2 cases pass" in app.verdict)
        cases.write_text('{"query": "Why?", "arm": "quick"}\n{"query": "Who?", "arm": "careful"}\n')
        app.type_over("Few joules.", "Fewer joules.")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "1 of 2 cases fail" in app.verdict)
        cases.write_text('{"query": "Why?", "arm": "quik"}\n')
        app.type_over("Fewer joules.", "The fewest joules.")
        await until(pilot, lambda: "1 error in its cases" in app.verdict)
