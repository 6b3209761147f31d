"""The panel beside the chat: watts, joules, the model in memory, and small terminals."""

from __future__ import annotations

import re

from textual.app import App, ComposeResult
from textual.widgets import Static

from etui.tui.chat._transcript import Transcript
from etui.tui.power.feed import PowerFeed
from etui.tui.power.panel import PowerPanel
from etui.tui.services import BudgetState, SpendingTotals
from etui.tui.start import EtuiApp
from etui.tui.widgets.power_graph import PowerGraph
from tests.tui.fakes import MODEL, House
from tests.tui.screen import panel_lines, running


async def test_the_panel_shows_watts_joules_kind_and_the_resident_model(house: House) -> None:
    house.chats.today = SpendingTotals(budgets=(BudgetState("hour", 20_000.0, 12_300.0),))
    async with running(house) as term:
        await term.until(lambda: "POWER  50 of at most 100 W" in term.panel)
        await term.until(lambda: "GPU0" in term.panel)
        await term.until(lambda: f"IN MEMORY  {MODEL} 98.4 MB" in term.panel)
        await term.until(lambda: "62 % of 20.0 kJ" in term.panel)
        assert [line.split()[1:] for line in term.panel.splitlines() if line.startswith("today")]
        await term.until(lambda: "this screen takes 2.1 % of one core" in term.panel)
        assert "balanced" in term.panel
        await term.answer("What is the capital of France?")
        await term.until(lambda: re.search(r"chat answers +[\d.]+ +[\d.]+ +1\n", term.panel))
        assert "LAST ANSWER, idle included" in term.panel
        assert "counter" in term.panel
        assert "J/tok" in term.panel


async def test_nothing_measured_is_said_so_and_never_zero(house: House) -> None:
    house.meter.channels = ()
    async with running(house) as term:
        await term.until(lambda: "no power sensor can be read" in term.panel)
        assert not term.app.screen.query_one(PowerGraph).display, "an empty scale says nothing"
        await term.answer("What is the capital of France?")
        assert "energy unmeasured" in term.text(0, "energy")
        assert " 0 J" not in term.panel
        assert " 0 W" not in term.panel
        await term.until(lambda: re.search(r"chat answers +– +– +1\n", term.panel))


async def test_a_narrow_terminal_has_one_line_with_the_joules(house: House) -> None:
    async with running(house, (80, 24)) as term:
        panel = term.app.screen.query_one(PowerPanel)
        line = term.app.screen.query_one(".power-status", Static)
        await term.until(lambda: line.size.height == 1)
        assert not panel.size.height
        await term.answer("What is the capital of France?")
        await term.until(lambda: "50.0 W" in str(line.content))
        await term.until(lambda: " J · " in str(line.content))
        assert "J/tok" in str(line.content)
        assert MODEL in str(line.content)
        await term.pilot.resize_terminal(120, 36)
        await term.until(lambda: panel.size.height > 10 and not line.size.height)


async def test_a_tiny_terminal_still_takes_a_question(house: House) -> None:
    async with running(house, (40, 10)) as term:
        await term.answer("What is the capital of France?")
        assert term.prompt.region.bottom <= 10
        assert term.app.screen.query_one(Transcript).size.height >= 5


class PanelApp(App[None]):
    """Nothing but the panel."""

    CSS_PATH = EtuiApp.CSS_PATH

    def compose(self) -> ComposeResult:
        yield PowerPanel(PowerFeed())


async def test_nothing_is_said_of_the_sensors_before_they_are_read() -> None:
    async with PanelApp().run_test(size=(60, 30)) as pilot:
        panel = pilot.app.query_one(PowerPanel)
        await pilot.pause()
        assert "unmeasured" not in panel_lines(panel)
        assert "sensor" not in panel_lines(panel)
