"""The energy record: figures of energy together with everything they depend on.

A record holds one measurement for each system (an arm, a policy, a turn, a setting of a sweep) on
each machine. Every measurement states the eleven conditions without which joules per token cannot
be compared: hardware, model version, precision, prompt length, output length, batch, utilisation,
framework, PUE, method and uncertainty. What is unknown is None, and ``missing`` says why.
``docs/files.md`` compares the fields with those of SCI for AI and of MLCommons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from etui.codec import to_document
from etui.energy.record_conditions import (
    BatchSizes,
    Distribution,
    Framework,
    Hardware,
    Method,
    RecordFloor,
    RecordModel,
    Source,
    Uncertainty,
    Utilisation,
)
from etui.energy.steadiness import EarlyAnswer, SteadyState

RECORD_VERSION = 1
"""Version of the document; fields may be added without a new one."""

RECORD_FILE = "energy_record.json"
UNRECORDED = "not recorded"

FunctionalUnit = Literal["output_token", "question", "correct_answer"]


@dataclass(frozen=True, slots=True)
class RecordFigure:
    """Joules per functional unit.

    Attributes:
        low, high: Its interval; None if an end is unknown.
    """

    it_joules: float
    low: float | None
    high: float | None
    sensor: float | None  # The part of its half width that is due to the meter
    facility_joules: float  # `it_joules` times the PUE


@dataclass(frozen=True, slots=True)
class RecordPercentiles:
    """Percentiles over answers (joules, time to first token) and over all gaps between tokens."""

    joules_per_question: Distribution | None
    joules_per_output_token: Distribution | None
    ttft_seconds: Distribution | None
    inter_token_seconds: Distribution | None


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured; joules are those of the machine unless the name says ``facility``.

    Attributes:
        prefill_joules, decode_joules: ``it_joules`` by phase.
        mean_watts, peak_watts: Power of the channels.
    """

    questions: int  # Answers with measured joules, which all figures refer to
    correct: int | None  # Right answers among them
    computed_tokens: float | None  # Computed tokens of the prompts, shared prefixes included
    output_tokens: int | None  # Thinking and answer tokens
    seconds: float | None  # Time of the answers
    it_joules: float | None  # Gross joules of the machine
    facility_joules: float | None  # `it_joules` times the PUE
    net_joules: float | None  # `it_joules` less idle watts times seconds
    prefill_joules: float | None
    decode_joules: float | None
    mean_watts: float | None
    peak_watts: float | None
    joules_per_output_token: RecordFigure | None  # All joules over thinking and answer tokens
    joules_per_decoded_token: RecordFigure | None  # Joules of decoding over the same tokens
    joules_per_computed_token: RecordFigure | None  # Joules of prefill over its computed tokens
    joules_per_question: RecordFigure | None
    joules_per_correct: RecordFigure | None
    """Joules per right answer, those of wrong answers included."""
    percentiles: RecordPercentiles
    steady_state: SteadyState | None  # Whether the machine worked evenly
    early_answers: tuple[EarlyAnswer, ...]
    """The first, second and tenth answer; empty if they are not known."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A field that is null."""

    field: str  # Its path in the measurement; `[]` is any element of a list
    why: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """Joules of one system on one machine, with their conditions."""

    name: str  # The arm, the policy, or the setting
    machine_key: str  # Key of the machine in a run of several machines, else empty
    hardware: Hardware
    models: tuple[RecordModel, ...]
    prompt_tokens: Distribution | None  # Length of the prompts, reused tokens included
    output_tokens: Distribution | None  # Length of the outputs, thinking included
    batch: BatchSizes  # What was computed together
    utilisation: Utilisation  # How busy the devices were
    framework: Framework  # Versions of the programs
    pue: float  # Power usage effectiveness of the place, as the user states it; 1 at home
    method: Method  # How the joules were measured
    uncertainty: Uncertainty  # Half width of the joules
    detection_floor: RecordFloor | None
    """Smallest difference that could have been shown; None if unknown."""
    functional_units: tuple[FunctionalUnit, ...]  # Units that `results` has joules for
    results: Results
    missing: tuple[Missing, ...] = ()  # Every field that is None, and why


@dataclass(frozen=True, slots=True)
class EnergyRecord:
    """The document of ``energy_record.json``."""

    schema_version: int
    source: Source  # Where the measurements come from
    measurements: tuple[Measurement, ...]  # One for each system on each machine


def build_figure(
    joules: float | None,
    pue: float,
    low: float | None = None,
    high: float | None = None,
    sensor: float | None = None,
) -> RecordFigure | None:
    """Build joules per functional unit; None if unmeasured. What is not finite is None."""
    if joules is None or not math.isfinite(joules):
        return None
    low, high, sensor = (
        None if end is None or not math.isfinite(end) else float(end) for end in (low, high, sensor)
    )
    return RecordFigure(float(joules), low, high, sensor, float(joules) * pue)


def list_functional_units(results: Results) -> tuple[FunctionalUnit, ...]:
    """List the functional units that results have joules for."""
    figures: dict[FunctionalUnit, RecordFigure | None] = {
        "output_token": results.joules_per_output_token,
        "question": results.joules_per_question,
        "correct_answer": results.joules_per_correct,
    }
    return tuple(unit for unit, figure in figures.items() if figure is not None)


def explain_missing(measurement: Measurement, reasons: Mapping[str, str]) -> Measurement:
    """Return a measurement with the list of its null fields.

    Args:
        reasons: Path of a field, or of an object around it, -> why it is unknown. The longest path
            counts; ``[]`` is any element of a list.
    """
    paths = dict.fromkeys(_find_nulls("", to_document(replace(measurement, missing=()))))
    found = tuple(Missing(path, _find_reason(path, reasons)) for path in paths)
    return replace(measurement, missing=found)


def _find_nulls(path: str, value: Any) -> Iterator[str]:
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _find_nulls(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _find_nulls(f"{path}[]", inner)


def _find_reason(path: str, reasons: Mapping[str, str]) -> str:
    while path:
        if path in reasons:
            return reasons[path]
        path = path[:-2] if path.endswith("[]") else path.rpartition(".")[0]
    return reasons.get("", UNRECORDED)
