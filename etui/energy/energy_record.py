"""The energy record: figures of energy together with everything they depend on.

A record holds one measurement for each system (an arm, a policy, a turn, a setting of a sweep) on
each machine. Every measurement states the eleven conditions without which joules per token cannot
be compared: hardware, model version, precision, prompt length, output length, batch, utilisation,
framework, PUE, method and uncertainty. What is unknown is None, and ``missing`` says why.
``docs/energy-record.md`` compares the fields with those of SCI for AI and of MLCommons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from etui.energy.steadiness import EarlyAnswer, SteadyState
from etui.text.codec import to_document

RECORD_VERSION = 1
"""Version of the document; fields may be added without a new one."""

RECORD_FILE = "energy_record.json"
CONFIDENCE_PERCENT = 95
UNRECORDED = "not recorded"

SourceKind = Literal["bench", "turn", "sweep"]
FunctionalUnit = Literal["output_token", "question", "correct_answer"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the measurements come from: a run, a turn or a sweep.

    Attributes:
        kind: What it is.
        id: Its id.
        created_at: Its start, ISO 8601.
        workload: What was answered: the suite and format of a run, one question of a turn, or the
            workload of a sweep.
    """

    kind: SourceKind
    id: str
    created_at: str
    workload: str


@dataclass(frozen=True, slots=True)
class RecordChannel:
    """A power channel of the total.

    Attributes:
        id: Its id, which begins with the scope.
        kind: How its energy is determined.
        label: Name of the device.
        limit_watts: Power limit of the device.
    """

    id: str
    kind: str | None
    label: str | None
    limit_watts: float | None


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine.

    Attributes:
        machine: Processor, number of CPUs, system and architecture.
        memory_bytes: Size of its memory.
        threads: Threads of llama.cpp.
        channels: The power channels of the total.
        power_limit_watts: Power limits that were read back while measuring, ascending; empty if
            none was.
    """

    machine: str | None
    memory_bytes: int | None
    threads: int | None
    channels: tuple[RecordChannel, ...]
    power_limit_watts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision of the numbers of a model.

    Attributes:
        weights: Quantisation of the weights.
        kv_type: Type of the KV cache.
        flash_attention: Setting of flash attention.
    """

    weights: str | None
    kv_type: str | None
    flash_attention: str | None


@dataclass(frozen=True, slots=True)
class RecordModel:
    """A model that answered.

    Attributes:
        name: Its name in models.yaml.
        sha256: Hash of its file.
        file_bytes: Size of its file.
        gpu_layers: Layers on the GPU.
        precision: Its precision.
        backend: The remote backend that served it; empty for this machine.
    """

    name: str
    sha256: str | None
    file_bytes: int | None
    gpu_layers: int | None
    precision: Precision
    backend: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and percentiles of a figure over answers, or over the gaps between tokens.

    Attributes:
        count: Number of values.
        mean: Their mean.
        p50, p90, p95: Their percentiles.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p95: float


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """What was computed together.

    Attributes:
        sequences: Most sequences decoded at the same time (votes).
        batch_tokens: Most tokens of one batch of the prompt.
        questions_together: Most questions computed in one batch.
    """

    sequences: int | None
    batch_tokens: int | None
    questions_together: int | None


@dataclass(frozen=True, slots=True)
class Utilisation:
    """How busy the measured devices were.

    Attributes:
        questions_at_a_time: Questions in progress at the same time.
        is_shared: Whether other processes used the measured devices at any time.
        shared_share: Share of the answers (or visits of a sweep) during which they did, 0..1.
        attribution: How the joules of shared batches were divided: ``exclusive`` if there were
            none, ``tokens``, ``shapley``, or ``none`` if the part of others is not known.
    """

    questions_at_a_time: int | None
    is_shared: bool | None
    shared_share: float | None
    attribution: str | None


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
        kind: The weakest kind of the channels (:class:`etui.energy.types.Kind`).
        joules: ``gross``: the idle power is included.
        loads: ``excluded``: the loading of models is not included.
        sample_hz: Readings per second of each channel.
        idle_watts: Idle power of the channels, as measured before; the base of ``net_joules``.
        unmeasured: Parts of the machine without a reading.
        coverage: Smallest share of an answer's time that was recorded, 0..1.
        window_seconds, cool_down_seconds: Shortest phase, and pause before it, of a sweep.
        paired_blocks: Blocks of a sweep.
    """

    kind: str | None
    joules: Literal["gross"]
    loads: Literal["excluded"]
    sample_hz: float | None
    idle_watts: float | None
    unmeasured: tuple[str, ...] | None
    coverage: float | None
    window_seconds: float | None
    cool_down_seconds: float | None
    paired_blocks: int | None


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Half width of the total of the joules.

    Attributes:
        confidence_percent: Confidence of every half width and interval of the measurement.
        joules: Half width of ``results.it_joules`` that is due to the meter.
        percent: The same in per cent of the joules.
        covers: What the half width and the intervals cover.
    """

    confidence_percent: int
    joules: float | None
    percent: float | None
    covers: str


@dataclass(frozen=True, slots=True)
class RecordFloor:
    """The smallest difference that could have been shown.

    Attributes:
        basis: ``sensor`` is the error of the meter alone, over all answers together; ``a/a`` comes
            from the same setting measured twice in each block, so it includes all other noise.
        percent: Smallest difference in per cent of the joules.
        joules: Smallest difference of the total joules (``sensor``).
    """

    basis: Literal["sensor", "a/a"]
    percent: float | None
    joules: float | None


@dataclass(frozen=True, slots=True)
class RecordFigure:
    """Joules per functional unit.

    Attributes:
        it_joules: Joules of the machine.
        low, high: Its interval; None if an end is unknown.
        sensor: The part of its half width that is due to the meter.
        facility_joules: ``it_joules`` times the PUE.
    """

    it_joules: float
    low: float | None
    high: float | None
    sensor: float | None
    facility_joules: float


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
        questions: Answers with measured joules, which all figures refer to.
        correct: Right answers among them.
        computed_tokens: Computed tokens of the prompts, shared prefixes included.
        output_tokens: Thinking and answer tokens.
        seconds: Time of the answers.
        it_joules: Gross joules of the machine.
        facility_joules: ``it_joules`` times the PUE.
        net_joules: ``it_joules`` less idle watts times seconds.
        prefill_joules, decode_joules: ``it_joules`` by phase.
        mean_watts, peak_watts: Power of the channels.
        joules_per_output_token: All joules over thinking and answer tokens.
        joules_per_decoded_token: Joules of decoding over the same tokens.
        joules_per_computed_token: Joules of prefill over its computed tokens.
        joules_per_question: Joules per question.
        joules_per_correct: Joules per right answer, those of wrong answers included.
        percentiles: Percentiles.
        steady_state: Whether the machine worked evenly.
        early_answers: The first, second and tenth answer; empty if they are not known.
    """

    questions: int
    correct: int | None
    computed_tokens: float | None
    output_tokens: int | None
    seconds: float | None
    it_joules: float | None
    facility_joules: float | None
    net_joules: float | None
    prefill_joules: float | None
    decode_joules: float | None
    mean_watts: float | None
    peak_watts: float | None
    joules_per_output_token: RecordFigure | None
    joules_per_decoded_token: RecordFigure | None
    joules_per_computed_token: RecordFigure | None
    joules_per_question: RecordFigure | None
    joules_per_correct: RecordFigure | None
    percentiles: RecordPercentiles
    steady_state: SteadyState | None
    early_answers: tuple[EarlyAnswer, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A field that is null.

    Attributes:
        field: Its path in the measurement; ``[]`` is any element of a list.
        why: Why it is unknown.
    """

    field: str
    why: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """Joules of one system on one machine, with their conditions.

    Attributes:
        name: The arm, the policy, or the setting.
        machine_key: Key of the machine in a run of several machines, else empty.
        hardware: The machine.
        models: The models that answered.
        prompt_tokens: Length of the prompts, reused tokens included.
        output_tokens: Length of the outputs, thinking included.
        batch: What was computed together.
        utilisation: How busy the devices were.
        framework: Versions of the programs.
        pue: Power usage effectiveness of the place, as the user states it; 1 at home.
        method: How the joules were measured.
        uncertainty: Half width of the joules.
        detection_floor: Smallest difference that could have been shown; None if unknown.
        functional_units: Units that ``results`` has joules for.
        results: What was measured.
        missing: Every field that is None, and why.
    """

    name: str
    machine_key: str
    hardware: Hardware
    models: tuple[RecordModel, ...]
    prompt_tokens: Distribution | None
    output_tokens: Distribution | None
    batch: BatchSizes
    utilisation: Utilisation
    framework: Framework
    pue: float
    method: Method
    uncertainty: Uncertainty
    detection_floor: RecordFloor | None
    functional_units: tuple[FunctionalUnit, ...]
    results: Results
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True)
class EnergyRecord:
    """The document of ``energy_record.json``.

    Attributes:
        schema_version: :data:`RECORD_VERSION`.
        source: Where the measurements come from.
        measurements: One for each system on each machine.
    """

    schema_version: int
    source: Source
    measurements: tuple[Measurement, ...]


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
        measurement: The measurement, without the list.
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
