"""A text that grows is laid out once, and what its new size changes still is."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Static

from etui.tui.widgets.settled_layout import SettledLayout
from tests.tui.fakes import until


class Growing(SettledLayout):
    def compose(self) -> ComposeResult:
        with VerticalScroll(), Vertical():
            yield Static("one line")


class GrowingApp(App[None]):
    CSS = "Vertical { height: auto; }"

    def on_mount(self) -> None:
        self.push_screen(Growing())


async def test_a_text_that_grows_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app, laid_out = GrowingApp(), []
    lay_out = Screen._refresh_layout

    def count(screen: Screen[None], size: Size | None = None, scroll: bool = False) -> None:
        laid_out.append(screen)
        lay_out(screen, size, scroll)

    async with app.run_test(size=(40, 10)) as pilot:
        text = app.screen.query_one(Static)
        await until(pilot, lambda: text.size.height == 1)
        await pilot.pause()
        monkeypatch.setattr(Screen, "_refresh_layout", count)
        text.update("one line\nand another")
        await until(pilot, lambda: text.size.height == 2)
        await pilot.pause()
        await pilot.pause()
        assert len(laid_out) == 1
        assert app.screen.query_one(Vertical).virtual_size.height == 2


async def test_a_scroll_bar_that_is_needed_now_takes_its_width() -> None:
    app = GrowingApp()
    async with app.run_test(size=(40, 10)) as pilot:
        text, scroll = app.screen.query_one(Static), app.screen.query_one(VerticalScroll)
        await until(pilot, lambda: text.size.width == 40)
        text.update("\n".join(map(str, range(30))))
        await until(pilot, lambda: text.size == (38, 30))
        assert scroll.max_scroll_y == 20
        text.update("short")
        await until(pilot, lambda: text.size == (40, 1))
