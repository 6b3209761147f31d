"""The power screen in the app: its parts, zoom, pause, and what it says where something lacks."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from etui.energy.types import Channel, Kind
from etui.log.writer import TurnWriter
from etui.plots.power_history import TOTAL
from etui.text import format_utc
from etui.tui.power._widgets import ChannelTable
from etui.tui.power.feed import PowerFeed
from etui.tui.power.screen import PowerScreen, SpentPart
from etui.tui.start import EtuiApp
from etui.tui.widgets.power_graph import PowerGraph
from tests.fixtures.turns import TURN
from tests.tui.fakes import House, until

GPUS = tuple(
    Channel(f"gpu:{n}", f"gpu:{n}", Kind.COUNTER, limit_watts=350.0, label="NVIDIA L40S")
    for n in range(8)
)
TEN = (
    *GPUS,
    Channel("package:0", "package:0", Kind.COUNTER, limit_watts=150.0, label="CPU package 0"),
    Channel("dram:0", "dram:0", Kind.COUNTER, label="memory 0"),
)


def screen_of(app: EtuiApp) -> PowerScreen:
    assert isinstance(app.screen, PowerScreen)
    return app.screen


def title(app: EtuiApp) -> str:
    return str(screen_of(app).query_one(".title", Static).content)


def part(app: EtuiApp, name: str) -> SpentPart:
    return screen_of(app).query_one(f"#{name}", SpentPart)


def table(app: EtuiApp) -> ChannelTable:
    return screen_of(app).query_one(ChannelTable)


def shown(app: EtuiApp) -> str:
    return "\n".join(line.text for line in app.screen._compositor.render_strips())


async def visit(pilot: Pilot[Any], app: EtuiApp) -> None:
    await until(pilot, lambda: app.power.history.newest_ns is not None)
    await pilot.press("f10")
    await until(pilot, lambda: app.current_mode == "power" and "loading" not in title(app))


def log_turn(house: House, joules: float | None = 1234.0) -> None:
    energy = replace(TURN.energy, joules=joules, kind="counter", peak_watts=231.0)
    with TurnWriter(house.config) as writer:
        writer.save_turn(replace(
            TURN, turn_id="now", chat_id=None, created_at=format_utc(datetime.now(UTC)),
            model="qwen3-4b", energy=energy, hops=(),
        ))  # fmt: skip


async def test_f10_shows_channels_and_what_was_spent(house: House) -> None:
    log_turn(house)
    house.config = replace(house.config, price_per_kwh=0.36, currency="EUR")
    house.meter.channels = TEN
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app)
        await until(pilot, lambda: "qwen3-4b" in part(app, "models").text)
        await until(pilot, lambda: "500 W" in title(app))
        text = shown(app)
        for name in ("Total", "GPU0", "GPU7", "CPU", "RAM"):
            assert name in text
        assert "50/350 W" in text
        assert "1,234 J" in part(app, "days").text
        assert "< 0.01 EUR" in part(app, "money").text
        assert "peak 500 W in the last hour" in title(app)


async def test_brackets_zoom_and_p_holds_the_picture(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app)
        await until(pilot, lambda: "[ ] 1 h" in title(app))
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "[ ] 10 min" in title(app))
        await pilot.press(*["left_square_bracket"] * 5)
        await until(pilot, lambda: "[ ] 30 s" in title(app))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "[ ] 2 min" in title(app))
        graph = screen_of(app).query_one(PowerGraph)
        await pilot.press("p")
        await until(pilot, lambda: "paused" in title(app))
        held, newest = graph.graph, app.power.history.newest_ns or 0
        await until(pilot, lambda: (app.power.history.newest_ns or 0) > newest + 2_000_000_000)
        assert graph.graph == held
        await pilot.press("p")
        await until(pilot, lambda: "paused" not in title(app) and graph.graph != held)


async def test_the_graph_shows_the_channel_under_the_cursor(house: House) -> None:
    house.meter.channels = TEN
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await visit(pilot, app)
        await until(pilot, lambda: title(app).startswith("Total"))
        await pilot.press("j")
        await until(pilot, lambda: title(app).startswith("GPU0 NVIDIA L40S"))
        await pilot.press("G")
        await until(pilot, lambda: title(app).startswith("RAM"))
        await until(pilot, lambda: "RAM " in shown(app).split("watts")[1])  # it scrolled there
        await pilot.press("k", "g")
        await until(pilot, lambda: title(app).startswith("Total"))


async def test_the_row_under_the_cursor_keeps_its_colours(house: House) -> None:
    house.meter.channels = TEN
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app)
        await until(pilot, lambda: "GPU1" in table(app).text)

        def colours(y: int) -> list[object]:
            return [s.style.color for s in table(app).render_line(y) if s.style is not None]

        before = colours(1)
        await pilot.press("j")
        await until(pilot, lambda: title(app).startswith("GPU0"))
        assert colours(1) == before


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (200, 60)], ids=str)
async def test_no_line_of_what_was_spent_is_broken(house: House, size: tuple[int, int]) -> None:
    log_turn(house)
    app = house.app()
    async with app.run_test(size=size) as pilot:
        await visit(pilot, app)
        days = part(app, "days")
        await until(pilot, lambda: "1,234 J" in days.text)
        await until(pilot, lambda: days.query_one(Static).size.height == 30)  # a line a day
        await until(pilot, lambda: "Total" in title(app) or "GPU0" in title(app))


async def test_tab_moves_between_the_parts(house: House) -> None:
    log_turn(house)
    app = house.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await visit(pilot, app)
        assert isinstance(app.focused, ChannelTable)
        for name in ("models", "days", "money"):
            await pilot.press("tab")
            await until(pilot, lambda name=name: app.focused is part(app, name))
            await until(pilot, lambda name=name: part(app, name).region.height > 0)
        await until(pilot, lambda: "qwen3-4b" not in shown(app))  # days are beside the money
        await pilot.press("tab")
        await until(pilot, lambda: app.focused is table(app))
        await pilot.press("shift+tab")
        await until(pilot, lambda: app.focused is part(app, "money"))


async def test_a_tiny_terminal_shows_one_part_at_a_time(house: House) -> None:
    log_turn(house)
    house.meter.channels = TEN
    app = house.app()
    async with app.run_test(size=(40, 10)) as pilot:
        await visit(pilot, app)
        await until(pilot, lambda: "GPU4" in shown(app) and "50/350 W" in shown(app))
        assert not screen_of(app).query_one(PowerGraph).display
        await pilot.press("tab")
        await until(pilot, lambda: "qwen3-4b" in shown(app))
        assert "GPU0" not in shown(app).partition("\n")[2]
        await pilot.resize_terminal(200, 60)
        await until(pilot, lambda: "GPU7 NVIDIA L40S" in shown(app) and "J  231 W" in shown(app))


async def test_no_channel_no_turn_and_no_price_say_what_to_do(house: House) -> None:
    house.meter.channels = ()
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app)
        await until(pilot, lambda: "no power sensor can be read: `etui doctor`" in title(app))
        await until(pilot, lambda: "ask one in `etui`" in part(app, "models").text)
        assert "set price_per_kwh" in part(app, "money").text


async def test_a_broken_log_says_what_to_do(house: House) -> None:
    house.config.database.parent.mkdir(parents=True, exist_ok=True)
    house.config.database.write_bytes(b"not a database" * 100)
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app)
        for name in ("models", "days", "money"):
            await until(pilot, lambda name=name: "move it away" in part(app, name).text)
        assert title(app).startswith("GPU0")  # the meter goes on


async def test_a_fault_while_reading_is_shown(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("etui.tui.power.screen.read_spent", broken)
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await visit(pilot, app)
        await until(pilot, lambda: "of all things" in part(app, "days").text)


async def test_a_channel_that_vanishes_leaves_a_gap_and_no_zero(house: House) -> None:
    feed = PowerFeed()
    now = time.monotonic_ns()
    feed.history.add(now - 10_000_000_000, {TOTAL: 80.0})
    feed.history.add(now - 5_000_000_000, {TOTAL: None})
    means = feed.history.buckets(TOTAL, now, 1.0, 12).means
    assert 80.0 in means
    assert 0.0 not in means
    assert means[-1] is None
