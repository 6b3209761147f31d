"""What the power panel costs: the share of a core that it takes to draw N channels.

Usage: python benchmarks/panel.py [CHANNELS] [SECONDS]
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from textual.app import App, ComposeResult

from etui.energy.sharing import DeviceVitals
from etui.energy.types import Channel, ChannelPower, Energy, Kind
from etui.tui.pacing import USUAL
from etui.tui.power.feed import PowerFeed, Stage
from etui.tui.power.panel import PowerPanel
from etui.tui.services import Vitals

if TYPE_CHECKING:
    from etui.tui.open_services import LiveMeter

HOUR_NS = 3_600_000_000_000


class ManyChannels:
    """A meter with ``count`` channels, most of them GPUs, whose watts move all the time."""

    def __init__(self, count: int) -> None:
        self._channels = tuple(
            Channel(f"gpu:{n}", f"gpu:{n}", Kind.COUNTER, limit_watts=350.0)
            if n < count - 2
            else Channel(f"package:{n}", f"package:{n}", Kind.COUNTER, limit_watts=150.0)
            for n in range(count)
        )

    def latest(self) -> Sequence[ChannelPower]:
        """Return watts that follow the clock."""
        now_ns = time.monotonic_ns()
        return [
            ChannelPower(c, now_ns, (c.limit_watts or 1) * (0.5 + 0.4 * math.sin(n + now_ns / 1e9)),
                         None, True)
            for n, c in enumerate(self._channels)
        ]  # fmt: skip

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return joules of a steady kilowatt."""
        return Energy(start_ns, end_ns, (end_ns - start_ns) / 1e6, 1.0, Kind.COUNTER, 1.0)

    def vitals(self) -> Vitals:
        """Return a state of every device."""
        return Vitals(
            {c.id: 20.0 for c in self._channels},
            devices=tuple(
                DeviceVitals(c.scope, 0.87, 61.0, 1980, 9000, None, 40_000_000_000, 48_000_000_000)
                for c in self._channels
            ),
        )


class PanelApp(App[None]):
    """An app with nothing but the panel, at its usual pace."""

    CSS_PATH = "../etui/tui/etui.tcss"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.feed = PowerFeed()
        self.panel = PowerPanel(self.feed)
        self.meter = ManyChannels(channels)

    def compose(self) -> ComposeResult:
        """Show the panel."""
        yield self.panel

    def tick(self) -> None:
        """Draw as the chat does at each of its ticks."""
        self.panel.show_power(cast("LiveMeter", self.meter), Stage.ANSWERING)


async def measure_panel(channels: int, seconds: float) -> float:
    """Return the CPU share of one core that the panel takes, after an hour of history.

    Args:
        channels: Number of power channels.
        seconds: Length of the measurement.
    """
    app = PanelApp(channels)
    async with app.run_test(size=(120, 36)):
        now_ns = time.monotonic_ns()
        watts: dict[str, float | None] = {p.channel.id: p.watts for p in app.meter.latest()}
        for number in range(14_000):
            app.feed.history.add(now_ns - HOUR_NS + number * 250_000_000, watts, "A")
        app.tick()
        await asyncio.sleep(1.0)
        idle = await _cpu_share(app, seconds, draw=False)
        return await _cpu_share(app, seconds, draw=True) - idle


async def _cpu_share(app: PanelApp, seconds: float, *, draw: bool) -> float:
    start, spent = time.monotonic(), time.thread_time()
    while time.monotonic() - start < seconds:
        if draw:
            app.tick()
        await asyncio.sleep(USUAL.tick_seconds)
    return (time.thread_time() - spent) / (time.monotonic() - start)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    length = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    share = asyncio.run(measure_panel(count, length))
    print(f"panel with {count} channels: {100 * share:.2f} % of one core (target: below 3 %)")
