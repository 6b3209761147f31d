"""The panel at every size: what matters is seen without scrolling, and moves as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.widgets import Static

from etui.energy.devices import DeviceVitals
from etui.energy.types import Channel, Kind
from etui.events import Loaded
from etui.tui.chat._prompt import Prompt
from etui.tui.chat._turn_view import TurnView
from etui.tui.power._widgets import ChannelTable
from etui.tui.power.panel import PowerPanel, plan_panel
from etui.tui.services import BudgetState, SpendingTotals, Vitals
from etui.tui.widgets.lines import FactLine, count_rows
from etui.tui.widgets.power_graph import PowerGraph
from tests.tui.fakes import MODEL, FakeMeter, House
from tests.tui.screen import running, table_text

GPUS = tuple(
    Channel(f"gpu:GPU-{n}", f"gpu:GPU-{n}", Kind.COUNTER, limit_watts=350.0) for n in range(8)
)
CPU = Channel("package:0", "package:0", Kind.COUNTER, limit_watts=150.0)


class Server(FakeMeter):
    """Eight GPUs and a CPU, with the state of each."""

    def vitals(self) -> Vitals:
        devices = tuple(
            DeviceVitals(c.scope, 0.87, 61.0, 1980, None, None, 40_000_000_000, 48_000_000_000)
            for c in GPUS
        )
        return replace(super().vitals(), devices=devices)


@pytest.fixture
def server(house: House) -> House:
    house.meter = house.runner.meter = Server((*GPUS, CPU), idle_watts=20.0)
    house.chats.today = SpendingTotals(budgets=(BudgetState("hour", 20_000.0, 3_800.0),))
    return house


@given(st.integers(0, 80), st.integers(0, 16), st.integers(0, 6))
def test_the_parts_fit_wherever_they_can(height: int, channels: int, lines: int) -> None:
    plan = plan_panel(height, channels, lines)
    rows = -(-channels // plan.columns) + plan.graph_rows + 9 + lines + 5 * plan.airy
    assert 5 <= plan.graph_rows <= 8
    if height >= 9 + lines + 5 + -(-channels // 2):
        assert rows + plan.left_rows <= height


WORDS = (
    "CPU ", "50/350 W", "61 °C", "40/48 GB", "SPENT", "19 % of", "IN MEMORY", "├", "last 2 min",
    "J/tok", "read ", "write ", "answers",
)  # fmt: skip


async def test_eight_gpus_are_seen_without_scrolling_and_a_resize_leaves_no_stale_row(
    server: House,
) -> None:
    async with running(server, (200, 60)) as term:
        panel = term.app.screen.query_one(PowerPanel)
        await term.until(lambda: f"IN MEMORY  {MODEL}" in term.panel and "87 %" in term.panel)
        await term.answer("What is the capital of France?")
        await term.until(lambda: term.turns[0].ended)
        assert panel.size.width >= 70
        assert term.app.screen.query_one(TurnView).size.width <= 110

        def stale() -> list[str]:
            lines = [line for line in term.turns[0].query(FactLine) if line.region.height]
            return [
                line._facts
                for line in lines
                if line.content_size.height
                != count_rows(str(line.content), line.content_size.width)
            ]

        for width, height in ((200, 60), (120, 36), (50, 36), (120, 36)):
            await term.pilot.resize_terminal(width, height)
            await term.until(lambda w=width: term.app.screen.size.width == w)  # type: ignore[misc]
            await term.until(lambda: not stale())
            if width >= 120:
                await term.sees("LAST ANSWER", *(f"GPU{n} " for n in range(8)), *WORDS)
                await term.until(lambda: panel.max_scroll_y == 0)
                assert 6 <= panel.query_one(PowerGraph).size.height <= 8
        assert panel.size.width <= 46


@pytest.mark.parametrize("size", [(40, 10), (80, 24)])
async def test_a_small_terminal_keeps_the_joules_in_sight(
    server: House, size: tuple[int, int]
) -> None:
    async with running(server, size) as term:
        await term.answer("What is the capital of France?")
        line = term.app.screen.query_one(".power-status", Static)
        await term.until(lambda: " J · " in str(line.content))
        joules = str(line.content).split(" · ")[0]
        for _ in range(5):  # the wheel scrolls nothing in it
            line.scroll_down(animate=False)
            line.scroll_relative(y=3, animate=False)
        await term.until(lambda: joules in term.drawn)
        assert line.max_scroll_y == 0
        assert term.prompt.region.bottom <= size[1]


async def test_the_graph_zooms_and_pauses_while_the_panel_has_the_focus(server: House) -> None:
    async with running(server) as term:
        panel = term.app.screen.query_one(PowerPanel)
        await term.until(lambda: "last 2 min" in term.panel)
        panel.focus()
        await term.press("]")
        await term.until(lambda: "last 10 min" in term.panel)
        await term.press("]")
        await term.until(lambda: "last 1 h" in term.panel)
        await term.press("]", "]")
        await term.until(lambda: "since start" in term.panel)
        await term.press("[", "[", "[", "[")
        await term.until(lambda: "last 30 s" in term.panel)
        await term.press("p")
        await term.until(lambda: "paused" in term.panel)
        frozen = panel.query_one(PowerGraph)._graph
        newest = term.app.power.history.newest_ns or 0
        await term.until(lambda: (term.app.power.history.newest_ns or 0) > newest + 10**9)
        assert panel.query_one(PowerGraph)._graph == frozen, "it is recorded, and not drawn"
        await term.press("space")
        await term.until(lambda: "last 30 s" in term.panel)
        await term.until(lambda: panel.query_one(PowerGraph)._graph != frozen)
        await term.press("escape")
        assert isinstance(term.app.focused, Prompt)


async def test_a_bracket_in_the_prompt_is_a_bracket(house: House) -> None:
    async with running(house) as term:
        await term.until(lambda: "last 2 min" in term.panel)
        await term.press("[", "p", "]")
        await term.until(lambda: term.prompt.text == "[p]")
        assert "last 2 min" in term.panel


async def test_the_line_names_the_model_that_answers(house: House) -> None:
    async with running(house, (80, 24)) as term:
        line = term.app.screen.query_one(".power-status", Static)
        panel = term.app.screen.query_one(PowerPanel)
        await term.until(lambda: MODEL in str(line.content))
        await term.answer("What is the capital of France?")
        panel.show_loaded(Loaded("other-7b", 0, 1, 0, 4_000_000_000))
        await term.until(lambda: "other-7b" in panel.residents)
        await term.until(lambda: MODEL in str(line.content))
        assert "other-7b" not in str(line.content)


async def test_net_mode_is_net_in_every_number(house: House) -> None:
    house.meter.idle_watts = 10.0
    async with running(house) as term:
        await term.answer("What is the capital of France?")
        facts = term.app.screen.query_one("PowerPanel .facts", Static)
        await term.until(lambda: "J/tok" in str(facts.content))
        await term.until(lambda: "LAST ANSWER, idle included" in term.panel)
        gross, energy = str(facts.content), house.runner.saved[0].energy
        assert energy.net_joules == pytest.approx((energy.joules or 0.0) * 0.8, rel=0.01)
        await term.press("ctrl+g")
        await term.until(lambda: "LAST ANSWER, without idle" in term.panel)
        assert gross.split()[2] != str(facts.content).split()[2], "joules per token are net too"


async def test_an_estimate_has_one_badge(house: House) -> None:
    house.meter.channels = (
        Channel("estimate:cpu", "estimate:cpu", Kind.ESTIMATE, limit_watts=65.0, idle_watts=5.0),
    )
    async with running(house) as term:
        await term.answer("What is the capital of France?")
        await term.until(lambda: "≈ estimated" in term.panel)
        assert term.panel.count("≈ estimated") == 1
        table = term.app.screen.query_one(ChannelTable)
        await term.until(lambda: "≈50/65 W" in table_text(table))
