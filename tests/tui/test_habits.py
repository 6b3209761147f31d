"""What every screen has in common: help, palette, keys, small terminals, faults as notices."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Footer

from etui.log.queries import LogReader
from etui.tui.ascii import to_ascii
from etui.tui.commands import OffersCommands, list_commands, list_keys, with_key
from etui.tui.help import HelpScreen, find_keymap_faults, find_owners, list_key_names
from etui.tui.start import MODE_BINDINGS, EtuiApp
from etui.tui.themes import DARK, LIGHT
from etui.tui.widgets.lines import TextBox
from tests.tui.fakes import House, until
from tests.tui.screen import notices, running

DOCS = Path(__file__).parents[2] / "docs"
SIZES = ((80, 24), (40, 10), (120, 36))
KEYS = {
    re.sub(r"switch_mode\('(\w+)'\)", r"\1", binding.action): binding.key
    for binding in MODE_BINDINGS
    if isinstance(binding, Binding)
}
"""Mode -> its key."""


async def visit(pilot: Pilot[Any], app: EtuiApp, mode: str) -> None:
    """Show a screen by its key and wait until it is laid out."""
    await until(pilot, lambda: app.backend is not None)
    await pilot.press(KEYS[mode])
    await until(pilot, lambda: app.current_mode == mode and app.screen.query(Footer))
    await until(pilot, lambda: app.screen.query_one(Footer).region.height == 1)


async def test_every_screen_stands_in_small_terminals(house: House) -> None:
    async with running(house) as term:
        for mode in KEYS:
            await visit(term.pilot, term.app, mode)
            for size in SIZES:
                await term.pilot.resize_terminal(*size)
                await term.until(lambda size=size: term.app.screen.size == size)
            await term.press("f1")
            await term.at(HelpScreen)
            await term.press("f1")
            await term.until(lambda: not isinstance(term.app.screen, HelpScreen))
            assert term.app.fault is None


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
async def test_every_screen_has_help_commands_keys_and_signs_that_ascii_has(
    house: House, theme: Any
) -> None:
    house.config = replace(house.config, theme=theme.name)
    async with running(house) as term:
        assert term.app.current_theme.dark is theme.dark
        for mode in KEYS:
            await visit(term.pilot, term.app, mode)
            focused = term.app.focused
            assert (focused is not None and focused.HELP) or term.app.screen.HELP
            assert isinstance(term.app.screen, OffersCommands)
            assert term.app.screen.commands()
            shown = {
                active.binding.description for active in term.app.screen.active_bindings.values()
            }
            own = [b for b in type(term.app.screen).BINDINGS if isinstance(b, Binding) and b.show]
            assert {binding.description for binding in own} & shown
            drawn = "".join(line.text for line in term.app.screen._compositor.render_strips())
            lost = {c for c in drawn if c != "?" and to_ascii(c) == "?" and c.isprintable()}
            assert not lost, "each sign needs one of ASCII that stands for it"


def test_every_key_has_a_name_and_the_documents_have_it() -> None:
    for owner in find_owners():
        if owner is not TextBox:  # the keys of any text that is edited
            for binding in vars(owner)["BINDINGS"]:
                assert isinstance(binding, Binding)
                assert binding.id, f"{owner.__name__}: {binding.key}"
    said = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert [name for name in sorted(list_key_names()) if f"`{name}`" not in said] == []


SAVED = {"Save", "Send", "Price it"}  # Ctrl+S takes what was typed


def test_function_and_control_keys_mean_one_thing_everywhere() -> None:
    meanings: dict[str, set[str]] = {}
    for owner in find_owners():
        if owner is not TextBox:
            for binding in vars(owner)["BINDINGS"]:
                for key in binding.key.split(","):
                    if re.fullmatch(r"f\d+|ctrl\+[a-z]", key) and binding.description != "Close":
                        meanings.setdefault(key, set()).add(binding.description)
    assert {key: said for key, said in meanings.items() if len(said) > 1} == {
        "ctrl+s": SAVED,
        "ctrl+c": {"Copy, stop, quit", "Quit"},  # `etui power top` has nothing to copy or stop
    }


@pytest.mark.parametrize("width", [80, 120, 200])
async def test_escape_leads_to_the_chat_and_every_footer_has_chat_and_power(
    house: House, width: int
) -> None:
    async with running(house, (width, 24)) as term:
        for mode in KEYS:
            await visit(term.pilot, term.app, mode)
            for name, key in (("Chat", "f2"), ("Power", "f10"), ("Help", "f1")):
                if mode != name.casefold():
                    await term.until(
                        lambda key=key, name=name: f"{key} {name}" in term.drawn.split("\n")[-1]
                    )
            await term.press("escape")
            await term.until(lambda: term.app.current_mode == "chat")


async def test_escape_first_closes_what_is_open_on_a_screen(house: House) -> None:
    async with running(house) as term:
        for mode, opened in (("history", "slash"), ("runs", "slash"), ("history", "t")):
            await visit(term.pilot, term.app, mode)
            await term.press(opened)
            await term.press("escape")
            assert term.app.current_mode == mode
            await term.press("escape")
            await term.until(lambda: term.app.current_mode == "chat")


async def test_the_palette_groups_by_screen_names_keys_and_finds_words_of_a_help(
    house: House,
) -> None:
    house.config = replace(house.config, keymap={"chat.new": "f11"})
    async with running(house, (120, 50)) as term:
        keys = list_keys(term.app, term.app.screen)
        shown = {
            one.title: with_key(one.title, one, keys).plain
            for one in list_commands(term.app.screen, term.app)
        }
        assert shown["chat: new"] == "chat: new  f11"
        assert shown["chat: open …"] == "chat: open …  ^o"
        assert shown["screen: power"] == "screen: power  f10"
        assert shown["route: choose …"] == "route: choose …  f7"
        await term.press("ctrl+p")
        await term.sees("Chat", "answer: continue")
        await term.press(*"read first")
        await term.sees("chat: system prompt  f9")
        await term.until(lambda: "answer: copy" not in term.drawn)


def test_names_that_no_key_has_are_found(house: House) -> None:
    keymap = {"chat.stop": "f12", "chat.stopp": "x", "zzz": "y"}
    near, unlike = find_keymap_faults(replace(house.config, keymap=keymap))
    assert near[0] == "unknown key name 'chat.stopp'"
    assert near[1].startswith("did you mean chat.stop? fix `keymap` in")
    assert unlike[0] == "unknown key name 'zzz'"
    assert unlike[1].startswith("docs/chat.md lists all key names; fix")


async def test_keys_are_rebound_on_every_screen_and_a_wrong_name_is_a_notice(house: House) -> None:
    keymap = {"app.models": "f11", "models.calibrate": "x", "models.pul": "f12"}
    house.config = replace(house.config, keymap=keymap)
    async with running(house) as term:
        await term.told("unknown key name 'models.pul'")
        assert "did you mean models.pull?" in notices(term.app)
        await term.press("f11")
        await term.until(lambda: term.app.current_mode == "models")
        await term.until(lambda: "x" in term.app.screen.active_bindings)


@pytest.mark.parametrize("mode", ["history", "models", "runs"])
async def test_a_fault_in_the_worker_of_a_screen_is_a_notice(
    house: House, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(LogReader, "totals", broken)
    monkeypatch.setattr("etui.tui.history.screen.read_days", broken)
    monkeypatch.setattr("etui.tui.runs._entries.list_runs", broken)
    async with running(house) as term:
        await visit(term.pilot, term.app, mode)
        await term.told("internal error: ZeroDivisionError")
        assert term.app.is_running
        assert term.app.fault is None


async def test_the_mouse_goes_between_screens_by_the_last_line(house: House) -> None:
    async with running(house, (160, 36)) as term:
        await visit(term.pilot, term.app, "runs")
        keys = [key for key in term.app.screen.query("FooterKey") if key.description == "Models"]  # type: ignore[attr-defined]
        assert await term.pilot.click(keys[0])
        await term.until(lambda: term.app.current_mode == "models")
