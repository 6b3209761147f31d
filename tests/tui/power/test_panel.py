"""The panel beside the chat: watts, joules, the model in memory, and small terminals."""

from __future__ import annotations

from textual.widgets import Static

from etui.tui.chat.prompt import Prompt
from etui.tui.chat.transcript import Transcript
from etui.tui.power.panel import PowerPanel
from tests.tui.fakes import MODEL, House, until
from tests.tui.screen import WIDE, answered, ask, panel_text, text_of, turns


async def test_the_panel_shows_watts_joules_kind_and_the_resident_model(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "50.0 W of 100 W · counter" in panel_text(app))
        await until(pilot, lambda: MODEL in panel_text(app))
        assert "98.4 MB" in panel_text(app)
        assert "policy balanced" in panel_text(app)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        await until(pilot, lambda: "1 answer" in panel_text(app))
        assert "± 0.5 J (counter)" in panel_text(app)


async def test_nothing_measured_is_said_so_and_never_zero(house: House) -> None:
    house.meter.channels = ()
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "unmeasured: no power sensor" in panel_text(app))
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert "energy unmeasured" in text_of(turns(app)[0], "energy")
        assert " 0 J" not in panel_text(app)
        assert " 0 W" not in panel_text(app)
        await until(pilot, lambda: "chat unmeasured · 1 answer" in panel_text(app))


async def test_a_narrow_terminal_folds_the_panel_to_one_line(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.screen.query_one(PowerPanel)
        await until(pilot, lambda: panel.size.height == 1)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        fold = panel.query_one(".fold", Static)
        await until(pilot, lambda: "now 50.0 W" in str(fold.content))
        assert "J (counter)" in str(fold.content)
        assert MODEL in str(fold.content)
        await pilot.resize_terminal(120, 36)
        await until(pilot, lambda: panel.size.height > 10 and not fold.size.height)


async def test_a_tiny_terminal_still_takes_a_question(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(40, 10)) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await ask(pilot, "What is the capital of France?")
        await answered(pilot, house, 1)
        assert app.screen.query_one(Prompt).region.bottom <= 10
        assert app.screen.query_one(Transcript).size.height >= 5
