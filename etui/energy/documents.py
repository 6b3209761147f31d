"""The meter's values for other programs: JSON, carbon and cost, Prometheus metrics.

The key names are part of the contract. Carbon and cost follow from the user's tariff alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from etui.energy.types import ChannelEnergy, Kind
from etui.extras import require_extra

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from etui.energy.recorder import Recorder
    from etui.energy.tariff import RateAt

_LABELS = ["channel", "scope", "kind", "in_total"]


def energy_document(
    energy: Any, of_turn: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the ``energy`` object of ``etui ask --json`` for an Energy, or the energy of a turn.

    Both have the same names. The keys that only a turn has follow the watts; ``wall`` is there with
    a calibration of the wall.
    """
    before = ("joules", "uncertainty", "net_joules", "idle_watts", "kind", "coverage")
    document = {name: getattr(energy, name) for name in (*before, "mean_watts", "peak_watts")}
    channels, wall = energy.channels, energy.wall
    return document | {
        "kind": None if energy.kind is None else str(energy.kind),
        **of_turn,
        "channels": channels
        if isinstance(channels, Mapping)
        else {part.id: part.joules for part in channels},
        "unmeasured": list(energy.unmeasured),
        "flags": list(energy.flags),
        "shared": energy.shared,
        "own_joules": energy.own_joules,
        **({"wall": asdict(wall) | {"kind": Kind.MODEL.value}} if wall is not None else {}),
        "start_ns": energy.start_ns,
        "end_ns": energy.end_ns,
    }


def power_document(
    recorder: Recorder, start_ns: int, end_ns: int, rate_at: RateAt | None = None
) -> dict[str, Any]:
    """Build a document of ``etui power --json``: the total, and every channel with its details.

    ``cost`` is in it if there is a tariff, of which ``rate_at`` is the rate; the interval ends now.
    """
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
                "wall": asdict(wall) if (wall := recorder.wall_state(row.channel.id)) else None,
                **_build_part(parts.get(row.channel.id)),
            }
            for row in recorder.latest()
        ],
    }
    if rate_at is not None:
        from etui.energy.tariff import price_energy

        now_s = time.time()
        cost = price_energy(energy, now_s - energy.seconds, now_s, rate_at)
        document |= {} if cost is None else {"cost": cost.to_json()}
    return document


def _build_part(part: ChannelEnergy | None) -> dict[str, Any]:
    """Build what was measured of a channel in the interval."""
    if part is None:
        return {"joules": None, "uncertainty": None, "coverage": 0.0, "flags": ["unmeasured"]}
    return {
        "kind": part.kind.value,  # integrated where the channel's counter stopped
        "joules": part.joules,
        "uncertainty": part.uncertainty,
        "coverage": part.coverage,
        "mean_watts": part.mean_watts,
        "peak_watts": part.peak_watts,
        "flags": list(part.flags),
    }


class PowerCollector:
    """Gives Prometheus the newest values of a recorder at each scrape.

    ``etui_energy_joules_total`` counts joules since etui started; ``etui_power_watts`` is the
    newest power. A channel without a reading has no sample, never a 0.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def collect(self) -> list[Any]:
        """Return the current metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        joules = CounterMetricFamily(
            "etui_energy_joules", "Joules of a channel since etui started.", labels=_LABELS
        )
        watts = GaugeMetricFamily("etui_power_watts", "Power of a channel now.", labels=_LABELS)
        for row in self._recorder.latest():
            total = "true" if row.in_total else "false"
            labels = [row.channel.id, row.channel.scope, row.channel.kind.value, total]
            if row.joules_since_start is not None:
                joules.add_metric(labels, max(row.joules_since_start, 0.0))
            if row.watts is not None:
                watts.add_metric(labels, row.watts)
        missing = GaugeMetricFamily(
            "etui_unmeasured", "A scope of this machine without a reading.", labels=["scope"]
        )
        for scope in self._recorder.unmeasured:
            missing.add_metric([scope], 1)
        return [joules, watts, missing]


def build_registry(recorder: Recorder) -> CollectorRegistry:
    """Build a registry of the recorder's metrics alone; UsageError without prometheus-client."""
    require_extra("prometheus", "the export to Prometheus")
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(PowerCollector(recorder))  # type: ignore[arg-type,unused-ignore]
    return registry


def format_metrics(recorder: Recorder) -> str:
    """Return the metrics in Prometheus' text format; UsageError without prometheus-client."""
    registry = build_registry(recorder)
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()
