"""The energy record: figures of energy together with everything they depend on.

A record holds one measurement for each system (an arm, a policy, a turn, a setting of a sweep) on
each machine. Every measurement states the eleven conditions without which joules per token cannot
be compared: hardware, model version, precision, prompt length, output length, batch, utilisation,
framework, PUE, method and uncertainty. What is unknown is None, and ``missing`` says why.
``docs/files.md`` compares the fields with those of SCI for AI and of MLCommons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

from etui.codec import to_document
from etui.energy.types import Kind

RECORD_VERSION = 1
"""Version of the document; fields may be added without a new one."""
RECORD_FILE = "energy_record.json"
UNRECORDED = "not recorded"
CONFIDENCE_PERCENT = 95
"""Confidence of every half width and interval of a record."""
NO_SWEEP: Mapping[str, str] = dict.fromkeys(
    ("method.window_seconds", "method.cool_down_seconds", "method.paired_blocks"),
    "only a sweep has it",
)
"""Fields of a sweep -> why another record does not have them."""
SourceKind = Literal["bench", "turn", "sweep"]
FunctionalUnit = Literal["output_token", "question", "correct_answer"]
_POWER = 0.8
_TAIL = 0.975
_SENSORS = frozenset({Kind.COUNTER.value, Kind.INTEGRATED.value})
"""Kinds with an error of their own at each measurement. The error of the others is that of a
calibration, which two measurements share, so their half width says nothing about differences."""


@dataclass(frozen=True, slots=True)
class EnergyRecord:
    """The document of ``energy_record.json``."""

    schema_version: int
    source: Source  # Where the measurements come from
    measurements: tuple[Measurement, ...]  # One for each system on each machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Joules of one system on one machine, with their conditions."""

    name: str  # The arm, the policy, or the setting
    machine_key: str = ""  # Key of the machine in a run of several machines, else empty
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
class Source:
    """Where the measurements come from: a run, a turn or a sweep."""

    kind: SourceKind
    id: str
    created_at: str  # Its start, ISO 8601
    workload: str
    """What was answered: the suite and format of a run, one question of a turn, or the workload of
    a sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine."""

    machine: str | None  # Processor, number of CPUs, system and architecture
    memory_bytes: int | None = None
    threads: int | None  # Threads of llama.cpp
    channels: tuple[RecordChannel, ...]  # The power channels of the total
    power_limit_watts: tuple[float, ...] = ()
    """Power limits that were read back while measuring, ascending; empty if none was."""


@dataclass(frozen=True, slots=True)
class RecordChannel:
    """A power channel of the total."""

    id: str  # Its id, which begins with the scope
    kind: str | None = None  # How its energy is determined
    label: str | None = None
    limit_watts: float | None = None  # Power limit of the device


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordModel:
    """A model that answered."""

    name: str
    sha256: str | None  # Hash of its file
    file_bytes: int | None = None
    gpu_layers: int | None
    precision: Precision
    backend: str = ""  # The remote backend that served it; empty for this machine


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision of the numbers of a model."""

    weights: str | None
    kv_type: str | None
    flash_attention: str | None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How the joules were measured.

    Attributes:
        window_seconds, cool_down_seconds: Shortest phase, and pause before it, of a sweep.
    """

    kind: str | None  # The weakest kind of the channels (:class:`etui.energy.types.Kind`)
    joules: Literal["gross"] = "gross"  # `gross`: the idle power is included
    loads: Literal["excluded"] = "excluded"  # `excluded`: the loading of models is not included
    sample_hz: float | None  # Readings per second of each channel
    idle_watts: float | None = None
    """Idle power of the channels, as measured before; the base of ``net_joules``."""
    unmeasured: tuple[str, ...] | None = None  # Parts of the machine without a reading
    coverage: float | None = None  # Smallest share of an answer's time that was recorded, 0..1
    window_seconds: float | None = None
    cool_down_seconds: float | None = None
    paired_blocks: int | None = None


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
    joules: float | None = None  # Smallest difference of the total joules (`sensor`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What was measured; joules are those of the machine unless the name says ``facility``.

    Attributes:
        prefill_joules, decode_joules: ``it_joules`` by phase.
        mean_watts, peak_watts: Power of the channels.
    """

    questions: int  # Answers with measured joules, which all figures refer to
    correct: int | None = None  # Right answers among them
    computed_tokens: float | None  # Computed tokens of the prompts, shared prefixes included
    output_tokens: int | None  # Thinking and answer tokens
    seconds: float | None  # Time of the answers
    it_joules: float | None  # Gross joules of the machine
    facility_joules: float | None  # `it_joules` times the PUE
    net_joules: float | None = None  # `it_joules` less idle watts times seconds
    prefill_joules: float | None
    decode_joules: float | None
    mean_watts: float | None
    peak_watts: float | None = None
    joules_per_output_token: RecordFigure | None  # All joules over thinking and answer tokens
    joules_per_decoded_token: RecordFigure | None  # Joules of decoding over the same tokens
    joules_per_computed_token: RecordFigure | None  # Joules of prefill over its computed tokens
    joules_per_question: RecordFigure | None
    joules_per_correct: RecordFigure | None = None
    """Joules per right answer, those of wrong answers included."""
    percentiles: RecordPercentiles
    steady_state: SteadyState | None = None  # Whether the machine worked evenly
    early_answers: tuple[EarlyAnswer, ...] = ()
    """The first, second and tenth answer; empty if they are not known."""


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

    joules_per_question: Distribution | None = None
    joules_per_output_token: Distribution | None = None
    ttft_seconds: Distribution | None = None
    inter_token_seconds: Distribution | None = None


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Whether a machine worked evenly through the answers of one system."""

    is_steady: bool | None
    """True if every known drift is within the limit, False if one is shown to exist and may be
    beyond it, None if the answers cannot tell."""
    why: str  # The reason, in words
    answers: int  # Number of answers that were tested
    limit_percent: float  # The largest drift of a steady machine
    joules: Drift | None  # Drift of the joules; None if it cannot be computed
    seconds: Drift | None  # Drift of the time; None if it cannot be computed


@dataclass(frozen=True, slots=True)
class Drift:
    """Cost of the last third of the answers relative to the first third, at equal tokens.

    Attributes:
        low_percent, high_percent: Ends of its interval.
    """

    percent: float  # Difference in per cent; 4 means that the last third cost 4 % more
    low_percent: float
    high_percent: float
    p: float  # Two-sided p-value of no difference


@dataclass(frozen=True, slots=True)
class EarlyAnswer:
    """One of the first answers of a system, to compare with the later ones."""

    number: int  # 1 for the first answer
    joules: float | None  # Gross joules; None if unmeasured
    seconds: float
    output_tokens: int
    joules_per_output_token: float | None  # None if unmeasured or without output
    joules_per_token: float | None  # Joules per computed and output token; None if unmeasured
    percent_of_usual: float | None
    """Its joules in per cent of what the other answers of the run cost for as many tokens; None if
    that cannot be computed."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A field that is null."""

    field: str  # Its path in the measurement; `[]` is any element of a list
    why: str


def compute_sensor_floor(uncertainty: float | None, kind: str | None) -> float | None:
    """Compute the smallest difference in joules that the sensor alone can show.

    Both measurements have the half width ``u`` at 95 %, hence a standard error of ``u / z(0.975)``.
    A two-sided test at 5 % finds a true difference of ``(z(0.975) + z(0.8)) sqrt(2) u / z(0.975)``,
    about twice ``u``, with a probability of 80 % (Lachin, Controlled Clinical Trials 2, 1981).

    None if the half width is unknown, or does not come from a sensor.
    """
    if uncertainty is None or kind not in _SENSORS:
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf(_TAIL)
    return (quantile + normal.inv_cdf(_POWER)) * math.sqrt(2) * uncertainty / quantile


def explain_no_floor(uncertainty: float | None, kind: str | None) -> str:
    """Explain why :func:`compute_sensor_floor` returns None."""
    if kind is None:
        return "the energy is unmeasured"
    if uncertainty is None:
        return "the half width of the joules is unknown"
    return f"joules of kind {kind} have an error that both measurements share"


def describe_framework(versions: Mapping[str, object]) -> Framework:
    """Describe the programs by their versions; one without a version is None."""
    found = {name: versions.get(name) for name in Framework.__dataclass_fields__}
    return Framework(**{n: None if value is None else str(value) for n, value in found.items()})


def describe_single(value: float) -> Distribution:
    """Describe a figure of one answer, or one that all answers have."""
    return Distribution(1, float(value), float(value), float(value), float(value))


def build_uncertainty(half_width: float | None, joules: float | None, covers: str) -> Uncertainty:
    """Build the half width of a total in joules; ``covers`` says what it covers."""
    return Uncertainty(CONFIDENCE_PERCENT, half_width, _percent(half_width, joules), covers)


def build_sensor_floor(
    half_width: float | None, joules: float | None, kind: str | None
) -> RecordFloor | None:
    """Build the floor that follows from the error of the meter alone; None if it has none."""
    floor = compute_sensor_floor(half_width, kind)
    return None if floor is None else RecordFloor("sensor", _percent(floor, joules), floor)


def _percent(part: float | None, whole: float | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None


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

    ``reasons`` has the path of a field, or of an object around it, and why it is unknown; the
    longest path counts, and ``[]`` is any element of a list.
    """
    paths: dict[str, None] = {}
    _find_nulls("", to_document(replace(measurement, missing=())), paths)
    found = tuple(Missing(path, _find_reason(path, reasons)) for path in paths)
    return replace(measurement, missing=found)


def _find_nulls(path: str, value: Any, found: dict[str, None]) -> None:
    """Collect the paths of nulls, in their order; an export does this for every turn."""
    if value is None:
        found[path] = None
    elif isinstance(value, dict):
        before = f"{path}." if path else ""
        for key, inner in value.items():
            if inner is None or type(inner) not in _PLAIN:
                _find_nulls(before + key, inner, found)
    elif isinstance(value, list | tuple):
        for inner in value:
            _find_nulls(f"{path}[]", inner, found)


_PLAIN = frozenset({str, int, float, bool})


def _find_reason(path: str, reasons: Mapping[str, str]) -> str:
    while path:
        if path in reasons:
            return reasons[path]
        path = path[:-2] if path.endswith("[]") else path.rpartition(".")[0]
    return reasons.get("", UNRECORDED)
