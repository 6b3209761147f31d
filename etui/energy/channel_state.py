"""The state of each power channel at a moment: its watts, its device, and etui's part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.energy.scopes import family
from etui.energy.types import ChannelPower, Kind

if TYPE_CHECKING:
    from etui.energy.device_vitals import DeviceVitals

_FIRST = ("gpu", "package", "estimate")


@dataclass(frozen=True, slots=True)
class ChannelState:
    """One power channel at a moment; None where a value is not reported."""

    power: ChannelPower  # Its newest watts
    device: DeviceVitals
    """State of the device that it measures; all None where no driver reports one."""
    idle_watts: float | None = None

    @property
    def limit_watts(self) -> float | None:
        """The power limit that is in force."""
        return self.device.limit_watts or self.power.channel.limit_watts

    @property
    def kind(self) -> str | None:
        """``estimate`` for an estimate, for :mod:`etui.units`."""
        kind = self.power.channel.kind
        return kind.value if kind is Kind.ESTIMATE else None

    @property
    def own_watts(self) -> float | None:
        """Watts above idle that are etui's own, by its part of the use; None when unknown."""
        if self.power.watts is None or self.device.own_share is None:
            return None
        return max(self.power.watts - (self.idle_watts or 0.0), 0.0) * self.device.own_share

    @property
    def others_watts(self) -> float | None:
        """Watts above idle of all other programs; None when unknown."""
        own = self.own_watts
        if self.power.watts is None or own is None:
            return None
        return max(self.power.watts - (self.idle_watts or 0.0) - own, 0.0)


def join_states(
    powers: Sequence[ChannelPower],
    devices: Sequence[DeviceVitals],
    idle_by_channel: Mapping[str, float],
) -> tuple[ChannelState, ...]:
    """Join the watts of every channel with the state of its device: GPUs first, then CPUs."""
    from etui.energy.device_vitals import DeviceVitals  # with the meter, after the first paint

    by_scope = {device.scope: device for device in devices}
    states = [
        ChannelState(
            power,
            by_scope.get(power.channel.scope) or DeviceVitals(power.channel.scope),
            idle_by_channel.get(power.channel.id),
        )
        for power in powers
    ]
    return tuple(sorted(states, key=_rank))


def _rank(state: ChannelState) -> tuple[bool, int]:
    """Order states: the total before its cross-checks, GPUs and CPUs before their parts."""
    kind = family(state.power.channel.scope)
    return not state.power.in_total, _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def total_watts(powers: Sequence[ChannelPower]) -> float | None:
    """Sum the watts of the channels in the total; None if there is none or one is unknown."""
    counted = [power.watts for power in powers if power.in_total]
    known = [watts for watts in counted if watts is not None]
    return sum(known) if known and len(known) == len(counted) else None


def total_idle_watts(states: Sequence[ChannelState]) -> float | None:
    """Sum the idle baselines of the channels in the total; None if one has none."""
    idle = [state.idle_watts for state in states if state.power.in_total]
    known = [watts for watts in idle if watts is not None]
    return sum(known) if known and len(known) == len(idle) else None


def total_kind(states: Sequence[ChannelState]) -> str | None:
    """Return ``estimate`` if a channel in the total is one, for :mod:`etui.units`."""
    return next((s.kind for s in states if s.power.in_total and s.kind), None)


def total_limit_watts(states: Sequence[ChannelState]) -> float | None:
    """Sum the power limits of the channels in the total; None if one has none."""
    limits = [state.limit_watts for state in states if state.power.in_total]
    known = [limit for limit in limits if limit is not None]
    return sum(known) if known and len(known) == len(limits) else None
