"""Energy as JSON for other programs; the key names are part of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from etui.energy.types import ChannelEnergy


class EnergyFacts(Protocol):
    """Values that the energy of an interval and the energy of a turn have in common."""

    @property
    def joules(self) -> float | None:
        """Gross joules; None when nothing was measured."""

    @property
    def uncertainty(self) -> float | None:
        """Half width of ``joules`` at 95 %."""

    @property
    def net_joules(self) -> float | None:
        """Joules above idle; None without a baseline."""

    @property
    def idle_watts(self) -> float | None:
        """Idle watts of the total; None without a baseline."""

    @property
    def kind(self) -> str | None:
        """The weakest kind in the sum."""

    @property
    def coverage(self) -> float:
        """Share of the time that was recorded, 0..1."""

    @property
    def mean_watts(self) -> float | None:
        """Mean watts of the total."""

    @property
    def peak_watts(self) -> float | None:
        """Largest watts of the total."""

    @property
    def channels(self) -> Mapping[str, float] | tuple[ChannelEnergy, ...]:
        """Joules by channel id, or the energies of the channels."""

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Scopes without a reading."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Notes on the measurement (``coarse``, ``gap``, ...)."""

    @property
    def shared(self) -> bool:
        """Whether other processes used a GPU of the sum, or the CPUs of an estimate."""

    @property
    def own_joules(self) -> float | None:
        """Joules of etui's own processes on shared hardware; None when not known."""

    @property
    def start_ns(self) -> int:
        """Start on the monotonic clock, nanoseconds."""

    @property
    def end_ns(self) -> int:
        """End on the monotonic clock, nanoseconds."""


def energy_document(
    energy: EnergyFacts, of_turn: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return an energy as the ``energy`` object of ``etui ask --json``.

    Args:
        energy: Energy of an interval or of a turn.
        of_turn: The keys that only a turn has; they follow the watts.
    """
    channels = energy.channels
    return {
        "joules": energy.joules,
        "uncertainty": energy.uncertainty,
        "net_joules": energy.net_joules,
        "idle_watts": energy.idle_watts,
        "kind": None if energy.kind is None else str(energy.kind),
        "coverage": energy.coverage,
        "mean_watts": energy.mean_watts,
        "peak_watts": energy.peak_watts,
        **of_turn,
        "channels": channels
        if isinstance(channels, Mapping)
        else {part.id: part.joules for part in channels},
        "unmeasured": list(energy.unmeasured),
        "flags": list(energy.flags),
        "shared": energy.shared,
        "own_joules": energy.own_joules,
        "start_ns": energy.start_ns,
        "end_ns": energy.end_ns,
    }
