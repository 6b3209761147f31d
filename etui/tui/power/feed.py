"""Watts of every channel over the last hour: one record for all screens that show power.

The app owns it. The chat adds a reading at each of its ticks, also while another screen is shown,
so every screen begins with the hour before it was opened.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from math import ceil

from etui import units
from etui.energy.devices import ChannelState, join_states, total_watts
from etui.energy.types import ChannelPower
from etui.plots.power_history import TOTAL, ZOOM_SECONDS, Buckets, PowerHistory
from etui.tui.services import Vitals


class Stage(StrEnum):
    """What a turn is doing, in the words shown on the screen."""

    QUEUED = "queued"
    ROUTING = "routing"
    LOADING = "loading"
    PREFILL = "reading the prompt"
    THINKING = "thinking"
    ANSWERING = "answering"
    TOOL = "running a tool"
    DONE = "done"


MARKS = {
    Stage.LOADING: "L",
    Stage.PREFILL: "P",
    Stage.THINKING: "T",
    Stage.ANSWERING: "A",
}
"""Letters of the stages that have a mark."""


def mark_stage(stage: Stage) -> str:
    """Return the letter of a stage, or a space for a stage without a mark."""
    return MARKS.get(stage, " ")


class PowerFeed:
    """The last hour of watts, and the newest reading of every channel and device."""

    def __init__(self) -> None:
        self.history = PowerHistory()
        """Watts by channel id, and ``TOTAL``; a total with an unknown part is unknown."""
        self.own = PowerHistory()
        """Watts above idle that are etui's own; a total has the parts that are known."""
        self.powers: tuple[ChannelPower, ...] = ()
        self.vitals = Vitals()

    def add(self, now_ns: int, powers: Sequence[ChannelPower], phase: str = " ") -> None:
        self.powers = tuple(powers)
        watts = {power.channel.id: power.watts for power in powers}
        self.history.add(now_ns, {TOTAL: total_watts(powers), **watts}, phase)
        own = {state.power.channel.id: state.own_watts for state in self.states()}
        counted = [own[power.channel.id] for power in powers if power.in_total]
        known = [each for each in counted if each is not None]
        if known:
            self.own.add(now_ns, {TOTAL: sum(known), **own})

    def states(self) -> tuple[ChannelState, ...]:
        return join_states(self.powers, self.vitals.devices, self.vitals.idle_by_channel)


SINCE_START = len(ZOOM_SECONDS)
"""The zoom after the last one: all that is recorded, in steps so that the graph seldom jumps."""


class TimeWindow:
    """The time that graphs show, up to now or to the moment at which it is held."""

    def __init__(self, feed: PowerFeed, zoom: int) -> None:
        self._feed = feed
        self._zoom = zoom
        self._held: tuple[int, tuple[ChannelState, ...]] | None = None

    @property
    def seconds(self) -> float:
        if self._zoom < SINCE_START:
            return ZOOM_SECONDS[self._zoom]
        oldest_ns, end_ns = self._feed.history.oldest_ns, self._end_ns
        recorded = 0.0 if oldest_ns is None else (end_ns - oldest_ns) / 1e9
        step = 10.0 if recorded < ZOOM_SECONDS[1] else 60.0
        return min(ZOOM_SECONDS[-1], step * max(1, ceil(recorded / step)))

    @property
    def span_text(self) -> str:
        """The time in words: ``last 2 min``, ``since start``."""
        whole = self._zoom == SINCE_START and self.seconds < ZOOM_SECONDS[-1]
        return "since start" if whole else f"last {units.span_text(self.seconds)}"

    @property
    def is_held(self) -> bool:
        """Whether it stays where it is, while watts are still recorded."""
        return self._held is not None

    def zoom(self, steps: int) -> None:
        """Show more time for positive ``steps``, and less for negative ones."""
        self._zoom = max(0, min(SINCE_START, self._zoom + steps))

    def pause(self) -> None:
        self._held = None if self._held else (time.monotonic_ns(), self._feed.states())

    @property
    def _end_ns(self) -> int:
        return time.monotonic_ns() if self._held is None else self._held[0]

    def states(self) -> tuple[ChannelState, ...]:
        return self._feed.states() if self._held is None else self._held[1]

    def buckets(self, channel: str, count: int, *, own: bool = False) -> Buckets:
        end_ns = self._end_ns
        history = self._feed.own if own else self._feed.history
        return history.buckets(channel, end_ns, self.seconds / count, count)
