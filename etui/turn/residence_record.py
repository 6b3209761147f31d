"""Records of loads and unloads of models, as stored in the log and written as JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One load of a model, whose joules count for no turn.

    ``turn_id`` is the turn that waited for it; None for a load before a question.
    """

    load_id: str
    created_at: str
    model: str
    model_sha256: str | None
    turn_id: str | None
    seconds: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    gpu_layers: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UnloadRecord:
    """An unload; ``reason`` and ``freed_bytes`` as in :class:`etui.events.Unloaded`.

    ``turn_id`` is the turn that needed the memory; None if no turn did. The idle watts are those
    of the machine in the last seconds before the unload, in a few seconds after the engine's
    process has ended (only after the last model), and of the cold baseline at that time; half
    widths at 95 %. They are None if they were not measured.
    """

    unload_id: str
    created_at: str
    model: str
    model_sha256: str | None
    turn_id: str | None
    reason: str
    seconds: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    freed_bytes: int
    idle_before_watts: float | None = None
    idle_before_uncertainty: float | None = None
    idle_after_watts: float | None = None
    idle_after_uncertainty: float | None = None
    idle_cold_watts: float | None = None
    idle_cold_uncertainty: float | None = None
