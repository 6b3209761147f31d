"""The conditions of an energy record: where, with what and how its joules were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from etui.energy.detection_floor import compute_sensor_floor

CONFIDENCE_PERCENT = 95
"""Confidence of every half width and interval of a record."""

NO_SWEEP: Mapping[str, str] = dict.fromkeys(
    ("method.window_seconds", "method.cool_down_seconds", "method.paired_blocks"),
    "only a sweep has it",
)
"""Fields of a sweep -> why another record does not have them."""

SourceKind = Literal["bench", "turn", "sweep"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the measurements come from: a run, a turn or a sweep."""

    kind: SourceKind
    id: str
    created_at: str  # Its start, ISO 8601
    workload: str
    """What was answered: the suite and format of a run, one question of a turn, or the workload of
    a sweep."""


@dataclass(frozen=True, slots=True)
class RecordChannel:
    """A power channel of the total."""

    id: str  # Its id, which begins with the scope
    kind: str | None  # How its energy is determined
    label: str | None
    limit_watts: float | None  # Power limit of the device


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine."""

    machine: str | None  # Processor, number of CPUs, system and architecture
    memory_bytes: int | None
    threads: int | None  # Threads of llama.cpp
    channels: tuple[RecordChannel, ...]  # The power channels of the total
    power_limit_watts: tuple[float, ...]
    """Power limits that were read back while measuring, ascending; empty if none was."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision of the numbers of a model."""

    weights: str | None
    kv_type: str | None
    flash_attention: str | None


@dataclass(frozen=True, slots=True)
class RecordModel:
    """A model that answered."""

    name: str
    sha256: str | None  # Hash of its file
    file_bytes: int | None
    gpu_layers: int | None
    precision: Precision
    backend: str  # The remote backend that served it; empty for this machine


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and percentiles of a figure over answers, or over the gaps between tokens.

    Attributes:
        p50, p90, p95: Their percentiles.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p95: float


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """What was computed together."""

    sequences: int | None  # Most sequences decoded at the same time (votes)
    batch_tokens: int | None  # Most tokens of one batch of the prompt
    questions_together: int | None  # Most questions computed in one batch


@dataclass(frozen=True, slots=True)
class Utilisation:
    """How busy the measured devices were."""

    questions_at_a_time: int | None  # Questions in progress at the same time
    is_shared: bool | None  # Whether other processes used the measured devices at any time
    shared_share: float | None
    """Share of the answers (or visits of a sweep) during which they did, 0..1."""
    attribution: str | None
    """How the joules of shared batches were divided: ``exclusive`` if there were none, ``tokens``,
    ``shapley``, or ``none`` if the part of others is not known."""


@dataclass(frozen=True, slots=True)
class Framework:
    """Versions of the programs."""

    etui: str | None
    llama_cpp_python: str | None
    llama_cpp: str | None
    python: str | None


@dataclass(frozen=True, slots=True)
class Method:
    """How the joules were measured.

    Attributes:
        window_seconds, cool_down_seconds: Shortest phase, and pause before it, of a sweep.
    """

    kind: str | None  # The weakest kind of the channels (:class:`etui.energy.types.Kind`)
    joules: Literal["gross"]  # `gross`: the idle power is included
    loads: Literal["excluded"]  # `excluded`: the loading of models is not included
    sample_hz: float | None  # Readings per second of each channel
    idle_watts: float | None
    """Idle power of the channels, as measured before; the base of ``net_joules``."""
    unmeasured: tuple[str, ...] | None  # Parts of the machine without a reading
    coverage: float | None  # Smallest share of an answer's time that was recorded, 0..1
    window_seconds: float | None
    cool_down_seconds: float | None
    paired_blocks: int | None


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Half width of the total of the joules."""

    confidence_percent: int  # Confidence of every half width and interval of the measurement
    joules: float | None  # Half width of `results.it_joules` that is due to the meter
    percent: float | None  # The same in per cent of the joules
    covers: str  # What the half width and the intervals cover


@dataclass(frozen=True, slots=True)
class RecordFloor:
    """The smallest difference that could have been shown."""

    basis: Literal["sensor", "a/a"]
    """``sensor`` is the error of the meter alone, over all answers together; ``a/a`` comes from the
    same setting measured twice in each block, so it includes all other noise."""
    percent: float | None  # Smallest difference in per cent of the joules
    joules: float | None  # Smallest difference of the total joules (`sensor`)


def describe_framework(versions: Mapping[str, object]) -> Framework:
    """Describe the programs by their versions; one without a version is None.

    Args:
        versions: Program -> version; other keys are ignored.
    """
    found = {name: versions.get(name) for name in Framework.__dataclass_fields__}
    return Framework(**{n: None if value is None else str(value) for n, value in found.items()})


def describe_single(value: float) -> Distribution:
    """Describe a figure of one answer, or one that all answers have."""
    return Distribution(1, float(value), float(value), float(value), float(value))


def build_uncertainty(half_width: float | None, joules: float | None, covers: str) -> Uncertainty:
    """Build the half width of a total.

    Args:
        half_width: Joules; None if unknown.
        joules: The total; None if unmeasured.
        covers: What the half width and the intervals cover.
    """
    return Uncertainty(CONFIDENCE_PERCENT, half_width, _percent(half_width, joules), covers)


def build_sensor_floor(
    half_width: float | None, joules: float | None, kind: str | None
) -> RecordFloor | None:
    """Build the floor that follows from the error of the meter alone; None if it has none.

    Args:
        half_width: Half width of the total in joules; None if unknown.
        joules: The total; None if unmeasured.
        kind: How the joules were determined (:class:`etui.energy.types.Kind`).
    """
    floor = compute_sensor_floor(half_width, kind)
    return None if floor is None else RecordFloor("sensor", _percent(floor, joules), floor)


def _percent(part: float | None, whole: float | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None
