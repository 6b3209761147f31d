"""Energy as JSON for other programs; the key names are part of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

from etui.energy.carbon_cost import CostDocument, Factors, cost_document, cost_of
from etui.energy.types import ChannelEnergy, Kind

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder


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
        """Whether other processes used a GPU of the sum."""

    @property
    def own_joules(self) -> float | None:
        """Joules of etui's own processes on a shared GPU; None when not known."""

    @property
    def start_ns(self) -> int:
        """Start on the monotonic clock, nanoseconds."""

    @property
    def end_ns(self) -> int:
        """End on the monotonic clock, nanoseconds."""


class _Part(TypedDict):
    """Measurements of a channel in the interval; the watts are absent where there are none."""

    kind: str
    joules: float | None
    uncertainty: float | None
    coverage: float
    mean_watts: NotRequired[float]
    peak_watts: NotRequired[float | None]
    flags: list[str]


class ChannelDocument(_Part):
    """One channel with its measurements in the interval."""

    id: str
    scope: str
    label: str
    in_total: bool
    limit_watts: float | None
    watts: float | None
    joules_since_start: float | None
    period_seconds: float | None


class PowerDocument(TypedDict):
    """A document of ``etui power --json``; ``cost`` is present when the user states a factor."""

    seconds: float
    energy: dict[str, Any]
    channels: list[ChannelDocument]
    cost: NotRequired[CostDocument]


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


def power_document(
    recorder: Recorder, start_ns: int, end_ns: int, factors: Factors | None = None
) -> PowerDocument:
    """Build a document of ``etui power --json``: the total, and every channel with its details."""
    energy = recorder.energy(start_ns, end_ns)
    parts = {part.id: part for part in (*energy.channels, *energy.cross_checks)}
    document: PowerDocument = {
        "seconds": energy.seconds,
        "energy": energy_document(energy),
        "channels": [
            {
                "id": row.channel.id,
                "scope": row.channel.scope,
                "label": row.channel.label,
                "kind": row.channel.kind.value,
                "in_total": row.in_total,
                "limit_watts": row.channel.limit_watts,
                "watts": row.watts,
                "joules_since_start": row.joules_since_start,
                "period_seconds": recorder.period_s(row.channel.id),
                **_part(parts.get(row.channel.id), row.channel.kind),
            }
            for row in recorder.latest()
        ],
    }
    cost = cost_of(energy.joules, factors) if factors else None
    if cost is not None:
        document["cost"] = cost_document(cost)
    return document


def _part(part: ChannelEnergy | None, kind: Kind) -> _Part:
    if part is None:
        return {
            "kind": kind.value,
            "joules": None,
            "uncertainty": None,
            "coverage": 0.0,
            "flags": ["unmeasured"],
        }
    return {
        "kind": part.kind.value,  # integrated where the channel's counter stopped
        "joules": part.joules,
        "uncertainty": part.uncertainty,
        "coverage": part.coverage,
        "mean_watts": part.mean_watts,
        "peak_watts": part.peak_watts,
        "flags": list(part.flags),
    }
