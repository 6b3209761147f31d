"""Watts of every channel over the last hour: one record for all screens that show power.

The app owns it. The chat adds a reading at each of its ticks, also while another screen is shown,
so every screen begins with the hour before it was opened.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum

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
    Stage.LOADING: ("L", "load"),
    Stage.PREFILL: ("P", "prefill"),
    Stage.THINKING: ("T", "think"),
    Stage.ANSWERING: ("A", "answer"),
}
"""Letter and word of the stages that have a mark."""

LEGEND = "  ".join(f"{letter} {word}" for letter, word in MARKS.values())


def mark_stage(stage: Stage) -> str:
    """Return the letter of a stage, or a space for a stage without a mark."""
    return MARKS[stage][0] if stage in MARKS else " "


class PowerFeed:
    """The last hour of watts, and the newest reading of every channel and device.

    Attributes:
        history: Watts by channel id, and ``TOTAL``; a total with an unknown part is unknown.
        own: Watts above idle that are etui's own, likewise; a total has the parts that are known.
        powers: Newest power of every channel.
        vitals: Newest state of every device.
    """

    def __init__(self) -> None:
        self.history = PowerHistory()
        self.own = PowerHistory()
        self.powers: tuple[ChannelPower, ...] = ()
        self.vitals = Vitals()

    def add(self, now_ns: int, powers: Sequence[ChannelPower], phase: str = " ") -> None:
        """Add a reading of every channel."""
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


class TimeWindow:
    """The time that graphs show, up to now or to the moment at which it is held."""

    def __init__(self, feed: PowerFeed, zoom: int) -> None:
        self._feed = feed
        self._zoom = zoom
        self._held: tuple[int, tuple[ChannelState, ...]] | None = None

    @property
    def seconds(self) -> float:
        return ZOOM_SECONDS[self._zoom]

    @property
    def is_held(self) -> bool:
        """Whether it stays where it is, while watts are still recorded."""
        return self._held is not None

    def zoom(self, steps: int) -> None:
        """Show more time for positive ``steps``, and less for negative ones."""
        self._zoom = max(0, min(len(ZOOM_SECONDS) - 1, self._zoom + steps))

    def pause(self) -> None:
        self._held = None if self._held else (time.monotonic_ns(), self._feed.states())

    def states(self) -> tuple[ChannelState, ...]:
        return self._feed.states() if self._held is None else self._held[1]

    def buckets(self, channel: str, count: int, *, own: bool = False) -> Buckets:
        """Return the watts of a channel in ``count`` equal parts."""
        end_ns = time.monotonic_ns() if self._held is None else self._held[0]
        history = self._feed.own if own else self._feed.history
        return history.buckets(channel, end_ns, self.seconds / count, count)
