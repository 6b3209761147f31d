"""Saving, making, deleting and using policies on the policies screen."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Input, TextArea

from etui.config.config import Config
from etui.routing.library import policy_names
from etui.runtime.routes import Route
from etui.tui.commands import RouteRequested, Unsaved
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.policies.screen import NewPolicyModal, PoliciesScreen
from tests.tui.fakes import House
from tests.tui.policies_app import OWN, editing, keep, shipped
from tests.tui.screen import Terminal, running


async def at_policies(term: Terminal) -> PoliciesScreen:
    """Go to the policies of the whole app; the one that the route names is open."""
    await term.press("f4")
    screen = await term.at(PoliciesScreen)
    assert isinstance(screen, PoliciesScreen)
    await term.until(lambda: screen._pane.catalogue and screen._pane.opened is not None)
    return screen


async def test_what_is_saved_is_what_was_typed(config: Config) -> None:
    text = OWN.replace("\n", "\r\n")
    file = keep(config, "mine", text)
    file.chmod(0o640)
    async with editing(config, None) as app:
        app.type_over("Few joules.", "Fewer joules.  # ü")
        await app.until(lambda: Unsaved("policy mine") in app.wishes)
        await app.press("ctrl+s")
        await app.notes("saved as")
        assert app.wishes[-1] != Unsaved("policy mine")
    assert file.read_bytes() == text.replace("Few joules.", "Fewer joules.  # ü").encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert not list(config.policies_dir.glob("*draft*"))


async def test_a_shipped_policy_is_saved_as_a_copy(config: Config) -> None:
    async with editing(config, None, "balanced") as app:
        app.type_over("version: 1", "version: 1 # mine")
        await app.press("ctrl+s")
        await app.modal(TextModal, TextArea)
        assert app.screen.query_one(TextArea).text == "balanced"
        app.screen.query_one(TextArea).text = "calm"
        await app.press("enter")
        await app.until(lambda: any("calm" in line for line in app.shelf_lines()))
        await app.until(lambda: not app.pane.changed)
        assert app.pane.opened is not None
        assert (app.pane.opened.named, app.pane.opened.place.origin) == ("calm", "user")
    copy = config.policies_dir / "calm.yaml"
    assert copy.read_text() == shipped("balanced").replace("version: 1", "version: 1 # mine", 1)
    assert policy_names(config) == ("balanced", "best", "calm", "frugal")


async def test_a_file_that_changed_on_disk_is_read_again_or_asked_about(config: Config) -> None:
    async with editing(config) as app:
        file = config.policies_dir / "mine.yaml"
        file.write_text(OWN + "# more\n")
        app.policies.on_screen_resume()
        await app.until(lambda: app.pane.text.endswith("# more\n"))
        app.type_over("Few joules.", "Here.")
        file.write_text("# from elsewhere\n" + OWN)
        await app.press("ctrl+s")
        await app.asked("changed on disk", "n")
        assert file.read_text().startswith("# from elsewhere")
        assert app.pane.changed
        await app.press("ctrl+s")
        await app.asked("changed on disk", "y")
        await app.notes("saved as")
        assert file.read_text() == OWN.replace("Few joules.", "Here.") + "# more\n"


async def test_a_new_name_is_not_written_over_another_policy(config: Config) -> None:
    other = keep(config, "other", OWN)
    async with editing(config) as app:
        app.policies.action_save_as()
        await app.modal(TextModal, TextArea)
        app.screen.query_one(TextArea).text = "other"
        app.type_over("Few", "New")
        await app.press("enter")
        await app.asked("policy 'other' already exists", "n")
    assert other.read_text() == OWN


async def test_errors_are_saved_only_when_asked_and_never_used(config: Config) -> None:
    file = keep(config, "mine", OWN)
    async with editing(config, None, "balanced") as app:
        await app.edit("mine", OWN)
        app.type_over("direct", "driect")
        await app.press("ctrl+s")
        await app.asked("the text has 1 error", "n")
        assert file.read_text() == OWN
        await app.press("ctrl+s")
        await app.asked("the text has 1 error", "y")
        await app.until(lambda: any("has errors" in line for line in app.shelf_lines()))
        assert "driect" in file.read_text()
        await app.press("ctrl+l")
        await app.notes("cannot be used")
        assert not [wish for wish in app.wishes if isinstance(wish, RouteRequested)]


@pytest.mark.parametrize("use", ["route", "config"])
async def test_the_policy_in_use_is_never_broken(config: Config, use: str) -> None:
    file = keep(config, "mine", OWN)
    if use == "config":
        config = replace(config, policy="mine")
    async with editing(config, None, "mine" if use == "route" else "best") as app:
        await app.edit("mine", OWN)
        app.type_over("direct", "driect")
        await app.press("ctrl+s")
        await app.notes("mine is in use")
        assert file.read_text() == OWN
        await app.press("escape")
        await app.until(lambda: app.policies._policy_list.has_focus)
        await app.press("d")
        await app.notes("another policy")
        assert file.exists()


async def test_opening_another_policy_asks_about_what_is_not_saved(config: Config) -> None:
    keep(config, "mine", OWN)
    async with editing(config, None, "balanced") as app:
        app.type_over("version: 1", "version: 1 # typed")
        app.policies._policy_list.put_cursor("mine")
        await app.press("enter")
        await app.asked("discard unsaved edits", "n")
        assert "# typed" in app.pane.text
        await app.press("enter")
        await app.asked("discard unsaved edits", "y")
        await app.until(lambda: app.pane.text == OWN)
        assert app.wishes[-1] != Unsaved("policy balanced")


async def test_a_new_policy_begins_with_a_template_or_blank(config: Config) -> None:
    async with editing(config, None, "balanced") as app:
        await app.press("n")
        await app.modal(NewPolicyModal, Input)
        await app.press(*"a b", "enter")
        await app.until(lambda: "is not a valid policy name" in app.drawn())
        app.screen.query_one(Input).value = "calm"
        await app.press("down", "down", "enter")
        await app.until(lambda: app.pane.text == shipped("frugal"))
        await app.says("✓ valid")
        await app.press("n")
        await app.modal(NewPolicyModal, Input)
        app.screen.query_one(Input).value = "zebra"
        await app.press("up", "up", "up", "up", "up", "enter")
        await app.until(lambda: "long-questions" in app.pane.text)
        await app.says("choose between")
        assert "warning" not in app.verdict
        shelf = app.policies._policy_list
        await app.until(lambda: shelf.under_cursor and shelf.under_cursor.named == "zebra")
    assert sorted(path.name for path in config.policies_dir.glob("*.yaml")) == [
        "calm.yaml", "zebra.yaml",
    ]  # fmt: skip


async def test_a_policy_of_ones_own_is_deleted_after_asking(config: Config) -> None:
    file = keep(config, "mine", OWN)
    async with editing(config, None, "balanced") as app:
        await app.press("d")
        await app.notes("not in your folder")
        app.policies._policy_list.put_cursor("mine")
        await app.press("d")
        await app.asked("delete", "y")
        await app.until(lambda: not file.exists() and len(app.shelf_lines()) == 3)


async def test_a_folder_that_cannot_be_written_keeps_what_was_typed(config: Config) -> None:
    config.policies_dir.write_text("in the way")
    async with editing(config, None, "balanced") as app:
        app.type_over("version: 1", "version: 1 # typed")
        await app.press("ctrl+s")
        await app.modal(TextModal, TextArea)
        app.screen.query_one(TextArea).text = "calm"
        await app.press("enter")
        await app.notes("cannot")
        assert app.pane.changed
        assert Path(config.policies_dir).read_text() == "in the way"


async def test_the_app_uses_a_policy_for_the_next_questions(house: House) -> None:
    keep(house.config, "mine", OWN)
    async with running(house, (140, 40)) as term:
        screen = await at_policies(term)
        screen._policy_list.put_cursor("mine")
        await term.press("u")
        await term.until(lambda: term.app._route == Route("mine"))
        await term.until(lambda: "in use" in str(screen._policy_list.options[-1].prompt))
        assert term.app.backend is not None
        assert "mine" in term.app.backend.policies()
        await term.press("f2")
        await term.until(lambda: term.prompt)
        await term.ask("Who?")
        await term.until(lambda: house.runner.asked)
        assert house.runner.asked[0][1] == Route("mine")


async def test_leaving_etui_asks_about_what_is_not_saved(house: House) -> None:
    async with running(house, (140, 40)) as term:
        screen = await at_policies(term)
        screen._pane.editor.insert("# typed\n", (0, 0))
        await term.until(lambda: term.app._unsaved.what == "policy balanced")
        await term.press("ctrl+q")
        await term.at(ConfirmModal)
        await term.press("n")
        await term.until(lambda: term.app.screen is screen)
        await term.press("ctrl+q")
        await term.at(ConfirmModal)
        await term.press("y")
        await term.until(lambda: not term.app.is_running)


async def test_what_is_not_saved_is_put_aside_where_nobody_can_be_asked(house: House) -> None:
    file = keep(house.config, "mine", OWN)
    house.config = replace(house.config, policy="mine")
    aside = file.with_name("mine.yaml.unsaved")
    async with running(house, (140, 40)) as term:
        pane = (await at_policies(term))._pane
        term.app.save_and_close()
        assert not aside.exists(), "nothing was typed"
        await term.until(lambda: pane.text == OWN)
        pane.editor.text = OWN + "# one more\n"
        await term.until(lambda: term.app._unsaved.what == "policy mine")
        term.app.save_and_close()
        assert aside.read_text(encoding="utf-8") == OWN + "# one more\n"
        assert file.read_text(encoding="utf-8") == OWN
        await term.press("ctrl+s")
        await term.until(lambda: term.app._unsaved.what == "")
        await term.press("ctrl+q")
        await term.until(lambda: not term.app.is_running)


async def test_the_verdict_counts_the_cases(config: Config) -> None:
    cases = keep(config, "mine", OWN).with_name("mine.cases.jsonl")
    cases.write_text('{"query": "Why?", "arm": "quick"}\n{"query": "Who?", "arm": "quick"}\n')
    async with editing(config, None) as app:
        await app.says(", 2 cases pass")
        cases.write_text('{"query": "Why?", "arm": "quick"}\n{"query": "Who?", "arm": "careful"}\n')
        app.type_over("Few joules.", "Fewer joules.")
        await app.press("ctrl+s")
        await app.says("1 of 2 cases fail")
        cases.write_text('{"query": "Why?", "arm": "quik"}\n')
        app.type_over("Fewer joules.", "The fewest joules.")
        await app.says("1 error in its cases")
