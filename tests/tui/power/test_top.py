"""``etui power top`` without a terminal: its own feed, its help, and the way out."""

from __future__ import annotations

import time

from etui.config.config import Config
from etui.plots.power_history import TOTAL
from etui.tui.help import HelpScreen
from etui.tui.power.screen import PowerScreen, PowerTopApp
from tests.tui.fakes import FakeMeter, until


async def test_it_reads_the_meter_and_needs_no_chat(config: Config) -> None:
    app = PowerTopApp(config, FakeMeter(), 0.1)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, PowerScreen))
        feed = app._feed
        first = feed.history.newest_ns or time.monotonic_ns()
        await until(pilot, lambda: (feed.history.newest_ns or 0) > first + 1_000_000_000)
        assert feed.history.buckets(TOTAL, feed.history.newest_ns or 0, 1.0, 1).means == (50.0,)
        await pilot.press("q")
    assert app.return_code == 0


async def test_f1_shows_its_keys_and_q_closes_them_first(config: Config) -> None:
    app = PowerTopApp(config, FakeMeter(), 0.1)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, PowerScreen))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        text = "\n".join(line.text for line in app.screen._compositor.render_strips())
        assert "Longer" in text
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, PowerScreen))
        await pilot.press("ctrl+c")
    assert app.return_code == 0
