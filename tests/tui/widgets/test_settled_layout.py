"""A text that grows is laid out once, and what its new size changes still is."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Size
from textual.screen import Screen
from textual.strip import Strip
from textual.widgets import Static

from etui.tui.widgets.lines import BlankBox, SettledLayout
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
        assert laid_out.count(app.screen) == 1  # the screen below may be laid out, too
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


class Box(BlankBox, Vertical):
    def __init__(self) -> None:
        super().__init__(Static("one\ntwo\nthree"))
        self.drawn: list[int] = []

    def render_line(self, y: int) -> Strip:
        self.drawn.append(y)
        return super().render_line(y)


class BoxApp(App[None]):
    CSS = "Vertical { height: auto; background: blue; }"

    def compose(self) -> ComposeResult:
        yield Box()


async def test_the_blank_lines_of_a_box_that_grows_are_not_drawn_again() -> None:
    app = BoxApp()
    async with app.run_test(size=(40, 10)) as pilot:
        box, text = app.query_one(Box), app.query_one(Static)
        await until(pilot, lambda: 2 in box.drawn)
        await pilot.pause()
        box.drawn.clear()
        text.update("one\ntwo\nthree\nfour")
        await until(pilot, lambda: box.size.height == 4)
        await until(pilot, lambda: box.drawn)
        assert box.drawn == [3]
        assert box.virtual_size.height == 4


async def test_a_box_of_another_width_is_drawn_again() -> None:
    app = BoxApp()
    async with app.run_test(size=(40, 10)) as pilot:
        box = app.query_one(Box)
        await until(pilot, lambda: 2 in box.drawn)
        box.drawn.clear()
        await pilot.resize_terminal(30, 10)
        await until(pilot, lambda: {0, 1, 2} <= set(box.drawn))
        assert box.styles.background.hex == "#0000FF", "the style sheet knows it as its base"
