"""Result files of a run, its energy record, and the data that they need besides the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etui.bench.config import BenchMachine, BenchModel, RunConfig
from etui.bench.cost import (
    Cost,
    CostFigure,
    CostOverTime,
    compute_cost,
    compute_distribution,
    compute_percentiles,
)
from etui.bench.folder import MARKDOWN, PER_SUBJECT, REPORT, SUMMARY, RunFolder
from etui.bench.formats import FORMATS
from etui.bench.machines import list_machines
from etui.bench.page import Texts, render_page
from etui.bench.precision import RunPrecision
from etui.bench.sample import Sample
from etui.bench.summary import Summary, group_samples, summarise, summary_document
from etui.bench.summary_text import markdown, per_subject_csv
from etui.codec import from_document, to_document
from etui.config.config import Config
from etui.datasets.mmlu import FILE_NAME, read_labels, suite_dir
from etui.datasets.suites import SAMPLE, is_named_suite
from etui.energy import energy_record as record
from etui.errors import EtuiError


def load_texts(run: RunConfig, config: Config, data: Path | None = None) -> Texts | None:
    """Load the questions of a run by subject and row, if the same files are on this machine.

    Nothing is downloaded. ``data`` is the current path of the data; None uses that of the run.
    """
    from etui.datasets.suites import SAMPLE, is_named_suite, load_suite

    place = data or _find_data(run, config)
    # Without a place, a suite with a name would be downloaded.
    downloads = is_named_suite(run.suite) and run.suite != SAMPLE
    if downloads and (place is None or not place.exists()):
        return None
    try:
        if downloads:
            suite = load_suite(run.suite, run.split, place, config)
        else:
            suite = load_suite(str(place or run.suite), run.split, None, config)
    except EtuiError:
        return None  # the report is useful without texts too
    if suite.sha256 != run.data_sha256:
        return None
    return {
        (question.subject, question.row): question
        for rows in suite.questions.values()
        for question in rows
    }


def load_labels(
    run: RunConfig, config: Config, redux: Path | None = None
) -> dict[str, dict[int, str]] | None:
    """Read the labels of MMLU-Redux from a given file, or from the data folder if it has them.

    InvalidFile if the given file contains no labels; OSError if the given file cannot be read.
    """
    if redux is not None:
        return read_labels(redux)
    place = _find_data(run, config)
    found = place / FILE_NAME if place is not None and place.is_dir() else None
    if found is None or not found.is_file():
        return None
    try:
        return read_labels(found)
    except (EtuiError, OSError):
        return None  # the labels were not requested, and the run itself is valid


def _find_data(run: RunConfig, config: Config) -> Path | None:
    if run.data_path is not None:
        return Path(run.data_path)
    if run.suite == SAMPLE or not is_named_suite(run.suite):
        return None
    return suite_dir(config, run.suite)


def load_precision(folder: Path) -> RunPrecision | None:
    """Load the precision of a run from its last summary; None if it has none.

    The interim checks of a run belong to it: they cannot be computed again without its questions.
    """
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        found = document.get("precision")
        return None if found is None else from_document(RunPrecision, found)
    except (OSError, ValueError, AttributeError):
        return None  # the report is written without it


def result_files(
    run: RunConfig,
    samples: Sequence[Sample],
    summary: Summary,
    texts: Texts | None = None,
) -> dict[str, str]:
    """Build the result files of a run folder, its energy record included: file name -> text."""
    return {
        SUMMARY: _to_json(summary_document(summary)),
        PER_SUBJECT: per_subject_csv(summary),
        REPORT: render_page(summary, run, samples, texts),
        MARKDOWN: markdown(summary, run),
        record.RECORD_FILE: _to_json(build_energy_record(run, samples, summary)),
    }


def write_results(
    folder: RunFolder,
    config: RunConfig,
    samples: Sequence[Sample],
    settings: Config,
    precision: RunPrecision | None = None,
) -> Summary:
    """Write the result files of a run into its folder, with the texts of its questions."""
    labels, texts = load_labels(config, settings), load_texts(config, settings)
    summary = summarise(samples, config, labels, precision)
    for name, text in result_files(config, samples, summary, texts).items():
        folder.write(name, text)
    return summary


def _to_json(value: object) -> str:
    return json.dumps(to_document(value), indent=2, ensure_ascii=False) + "\n"


_COVERS = (
    "the error of the meter; the intervals of joules per token, question and right answer also "
    "cover the choice of questions"
)
_OLD = "the run was measured by an earlier version of etui"


def build_energy_record(
    config: RunConfig, samples: Sequence[Sample], summary: Summary
) -> record.EnergyRecord:
    """Build the energy record of a run."""
    machines = list_machines(config)
    measurements = []
    for name, rows in group_samples(samples, config).items():
        for machine in machines:
            key = machine.key or None
            inside = [row for row in rows if len(machines) == 1 or row.machine == key]
            if not inside:
                continue
            arm = summary.arms[name]
            cost = arm.energy if len(machines) == 1 else compute_cost(inside, config.seed)
            course = next((one for one in arm.courses if one.machine == key), None)
            measurements.append(_build_measurement(name, config, machine, inside, cost, course))
    workload = (
        f"{config.suite} {config.split}, {config.shots}-shot "
        f"{config.format}@{config.format_version}"
    )
    source = record.Source("bench", config.run_id, config.started_at, workload)
    return record.EnergyRecord(record.RECORD_VERSION, source, tuple(measurements))


def _build_measurement(
    name: str,
    config: RunConfig,
    machine: BenchMachine,
    samples: Sequence[Sample],
    cost: Cost | None,
    course: CostOverTime | None,
) -> record.Measurement:
    pue = float(machine.energy.get("pue", 1.0))
    idle = machine.idle.get("watts") if machine.idle is not None else None
    results = _build_results(samples, cost, course, pue, idle)
    half_width, joules, kind = (
        (None, None, None) if cost is None else (cost.uncertainty, cost.joules, cost.kind)
    )
    # The models of a system: that of an arm, or all of a policy.
    wanted = None if config.routed else config.arms.get(name, {}).get("model")
    models = [model for model in machine.models if model.name == wanted] or machine.models
    form = FORMATS.get(config.format)
    together = 1 if form is not None and form.generates else config.group_questions
    arms = list(config.arms.values()) if config.routed else [config.arms.get(name, {})]
    tokens = {model.batch_tokens for model in models} - {0}
    measured = [sample for sample in samples if sample.joules is not None]
    coverages = [one.coverage for one in measured if one.coverage is not None]
    shared = [one.shared for one in measured if one.shared is not None]
    attribution = "exclusive" if together == 1 else "tokens"
    measurement = record.Measurement(
        name=name,
        machine_key=machine.key,
        hardware=record.Hardware(
            machine=machine.name or None,
            memory_bytes=machine.memory_bytes or None,
            threads=machine.threads,
            channels=_build_channels(machine.energy),
        ),
        models=tuple(_build_model(model) for model in models),
        prompt_tokens=compute_distribution(one.tokens.prompt for one in samples),
        output_tokens=compute_distribution(one.tokens.output for one in samples),
        batch=record.BatchSizes(
            sequences=max(map(_count_sequences, arms), default=1),
            batch_tokens=max(tokens, default=None),
            questions_together=together,
        ),
        utilisation=record.Utilisation(
            questions_at_a_time=together,
            is_shared=any(shared) if shared else None,
            shared_share=sum(shared) / len(shared) if shared else None,
            attribution=None if any(model.backend for model in models) else attribution,
        ),
        framework=record.describe_framework(machine.versions),
        pue=pue,
        method=record.Method(
            kind=kind,
            sample_hz=machine.energy.get("sample_hz"),
            idle_watts=idle,
            unmeasured=tuple(machine.energy.get("unmeasured") or ()),
            coverage=min(coverages, default=None),
        ),
        uncertainty=record.build_uncertainty(half_width, joules, _COVERS),
        detection_floor=record.build_sensor_floor(half_width, joules, kind),
        functional_units=record.list_functional_units(results),
        results=results,
    )
    return record.explain_missing(measurement, _list_reasons(cost, measurement))


def _build_results(
    samples: Sequence[Sample],
    cost: Cost | None,
    course: CostOverTime | None,
    pue: float,
    idle: float | None,
) -> record.Results:
    measured = [one for one in samples if one.joules is not None] if cost else samples
    seconds = sum(one.seconds for one in measured)
    joules = None if cost is None else cost.joules

    def figure(read: Callable[[Cost], CostFigure | None]) -> record.RecordFigure | None:
        found = None if cost is None else read(cost)
        if found is None:
            return None
        return record.build_figure(found.value, pue, found.low, found.high, found.sensor)

    return record.Results(
        questions=len(measured),
        correct=sum(one.correct for one in measured),
        computed_tokens=sum(one.tokens.computed + one.prefix_tokens for one in measured),
        output_tokens=sum(one.tokens.output for one in measured),
        seconds=seconds,
        it_joules=joules,
        facility_joules=None if joules is None else joules * pue,
        net_joules=None if joules is None or idle is None else joules - idle * seconds,
        prefill_joules=cost.prefill_joules if cost else None,
        decode_joules=cost.decode_joules if cost else None,
        mean_watts=cost.mean_watts.value if cost and cost.mean_watts else None,
        joules_per_output_token=figure(lambda cost: cost.per_output_token),
        joules_per_decoded_token=figure(lambda cost: cost.per_decoded_token),
        joules_per_computed_token=figure(lambda cost: cost.per_computed_token),
        joules_per_question=figure(lambda cost: cost.per_question),
        joules_per_correct=figure(lambda cost: cost.per_correct),
        percentiles=compute_percentiles(samples),
        steady_state=course.steady_state if course else None,
        early_answers=course.early_answers if course else (),
    )


def _build_channels(energy: Mapping[str, Any]) -> tuple[record.RecordChannel, ...]:
    devices: Mapping[str, Any] = energy.get("devices") or {}
    channels: Mapping[str, str] = energy.get("channels") or {}
    found = [(id_, kind, devices.get(id_, {})) for id_, kind in channels.items()]
    return tuple(
        record.RecordChannel(id_, kind, device.get("label"), device.get("limit_watts"))
        for id_, kind, device in found
    )


def _build_model(model: BenchModel) -> record.RecordModel:
    return record.RecordModel(
        name=model.name,
        sha256=model.sha256,
        file_bytes=model.file_bytes or None,
        gpu_layers=None if model.backend else model.gpu_layers,
        precision=record.Precision(
            weights=model.quantisation,
            kv_type=model.kv_type or None,
            flash_attention=model.flash_attention or None,
        ),
        backend=model.backend or "",
    )


def _count_sequences(arm: Mapping[str, Any]) -> int:
    """Count the sequences that an arm decodes at the same time."""
    if arm.get("reasoning") != "vote":
        return 1
    return min(int(arm.get("votes", 1)), int(arm.get("batch", 1)))


def _list_reasons(cost: Cost | None, measurement: record.Measurement) -> dict[str, str]:
    unmeasured = "the energy is unmeasured"

    def unless(why: str) -> str:
        """Return a reason that counts only where the energy is measured."""
        return unmeasured if cost is None else why

    results, state = measurement.results, measurement.results.steady_state
    remote = any(model.backend for model in measurement.models)
    model = "it is served by a remote backend" if remote else _OLD
    nothing = "nothing was generated"
    no_output = _OLD if results.output_tokens else nothing
    no_gaps = "no answer has two tokens with known times" if results.output_tokens else nothing
    kind = None if cost is None else cost.kind
    no_floor = record.explain_no_floor(None if cost is None else cost.uncertainty, kind)
    return {
        "": _OLD,
        "hardware.channels[].label": "the channel has no name of a device",
        "hardware.channels[].limit_watts": "the device states no power limit",
        "models": model,
        "batch.batch_tokens": model,
        "utilisation.is_shared": unless(_OLD),
        "utilisation.shared_share": unless(_OLD),
        "utilisation.attribution": "a remote backend may answer others at the same time",
        "method.kind": unmeasured,
        "method.coverage": unless(_OLD),
        "method.idle_watts": "no idle baseline was measured; see etui power idle",
        **record.NO_SWEEP,
        "uncertainty": unless("the half width of an answer is unknown"),
        "detection_floor": no_floor,
        "detection_floor.percent": "no joules to divide by",
        "results": unless("nothing to divide by, or an unknown half width"),
        "results.joules_per_correct": unless("no answer is right"),
        "results.joules_per_output_token": unless(no_output),
        "results.joules_per_decoded_token": unless(no_output),
        "results.joules_per_correct.high": "another sample of questions might have no right answer",
        "results.net_joules": unless("no idle baseline was measured"),
        "results.peak_watts": "a run keeps joules and seconds of each answer, not its peak",
        "results.prefill_joules": unless("a question has no phases"),
        "results.decode_joules": unless("a question has no phases"),
        "results.percentiles.joules_per_question": unmeasured,
        "results.percentiles.joules_per_output_token": unless(no_output),
        "results.percentiles.ttft_seconds": no_output,
        "results.percentiles.inter_token_seconds": no_gaps,
        "results.steady_state.is_steady": state.why if state else _OLD,
        "results.steady_state": "fewer answers than the test needs, or unmeasured",
        "results.early_answers[].percent_of_usual": "too few other answers to compare with",
        "results.early_answers[].joules": "unmeasured",
        "results.early_answers[].joules_per_output_token": "unmeasured, or nothing was generated",
        "results.early_answers[].joules_per_token": "unmeasured",
    }
