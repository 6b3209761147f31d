"""Loads and unloads of models as records: timed by their events, metered like any interval."""

from __future__ import annotations

from uuid import uuid4

from etui.energy.types import EnergyOf
from etui.engine.events import Loaded, Unloaded
from etui.log.records import LoadRecord, UnloadRecord
from etui.text.timestamps import utc_now


def load_record(
    event: Loaded, model_sha256: str | None, energy_of: EnergyOf, turn_id: str | None = None
) -> LoadRecord:
    """The row of a load; ``turn_id`` is the turn that waited for it."""
    energy = energy_of(event.start_ns, event.end_ns)
    return LoadRecord(
        load_id=uuid4().hex[:12],
        created_at=utc_now(),
        model=event.model,
        model_sha256=model_sha256,
        turn_id=turn_id,
        seconds=(event.end_ns - event.start_ns) / 1e9,
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        kind=energy.kind,
        gpu_layers=event.gpu_layers,
        size_bytes=event.size_bytes,
    )


def unload_record(event: Unloaded, energy_of: EnergyOf, turn_id: str | None = None) -> UnloadRecord:
    """The row of a model given up; ``turn_id`` is the turn that needed the room."""
    energy = energy_of(event.start_ns, event.end_ns)
    return UnloadRecord(
        unload_id=uuid4().hex[:12],
        created_at=utc_now(),
        model=event.model,
        model_sha256=event.model_sha256,
        turn_id=turn_id,
        reason=event.reason,
        seconds=(event.end_ns - event.start_ns) / 1e9,
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        kind=energy.kind,
        freed_bytes=event.freed_bytes,
    )
