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
from etui.tui.commands import OffersCommands
from etui.tui.help import HelpScreen, find_owners, find_unknown_keys, list_key_names
from etui.tui.start import MODE_BINDINGS, EtuiApp
from etui.tui.themes import DARK, LIGHT
from etui.tui.widgets.lines import TextBox
from tests.tui.fakes import House, until
from tests.tui.screen import notices

DOCS = Path(__file__).parents[2] / "docs"
SIZES = [(120, 36), (80, 24), (40, 10)]
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


@pytest.mark.parametrize("size", SIZES, ids=str)
async def test_every_screen_stands_in_small_terminals(house: House, size: tuple[int, int]) -> None:
    app = house.app()
    async with app.run_test(size=size) as pilot:
        for mode in KEYS:
            await visit(pilot, app, mode)
            for other in (*SIZES, size):
                await pilot.resize_terminal(*other)
                await until(pilot, lambda other=other: app.screen.size == other)
            await pilot.press("f1")
            await until(pilot, lambda: isinstance(app.screen, HelpScreen))
            await pilot.press("f1")
            await until(pilot, lambda: not isinstance(app.screen, HelpScreen))
            assert app.fault is None


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
async def test_every_screen_has_help_commands_keys_and_signs_that_ascii_has(
    house: House, theme: Any
) -> None:
    house.config = replace(house.config, theme=theme.name)
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        assert app.current_theme.dark is theme.dark
        for mode in KEYS:
            await visit(pilot, app, mode)
            focused = app.focused
            assert (focused is not None and focused.HELP) or app.screen.HELP
            assert isinstance(app.screen, OffersCommands)
            assert app.screen.commands()
            shown = {active.binding.description for active in app.screen.active_bindings.values()}
            own = [b for b in type(app.screen).BINDINGS if isinstance(b, Binding) and b.show]
            assert {binding.description for binding in own} & shown
            drawn = "".join(line.text for line in app.screen._compositor.render_strips())
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


def test_names_that_no_key_has_are_found() -> None:
    names = ["chat.stop", "models.pull"]
    keymap = {"chat.stop": "f12", "chat.stopp": "x", "zzz": "y"}
    assert find_unknown_keys(keymap, names) == [("chat.stopp", "chat.stop"), ("zzz", "")]


async def test_a_keymap_with_a_wrong_name_is_a_notice(house: House) -> None:
    house.config = replace(house.config, keymap={"models.pul": "f12"})
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: "unknown key name 'models.pul'" in notices(app))
        assert "did you mean models.pull?" in notices(app)


async def test_keys_of_other_screens_are_rebound_as_well(house: House) -> None:
    house.config = replace(house.config, keymap={"app.models": "f11", "models.calibrate": "x"})
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await pilot.press("f11")
        await until(pilot, lambda: app.current_mode == "models")
        await until(pilot, lambda: "x" in app.screen.active_bindings)


@pytest.mark.parametrize("mode", ["history", "models"])
async def test_a_fault_in_the_worker_of_a_screen_is_a_notice(
    house: House, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(LogReader, "list_turns", broken)
    monkeypatch.setattr(LogReader, "totals", broken)
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app, mode)
        await until(pilot, lambda: "internal error: ZeroDivisionError" in notices(app))
        assert app.is_running
        assert app.fault is None


async def test_a_fault_while_runs_are_read_is_a_notice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_folder: Path) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("etui.tui.runs_screen.list_runs", broken)
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app, "runs")
        await until(pilot, lambda: "internal error: ZeroDivisionError" in notices(app))


async def test_the_mouse_goes_between_screens_by_the_last_line(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(160, 36)) as pilot:
        await visit(pilot, app, "runs")
        keys = [key for key in app.screen.query("FooterKey") if key.description == "Models"]  # type: ignore[attr-defined]
        assert await pilot.click(keys[0])
        await until(pilot, lambda: app.current_mode == "models")
