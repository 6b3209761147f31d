"""The power screen in the app: its parts, zoom, pause, and what it says where something lacks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from textual.widgets import Static

from etui.energy.types import Channel, Kind
from etui.log.writer import TurnWriter
from etui.plots.power_history import TOTAL
from etui.text import format_utc
from etui.tui.power._widgets import ChannelTable
from etui.tui.power.feed import PowerFeed
from etui.tui.power.screen import PowerScreen, SpentPart
from etui.tui.widgets.power_graph import PowerGraph
from tests.fixtures.turns import TURN
from tests.tui.fakes import House
from tests.tui.screen import Terminal, running, table_text

GPUS = tuple(
    Channel(f"gpu:{n}", f"gpu:{n}", Kind.COUNTER, limit_watts=350.0, label="NVIDIA L40S")
    for n in range(8)
)
TEN = (
    *GPUS,
    Channel("package:0", "package:0", Kind.COUNTER, limit_watts=150.0, label="CPU package 0"),
    Channel("dram:0", "dram:0", Kind.COUNTER, label="memory 0"),
)


def title(term: Terminal) -> str:
    return str(term.app.screen.query_one(".title", Static).content)


def part(term: Terminal, name: str) -> SpentPart:
    return term.app.screen.query_one(f"#{name}", SpentPart)


def spent(term: Terminal, name: str) -> str:
    return str(part(term, name).query_one(Static).content)


@asynccontextmanager
async def visiting(
    house: House, size: tuple[int, int] = (120, 36), channels: tuple[Channel, ...] = TEN
) -> AsyncIterator[Terminal]:
    """The app at its power screen."""
    house.meter.channels = channels
    async with running(house, size) as term:
        await term.until(lambda: term.app.power.history.newest_ns is not None)
        await term.press("f10")
        await term.at(PowerScreen)
        await term.until(lambda: "loading" not in title(term))
        yield term


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
    async with visiting(house) as term:
        await term.until(lambda: "qwen3-4b" in spent(term, "models"))
        await term.until(lambda: "500 W" in title(term))
        await term.sees("Total", "GPU0", "GPU7", "CPU", "RAM", "50/350 W")
        assert "1,234 J" in spent(term, "days")
        assert "< 0.01 EUR" in spent(term, "money")
        assert "highest 500 W in the last hour" in title(term)
        assert "  " not in title(term)
        for size in ((80, 24), (200, 60), (120, 36)):
            await term.pilot.resize_terminal(*size)
            lines = part(term, "days").query_one(Static)
            await term.until(lambda lines=lines: lines.size.height == 1)  # days with something


async def test_brackets_zoom_and_p_holds_the_picture(house: House) -> None:
    async with visiting(house) as term:
        for keys, span in ((0, "since start"), (2, "last 10 min"), (5, "last 30 s")):
            await term.press(*["left_square_bracket"] * keys)
            await term.until(lambda span=span: f"{span} ([" in title(term))
        await term.press("right_square_bracket")
        await term.until(lambda: "last 2 min ([" in title(term))
        graph = term.app.screen.query_one(PowerGraph)
        await term.press("p")
        await term.until(lambda: "paused" in title(term))
        held, newest = graph._graph, term.app.power.history.newest_ns or 0
        await term.until(lambda: (term.app.power.history.newest_ns or 0) > newest + 2_000_000_000)
        assert graph._graph == held
        await term.press("p")
        await term.until(lambda: "paused" not in title(term) and graph._graph != held)


async def test_the_graph_shows_the_channel_under_the_cursor(house: House) -> None:
    async with visiting(house, (80, 24)) as term:
        table = term.app.screen.query_one(ChannelTable)

        def colours(y: int) -> list[object]:
            return [s.style.color for s in table.render_line(y) if s.style is not None]

        await term.until(lambda: title(term).startswith("Total") and "GPU1" in table_text(table))
        before = colours(1)
        await term.press("j")
        await term.until(lambda: title(term).startswith("GPU0 NVIDIA L40S"))
        assert colours(1) == before, "the row under the cursor keeps its colours"
        await term.press("G")
        await term.until(lambda: title(term).startswith("RAM"))
        await term.until(lambda: "RAM " in term.drawn.split("watts")[1])  # it scrolled there
        await term.press("k", "g")
        await term.until(lambda: title(term).startswith("Total"))


async def test_tab_moves_between_the_parts(house: House) -> None:
    log_turn(house)
    async with visiting(house, (80, 24)) as term:
        table = term.app.screen.query_one(ChannelTable)
        assert term.app.focused is table
        for name in ("models", "days", "money"):
            await term.press("tab")
            await term.until(lambda name=name: term.app.focused is part(term, name))
            await term.until(lambda name=name: part(term, name).region.height > 0)
        await term.until(lambda: "qwen3-4b" not in term.drawn)  # days are beside the money
        await term.press("tab")
        await term.until(lambda: term.app.focused is table)
        await term.press("shift+tab")
        await term.until(lambda: term.app.focused is part(term, "money"))


async def test_a_tiny_terminal_shows_one_part_at_a_time(house: House) -> None:
    log_turn(house)
    async with visiting(house, (40, 10)) as term:
        await term.sees("GPU4", "50/350 W")
        assert not term.app.screen.query_one(PowerGraph).display
        await term.press("tab")
        await term.sees("qwen3-4b")
        assert "GPU0" not in term.drawn.partition("\n")[2]
        await term.pilot.resize_terminal(200, 60)
        await term.sees("GPU7 NVIDIA L40S", "J  231 W")


async def test_what_is_missing_or_broken_says_what_to_do(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with visiting(house, channels=()) as term:
        await term.until(lambda: "no power sensor can be read: `etui doctor`" in title(term))
        await term.until(lambda: "ask one in `etui`" in spent(term, "models"))
        assert "price_per_kwh" in spent(term, "money")
        monkeypatch.setattr("etui.tui.power.spent_text.read_spent", lambda *_: 1 / 0)
        await term.press("r")
        await term.until(lambda: "division by zero" in spent(term, "days"))
        monkeypatch.undo()
        house.config.database.write_bytes(b"not a database" * 100)
        await term.press("r")
        for name in ("models", "days", "money"):
            await term.until(lambda name=name: "move it away" in spent(term, name))


def test_a_channel_that_vanishes_leaves_a_gap_and_no_zero() -> None:
    feed = PowerFeed()
    now = time.monotonic_ns()
    feed.history.add(now - 10_000_000_000, {TOTAL: 80.0})
    feed.history.add(now - 5_000_000_000, {TOTAL: None})
    means = feed.history.buckets(TOTAL, now, 1.0, 12).means
    assert 80.0 in means
    assert 0.0 not in means
    assert means[-1] is None
