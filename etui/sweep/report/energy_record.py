"""The energy record of a sweep: one measurement for each setting that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.energy.energy_record import (
    RECORD_VERSION,
    EnergyRecord,
    Measurement,
    RecordFigure,
    RecordPercentiles,
    Results,
    build_figure,
    explain_missing,
    list_functional_units,
)
from etui.energy.record_conditions import (
    BatchSizes,
    Hardware,
    Method,
    Precision,
    RecordChannel,
    RecordFloor,
    RecordModel,
    Source,
    Utilisation,
    build_uncertainty,
    describe_framework,
    describe_single,
)
from etui.stats.tests import Interval
from etui.sweep.blocks import Block, PhaseCost, Visit
from etui.sweep.report.conditions import find_in_use, find_weights
from etui.sweep.result import SettingResult, SweepResult
from etui.sweep.setting import AxisName, Value
from etui.sweep.sweep_config import SweepConfig

_COVERS = (
    "the error of the meter, added up over all visits; the intervals of the results cover the "
    "differences between the blocks"
)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over the answers of a setting; joules are None if an answer is unmeasured.

    ``uncertainty`` is the sum of the half widths in joules.
    """

    answers: int
    prefill: PhaseCost
    decode: PhaseCost

    @property
    def joules(self) -> float | None:
        if self.prefill.joules is None or self.decode.joules is None:
            return None
        return self.prefill.joules + self.decode.joules

    @property
    def uncertainty(self) -> float | None:
        if self.prefill.uncertainty is None or self.decode.uncertainty is None:
            return None
        return self.prefill.uncertainty + self.decode.uncertainty

    @property
    def seconds(self) -> float:
        return self.prefill.seconds + self.decode.seconds


def build_energy_record(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block] = ()
) -> EnergyRecord:
    """Build the energy record of a sweep, finished or not.

    Args:
        blocks: Its blocks; a setting without a visit in them has no measurement.
    """
    visits: dict[str, list[Visit]] = {}
    for block in blocks:
        for visit in block.visits:
            visits.setdefault(visit.setting, []).append(visit)
    return EnergyRecord(
        schema_version=RECORD_VERSION,
        source=Source(
            "sweep",
            config.id,
            config.created,
            f"{config.workload}, {config.output_tokens} output tokens",
        ),
        measurements=tuple(
            _build_measurement(config, result, one, visits[one.setting])
            for one in result.settings
            if visits.get(one.setting)
        ),
    )


def _build_measurement(
    config: SweepConfig, result: SweepResult, one: SettingResult, visits: Sequence[Visit]
) -> Measurement:
    seen, totals = config.provenance, _sum_visits(visits)
    pue = float(seen.get("pue", 1.0))
    results = _build_results(one, totals, pue)
    floor = None if result.floor is None else result.floor.joules_percent
    threads = _int(_value_of(config, one, "threads"))
    measurement = Measurement(
        name=one.setting,
        machine_key="",
        hardware=Hardware(
            machine=seen.get("machine"),
            memory_bytes=None,
            threads=threads if threads is not None else _int(seen.get("threads")),
            channels=tuple(RecordChannel(name, None, None, None) for name in config.channels),
            power_limit_watts=tuple(
                sorted({v.power_limit_watts for v in visits if v.power_limit_watts is not None})
            ),
        ),
        models=(_build_model(config, one),),
        prompt_tokens=describe_single(totals.prefill.tokens / totals.answers),
        output_tokens=describe_single(totals.decode.tokens / totals.answers),
        batch=BatchSizes(
            sequences=1 if config.arm is None else None,
            batch_tokens=_int(_value_of(config, one, "batch_tokens")),
            questions_together=1,
        ),
        utilisation=Utilisation(
            questions_at_a_time=1,
            is_shared=any(visit.shared for visit in visits),
            shared_share=sum(visit.shared for visit in visits) / len(visits),
            attribution="exclusive",
        ),
        framework=describe_framework(seen),
        pue=pue,
        method=Method(
            kind=result.kind,
            joules="gross",
            loads="excluded",
            sample_hz=seen.get("sample_hz"),
            idle_watts=None,
            unmeasured=None,
            coverage=None,
            window_seconds=config.window_s,
            cool_down_seconds=config.cool_down_s,
            paired_blocks=one.blocks,
        ),
        uncertainty=build_uncertainty(totals.uncertainty, totals.joules, _COVERS),
        detection_floor=None if floor is None else RecordFloor("a/a", floor, None),
        functional_units=list_functional_units(results),
        results=results,
    )
    return explain_missing(measurement, _list_reasons(totals))


def _build_results(one: SettingResult, totals: _Totals, pue: float) -> Results:
    joules, seconds, output = totals.joules, totals.seconds, totals.decode.tokens
    return Results(
        questions=totals.answers,
        correct=None,
        computed_tokens=totals.prefill.tokens,
        output_tokens=round(output),
        seconds=seconds,
        it_joules=joules,
        facility_joules=None if joules is None else joules * pue,
        net_joules=None,
        prefill_joules=totals.prefill.joules,
        decode_joules=totals.decode.joules,
        mean_watts=joules / seconds if joules is not None and seconds > 0 else None,
        peak_watts=None,
        joules_per_output_token=build_figure(joules / output, pue)
        if joules is not None and output
        else None,
        joules_per_decoded_token=_figure(one.decode_joules_per_token, pue),
        joules_per_computed_token=_figure(one.prefill_joules_per_token, pue),
        joules_per_question=_figure(one.joules, pue),
        joules_per_correct=None,
        percentiles=RecordPercentiles(None, None, None, None),
        steady_state=None,
        early_answers=(),
    )


def _sum_visits(visits: Sequence[Visit]) -> _Totals:
    answers = sum(visit.answers for visit in visits)
    return _Totals(
        answers,
        _sum_phase([(visit.prefill, visit.answers) for visit in visits]),
        _sum_phase([(visit.decode, visit.answers) for visit in visits]),
    )


def _sum_phase(parts: Sequence[tuple[PhaseCost, int]]) -> PhaseCost:
    """Sum a phase over answers; a sum without one of its parts would look like the total."""
    joules = [(phase.joules, count) for phase, count in parts]
    halves = [(phase.uncertainty, count) for phase, count in parts]
    return PhaseCost(
        tokens=sum(phase.tokens * count for phase, count in parts),
        joules=_sum_known(joules),
        uncertainty=_sum_known(halves),
        seconds=sum(phase.seconds * count for phase, count in parts),
    )


def _sum_known(parts: Sequence[tuple[float | None, int]]) -> float | None:
    known = [value * count for value, count in parts if value is not None]
    return sum(known) if len(known) == len(parts) else None


def _build_model(config: SweepConfig, one: SettingResult) -> RecordModel:
    name = str(_value_of(config, one, "model") or config.model)
    layers = _value_of(config, one, "gpu_layers")
    return RecordModel(
        name=name,
        sha256=config.model_sha256 if name == config.model else None,
        file_bytes=None,
        gpu_layers=_int(layers),
        precision=Precision(
            weights=find_weights(config, name),
            kv_type=_text(_value_of(config, one, "kv_type")),
            flash_attention=_text(_value_of(config, one, "flash_attention")),
        ),
        backend="",
    )


def _value_of(config: SweepConfig, one: SettingResult, axis: AxisName) -> Value | None:
    """Return the value of an axis in a setting, or that in use where it is not varied."""
    found = dict(one.values).get(axis)
    return find_in_use(config).get(axis) if found is None else found


def _figure(interval: Interval | None, pue: float) -> RecordFigure | None:
    if interval is None:
        return None
    return build_figure(interval.value, pue, interval.low, interval.high)


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _list_reasons(totals: _Totals) -> dict[str, str]:
    is_measured = totals.joules is not None
    unmeasured = "the energy is unmeasured"
    no_interval = "one block has no interval" if is_measured else unmeasured
    one_visit = "a visit measures the mean of its answers, not each of them"
    return {
        "": "the sweep was measured by an earlier version of etui",
        "hardware.memory_bytes": "a sweep does not record it",
        "hardware.channels": "a sweep records the ids of the channels only",
        "models[].sha256": "the hash of a model of the axis is not recorded",
        "models[].file_bytes": "a sweep does not record it",
        "models[].gpu_layers": "all layers that the model has, or not recorded",
        "models[].precision": "the setting in use was not recorded",
        "batch.sequences": "the arm may have votes",
        "batch.batch_tokens": "the setting in use was not recorded",
        "framework.llama_cpp": "it is the version that llama_cpp_python ships",
        "method.kind": unmeasured,
        "method.idle_watts": "a sweep compares gross joules and needs no baseline",
        "method.unmeasured": "a sweep does not record it",
        "method.coverage": "a visit that was not recorded in full is repeated",
        "uncertainty": unmeasured,
        "detection_floor": "the setting was not compared with itself yet, or is unmeasured",
        "detection_floor.joules": "the floor of a sweep is relative",
        "results": no_interval,
        "results.correct": "the answers of the workload are not graded",
        "results.net_joules": "a sweep compares gross joules and needs no baseline",
        "results.peak_watts": "a visit keeps its mean power",
        "results.joules_per_correct": "accuracy is measured on other questions, by the suite",
        "results.joules_per_output_token": "nothing is generated" if is_measured else unmeasured,
        "results.joules_per_output_token.low": "the intervals are those of an answer and a phase",
        "results.joules_per_output_token.high": "the intervals are those of an answer and a phase",
        "results.joules_per_output_token.sensor": "see uncertainty",
        "results.joules_per_decoded_token.sensor": "see uncertainty",
        "results.joules_per_computed_token.sensor": "see uncertainty",
        "results.joules_per_question.sensor": "see uncertainty",
        "results.percentiles": one_visit,
        "results.steady_state": "blocks repeat each setting in random order instead",
    }
