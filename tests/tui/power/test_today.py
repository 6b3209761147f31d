"""One "today": the panel, the power screen, the history and ``etui stats`` show the same joules."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from benchmarks.varied_home import fill_home
from etui.cli.main import run
from etui.config.config import Config
from etui.log.daily_energy import sum_by_part, sum_by_period
from etui.log.filters import TurnFilter
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.runtime.routes import Route
from etui.tui.history._detail import read_days
from etui.tui.open_services import LoggedChats
from etui.tui.power.spent_text import list_money, read_spent
from etui.tui.services import SpendingTotals
from tests.tui.fakes import House
from tests.tui.screen import running


@pytest.fixture
def spending(config: Config) -> SpendingTotals:
    fill_home(config.home, datetime.now().astimezone(), days=8)
    with LogReader(config) as log, TurnWriter(config) as writer:
        return LoggedChats(config, log, writer).spending(Route("balanced"))


def test_every_surface_has_the_same_joules_of_today(
    config: Config, spending: SpendingTotals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spending.daily is not None
    assert spending.today is not None
    panel = sum_by_period(spending.daily, spending.today)["day"]
    spent = read_spent(config, spending.today)
    money = {period: found for period, found, _ in list_money(spent)}
    with LogReader(config) as log:
        days = read_days(log, TurnFilter())
    assert run(["stats", "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)["today"]
    assert panel == money["day"] == days[spending.today]
    assert stats["joules"] == panel.joules
    assert (stats["turns"], stats["unmeasured"]) == (panel.turns, panel.unmeasured)
    parts = stats["parts"]
    assert {"answers", "loads"} <= set(parts)
    assert sum(part["joules"] or 0.0 for part in parts.values()) == pytest.approx(panel.joules)
    assert panel.joules == pytest.approx(
        sum(each.joules or 0.0 for each in sum_by_part(spending.daily, spending.today).values())
    )


async def test_the_panel_shows_the_parts_of_today_on_demand(
    house: House, spending: SpendingTotals
) -> None:
    house.chats.today = spending
    async with running(house) as term:
        await term.until(lambda: "\nsince Mon+idling " in term.panel)
        assert "\n  loads" not in term.panel
        panel = term.app.screen.query_one("PowerPanel")
        panel.focus()
        await term.press("s")
        await term.sees("  answers", "  loads")
        await term.until(lambda: panel.max_scroll_y == 0)
        await term.press("s")
        await term.until(lambda: "\n  loads" not in term.panel)


async def test_the_panel_of_a_mixed_day_does_not_scroll(
    house: House, spending: SpendingTotals
) -> None:
    house.chats.today = spending
    async with running(house) as term:
        panel = term.app.screen.query_one("PowerPanel")
        await term.until(lambda: "\ntoday+idling " in term.panel)
        for size in ((120, 36), (200, 50), (110, 30)):
            await term.pilot.resize_terminal(*size)
            await term.until(lambda size=size: term.app.screen.size == size)
            await term.until(lambda: panel.max_scroll_y == 0)
        await term.pilot.resize_terminal(200, 50)
        await term.sees("JOULES BY MODEL, since Mon+idling", "smollm2-135m")


def test_a_home_of_today_ends_today(config: Config) -> None:
    now = datetime.now().astimezone()
    assert fill_home(config.home, now) > 100
    with LogReader(config) as log:
        days = read_days(log, TurnFilter())
        (last,) = log.select("SELECT max(created_at) AS at FROM turns")
    assert max(days) == now.date()
    assert min(days) >= now.date() - timedelta(days=13)
    assert datetime.fromisoformat(last["at"]) <= now
    assert any(each.joules is None for each in days.values()), "a day without a question"
