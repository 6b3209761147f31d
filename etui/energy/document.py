"""Energy as the JSON that other programs read; the key names are the contract's."""

from __future__ import annotations

from typing import Any

from etui.energy.cost import Factors, cost_document, cost_of
from etui.energy.recorder import Recorder
from etui.energy.types import ChannelEnergy, Energy


def energy_document(energy: Energy) -> dict[str, Any]:
    """An interval's energy, with the keys of ``energy`` in ``etui ask --json``."""
    return {
        "joules": energy.joules,
        "uncertainty": energy.uncertainty,
        "net_joules": energy.net_joules,
        "idle_watts": energy.idle_watts,
        "kind": energy.kind.value if energy.kind else None,
        "coverage": energy.coverage,
        "mean_watts": energy.mean_watts,
        "peak_watts": energy.peak_watts,
        "channels": {part.id: part.joules for part in energy.channels},
        "unmeasured": list(energy.unmeasured),
        "flags": list(energy.flags),
        "shared": energy.shared,
        "own_joules": energy.own_joules,
        "start_ns": energy.start_ns,
        "end_ns": energy.end_ns,
    }


def power_document(
    recorder: Recorder, start_ns: int, end_ns: int, factors: Factors | None = None
) -> dict[str, Any]:
    """One document of ``etui power --json``: the total, and every channel with its details."""
    energy = recorder.energy(start_ns, end_ns)
    parts = {part.id: part for part in (*energy.channels, *energy.cross_checks)}
    document: dict[str, Any] = {
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
                **_part(parts.get(row.channel.id)),
            }
            for row in recorder.latest()
        ],
    }
    cost = cost_of(energy.joules, factors) if factors else None
    if cost is not None:
        document["cost"] = cost_document(cost)
    return document


def _part(part: ChannelEnergy | None) -> dict[str, Any]:
    if part is None:
        return {"joules": None, "uncertainty": None, "coverage": 0.0, "flags": ["unmeasured"]}
    return {
        "kind": part.kind.value,  # a counter that fell silent was integrated
        "joules": part.joules,
        "uncertainty": part.uncertainty,
        "coverage": part.coverage,
        "mean_watts": part.mean_watts,
        "peak_watts": part.peak_watts,
        "flags": list(part.flags),
    }
