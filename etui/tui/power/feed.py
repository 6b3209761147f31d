"""Watts of every channel over the last hour: one record for all screens that show power.

The app owns it. The chat adds a reading at each of its ticks, also while another screen is shown,
so every screen begins with the hour before it was opened.
"""

from __future__ import annotations

from collections.abc import Sequence

from etui.energy.devices import ChannelState, join_states, total_watts
from etui.energy.types import ChannelPower
from etui.plots.power_history import TOTAL, PowerHistory
from etui.tui.services import Vitals


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
        """Add a reading of every channel.

        Args:
            phase: Letter of the phase of the running answer.
        """
        self.powers = tuple(powers)
        watts = {power.channel.id: power.watts for power in powers}
        self.history.add(now_ns, {TOTAL: total_watts(powers), **watts}, phase)
        own = {state.power.channel.id: state.own_watts for state in self.states()}
        counted = [own[power.channel.id] for power in powers if power.in_total]
        known = [each for each in counted if each is not None]
        if known:
            self.own.add(now_ns, {TOTAL: sum(known), **own})

    def states(self) -> tuple[ChannelState, ...]:
        """Return the newest state of every channel."""
        return join_states(self.powers, self.vitals.devices, self.vitals.idle_by_channel)
