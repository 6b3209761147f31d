"""The panel beside the chat: watts, joules, the model in memory, and small terminals."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widgets import Static

from etui.tui.chat._prompt import Prompt
from etui.tui.chat._transcript import Transcript
from etui.tui.power.feed import PowerFeed
from etui.tui.power.panel import PowerPanel
from etui.tui.start import EtuiApp
from etui.tui.widgets.power_graph import PowerGraph
from tests.tui.fakes import MODEL, House, until
from tests.tui.screen import WIDE, answered, ask, panel_text, text_of, turns


async def test_the_panel_shows_watts_joules_kind_and_the_resident_model(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "POWER  50/100 W" in panel_text(app))
        await until(pilot, lambda: "GPU0" in panel_text(app))
        await until(pilot, lambda: f"LOADED  {MODEL} 98.4 MB" in panel_text(app))
        assert "balanced" in panel_text(app)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        await until(pilot, lambda: "1 answer" in panel_text(app))
        assert "LAST ANSWER  gross" in panel_text(app)
        assert "counter" in panel_text(app)
        assert "J/tok" in panel_text(app)


async def test_nothing_measured_is_said_so_and_never_zero(house: House) -> None:
    house.meter.channels = ()
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "no power sensor can be read" in panel_text(app))
        assert not app.screen.query_one(PowerGraph).display, "an empty scale says nothing"
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert "energy unmeasured" in text_of(turns(app)[0], "energy")
        assert " 0 J" not in panel_text(app)
        assert " 0 W" not in panel_text(app)
        await until(pilot, lambda: "chat unmeasured · 1 answer" in panel_text(app))


async def test_a_narrow_terminal_has_one_line_with_the_joules(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.screen.query_one(PowerPanel)
        line = app.screen.query_one(".power-status", Static)
        await until(pilot, lambda: line.size.height == 1)
        assert not panel.size.height
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        await until(pilot, lambda: "50.0 W" in str(line.content))
        await until(pilot, lambda: " J · " in str(line.content))
        assert "J/tok" in str(line.content)
        assert MODEL in str(line.content)
        await pilot.resize_terminal(120, 36)
        await until(pilot, lambda: panel.size.height > 10 and not line.size.height)


async def test_a_tiny_terminal_still_takes_a_question(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(40, 10)) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert app.screen.query_one(Prompt).region.bottom <= 10
        assert app.screen.query_one(Transcript).size.height >= 5


class PanelApp(App[None]):
    """Nothing but the panel."""

    CSS_PATH = EtuiApp.CSS_PATH

    def compose(self) -> ComposeResult:
        yield PowerPanel(PowerFeed())


async def test_nothing_is_said_of_the_sensors_before_they_are_read() -> None:
    async with PanelApp().run_test(size=(60, 30)) as pilot:
        panel = pilot.app.query_one(PowerPanel)
        await pilot.pause()
        assert "unmeasured" not in panel.text
        assert "sensor" not in panel.text
