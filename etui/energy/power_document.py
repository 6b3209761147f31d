"""Build the JSON of ``etui power``: every channel, and what it did in an interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from etui.energy.carbon_cost import CostDocument, Factors, build_cost_document, compute_cost
from etui.energy.documents import energy_document
from etui.energy.types import ChannelEnergy, Kind

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder


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
    cost = compute_cost(energy.joules, factors) if factors else None
    if cost is not None:
        document["cost"] = build_cost_document(cost)
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
