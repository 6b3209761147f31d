"""The record of watts that all screens share."""

from __future__ import annotations

import time

import pytest

from etui.energy.devices import DeviceVitals
from etui.energy.types import Channel, ChannelPower, Kind
from etui.plots.power_history import TOTAL
from etui.tui.power.feed import SINCE_START, PowerFeed, TimeWindow
from etui.tui.services import Vitals
from etui.tui.start import EtuiApp
from tests.tui.fakes import House, until

S = 1_000_000_000
GPU = Channel("gpu:a", "gpu:a", Kind.COUNTER)
CPU = Channel("package:0", "package:0", Kind.COUNTER)


def power(channel: Channel, watts: float | None, *, in_total: bool = True) -> ChannelPower:
    return ChannelPower(channel, 0, watts, None, in_total)


def test_a_total_with_an_unknown_part_is_a_gap() -> None:
    feed = PowerFeed()
    feed.add(1 * S, [power(GPU, 30.0), power(CPU, 12.0)])
    feed.add(5 * S, [power(GPU, None), power(CPU, 12.0)])
    assert feed.history.buckets(TOTAL, 5 * S, 1.0, 5).means == (42.0, None, None, None, None)
    assert feed.history.buckets("package:0", 5 * S, 1.0, 1).means == (12.0,)


def test_a_cross_check_is_kept_and_not_added() -> None:
    feed = PowerFeed()
    feed.add(1 * S, [power(GPU, 30.0), power(CPU, 12.0, in_total=False)])
    assert feed.history.buckets(TOTAL, 1 * S, 1.0, 1).means == (30.0,)
    assert [state.power.channel.id for state in feed.states()] == ["gpu:a", "package:0"]


def test_own_watts_are_kept_beside_the_sum_that_is_known() -> None:
    feed = PowerFeed()
    feed.add(1 * S, [power(GPU, 30.0), power(CPU, 12.0)])
    assert feed.own.newest_ns is None, "no driver says whose watts they are"
    feed.vitals = Vitals({"gpu:a": 10.0}, devices=(DeviceVitals("gpu:a", own_share=0.5),))
    feed.add(2 * S, [power(GPU, 30.0), power(CPU, 12.0)])
    assert feed.own.buckets("gpu:a", 2 * S, 1.0, 2).means == (None, 10.0)
    assert feed.own.buckets(TOTAL, 2 * S, 1.0, 2).means == (None, 10.0)
    assert feed.own.buckets("package:0", 2 * S, 1.0, 2).means == (None, None)


def test_the_time_since_the_start_grows_to_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = PowerFeed()
    window = TimeWindow(feed, SINCE_START)
    now = 0
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    assert (window.seconds, window.span_text) == (10.0, "since start")
    feed.add(0, [power(GPU, 30.0)])
    seen = []
    for moment in (1 * S, 31 * S, 100 * S, 3_599 * S, 9_000 * S):
        now = moment
        seen.append((window.seconds, window.span_text))
    assert seen == [
        (10.0, "since start"), (40.0, "since start"), (100.0, "since start"),
        (3600.0, "last 1 h"), (3600.0, "last 1 h"),
    ]  # fmt: skip
    window.zoom(-1)
    assert window.span_text == "last 1 h"
    window.zoom(1)
    window.zoom(1)
    assert window.seconds == 3600.0


async def test_the_hour_is_recorded_while_another_screen_is_shown(house: House) -> None:
    app: EtuiApp = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.power.history.newest_ns is not None)
        await pilot.press("f5")
        await until(pilot, lambda: type(app.screen).__name__ == "RunsScreen")
        before = app.power.history.newest_ns
        assert before is not None
        await until(pilot, lambda: (app.power.history.newest_ns or 0) > before + S)
        assert app.power.history.channels == (TOTAL, "gpu:GPU-1")
