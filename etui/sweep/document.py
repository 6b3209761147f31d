"""The result of a sweep for programs: ``result.json`` and the energy record."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from etui.energy import energy_record as record
from etui.energy.tariff import Cost
from etui.energy.types import sum_known
from etui.stats.differences import Difference
from etui.stats.tests import Interval
from etui.sweep.blocks import Block, PhaseCost, Visit
from etui.sweep.config import AxisName, SweepConfig, Value
from etui.sweep.result import SettingResult, SweepResult, is_best_claimed
from etui.sweep.verdict import format_verdict, list_dropped
from etui.text import one_line

VERSION = 1  # Version of the document; keys may be added without a new one

_COVERS = (
    "the error of the meter, added up over all visits; the intervals of the results cover the "
    "differences between the blocks"
)


def build_document(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block] = ()
) -> dict[str, Any]:
    """Build the document of a sweep, finished or not, with the temperature and cost of its blocks.

    Units are part of the names; intervals are at 95 % and have ``low`` and ``high``. What is not
    known is None, never 0.
    """
    design, cost = config.design, sum_cost(blocks)
    read = (visit.temperature_celsius for block in blocks for visit in block.visits)
    celsius = [value for value in read if value is not None]
    return {
        "version": VERSION,
        "id": config.id,
        "created": config.created,
        "model": config.model,
        "model_sha256": config.model_sha256,
        "policy": config.policy,
        "arm": config.arm,
        "is_complete": result.is_complete,
        "verdict": format_verdict(result),
        "goal": _encode(result.goal),
        "baseline": result.baseline,
        "best": result.best,
        "is_best_claimed": is_best_claimed(result),
        "kind": result.kind,
        "floor": _encode(result.floor),
        "settings": [{**_encode(one), "values": dict(one.values)} for one in result.settings],
        "effects": [
            {
                "axis": one.axis,
                "value": one.value,
                "reference": one.reference,
                "joules_difference": _encode(one.joules),
                "seconds_difference": _encode(one.seconds),
            }
            for one in result.effects
        ],
        "interactions": [
            {
                "values": dict(zip(one.axes, one.values, strict=True)),
                "references": dict(zip(one.axes, one.references, strict=True)),
                "joules_difference": _encode(one.joules),
            }
            for one in result.interactions
        ],
        "drops": [
            {"setting": one.setting, "after_block": one.dropped_after, "reason": one.drop_reason}
            for one in list_dropped(result)
        ],
        "blocks": result.blocks,
        "visits": result.visits,
        "seconds": _encode(result.seconds),
        "repeated": list(result.repeated),
        "notes": list(result.notes),
        "axes": {axis.name: list(axis.values) for axis in config.axes},
        "workload": {
            "name": config.workload,
            "sha256": config.workload_sha256,
            "output_tokens": config.output_tokens,
        },
        "suite": None
        if config.suite is None
        else {"name": config.suite, "questions": config.questions, "sha256": config.suite_sha256},
        "design": {
            "seed": design.seed,
            "floor_blocks": design.floor_blocks,
            "race_rounds": design.race_rounds,
            "confirm_blocks": design.confirm_blocks,
            "halving": design.halving,
            "window_seconds": _encode(config.window_s),
            "cool_down_seconds": _encode(config.cool_down_s),
            "cool_down_celsius": _encode(config.cool_down_celsius),
        },
        "cap": config.cap,
        **({} if cost is None else {"cost": cost.to_json()}),
        "channels": list(config.channels),
        "hottest_celsius": max(celsius, default=None),
        "command": build_command(config),
        "provenance": dict(config.provenance),
    }


def sum_cost(blocks: Sequence[Block]) -> Cost | None:
    """Sum what the answers of blocks cost; None without a tariff."""
    costs = [block.cost for block in blocks if block.cost is not None]
    return sum(costs, Cost()) if costs else None


def _encode(value: Any) -> Any:
    """Encode a figure; numbers become plain floats (numpy's are not JSON), or None if infinite."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Interval):
        ends = ("value", "low", "high")
        return {name: _encode(getattr(value, name)) for name in ends}
    if is_dataclass(value):
        names = {"low": "low_percent", "high": "high_percent"}
        renamed = names if isinstance(value, Difference) else {}
        return {
            renamed.get(each.name, each.name): _encode(getattr(value, each.name))
            for each in fields(value)
        }
    return value


def build_command(config: SweepConfig) -> str:
    """Build the command line that repeats the sweep, quoted for a shell."""
    goal, design = config.design.goal, config.design
    words = ["etui", "sweep"]
    if config.policy is not None:
        words += ["--policy", config.policy]
        words += ["--arm", config.arm] if config.arm is not None else []
    else:
        words.append(config.model)
    for axis in config.axes:
        words += ["--axis", f"{axis.name}={','.join(map(str, axis.values))}"]
    words += ["--workload", config.workload]
    if config.output_tokens:  # the workload of letters has none
        words += ["--output-tokens", str(config.output_tokens)]
    words += ["--goal", goal.measure]
    if goal.within_percent is not None:
        words += ["--within", f"{goal.within_percent:g}"]
    if config.suite is not None:
        words += ["--suite", config.suite, "--limit", str(config.questions)]
        words += [] if config.data is None else ["--data", config.data]
    if config.cap is not None:
        words += ["--cap", config.cap]
    words += ["--rounds", str(design.race_rounds), "--blocks", str(design.confirm_blocks)]
    words += [] if design.halving else ["--no-halving"]
    words += ["--window", f"{config.window_s:g}", "--cool-down", f"{config.cool_down_s:g}"]
    if config.cool_down_celsius is not None:
        words += ["--cool-to", f"{config.cool_down_celsius:g}"]
    return one_line(shlex.join([*words, "--seed", str(design.seed)]))


def _list_limits(visits: Iterable[Visit]) -> list[float]:
    return sorted({v.power_limit_watts for v in visits if v.power_limit_watts is not None})


def _find_recorded(config: SweepConfig, name: str, key: str) -> Any:
    """Return a value of the axes in use before the sweep, or of the weights; None if unknown."""
    recorded = config.provenance.get(name)
    return recorded.get(key) if isinstance(recorded, dict) else None


def build_energy_record(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block] = ()
) -> record.EnergyRecord:
    """Build the energy record of a sweep: a measurement for each setting that has a visit."""
    visits: dict[str, list[Visit]] = {}
    for block in blocks:
        for visit in block.visits:
            visits.setdefault(visit.setting, []).append(visit)
    return record.EnergyRecord(
        schema_version=record.RECORD_VERSION,
        source=record.Source(
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
) -> record.Measurement:
    seen = config.provenance
    answers = sum(visit.answers for visit in visits)
    prefill = _sum_phase([(visit.prefill, visit.answers) for visit in visits])
    decode = _sum_phase([(visit.decode, visit.answers) for visit in visits])
    joules = sum_known((prefill.joules, decode.joules))
    pue = float(seen.get("pue", 1.0))
    results = _build_results(one, answers, prefill, decode, pue)
    floor = None if result.floor is None else result.floor.joules_percent

    def value_of(axis: AxisName) -> Value | None:
        """Return the value of an axis in the setting, or that in use where it is not varied."""
        found = dict(one.values).get(axis)
        return _find_recorded(config, "in_use", axis) if found is None else found

    threads, model = value_of("threads"), str(value_of("model") or config.model)
    measurement = record.Measurement(
        name=one.setting,
        hardware=record.Hardware(
            machine=seen.get("machine"),
            threads=_int(seen.get("threads") if _int(threads) is None else threads),
            channels=tuple(record.RecordChannel(name) for name in config.channels),
            power_limit_watts=tuple(_list_limits(visits)),
        ),
        models=(
            record.RecordModel(
                name=model,
                sha256=config.model_sha256 if model == config.model else None,
                gpu_layers=_int(value_of("gpu_layers")),
                precision=record.Precision(
                    weights=_text(_find_recorded(config, "weights", model)),
                    kv_type=_text(value_of("kv_type")),
                    flash_attention=_text(value_of("flash_attention")),
                ),
            ),
        ),
        prompt_tokens=record.describe_single(prefill.tokens / answers),
        output_tokens=record.describe_single(decode.tokens / answers),
        batch=record.BatchSizes(
            sequences=1 if config.arm is None else None,
            batch_tokens=_int(value_of("batch_tokens")),
            questions_together=1,
        ),
        utilisation=record.Utilisation(
            questions_at_a_time=1,
            is_shared=any(visit.shared for visit in visits),
            shared_share=sum(visit.shared for visit in visits) / len(visits),
            attribution="exclusive",
        ),
        framework=record.describe_framework(seen),
        pue=pue,
        method=record.Method(
            kind=result.kind,
            sample_hz=seen.get("sample_hz"),
            window_seconds=config.window_s,
            cool_down_seconds=config.cool_down_s,
            paired_blocks=one.blocks,
        ),
        uncertainty=record.build_uncertainty(
            sum_known((prefill.uncertainty, decode.uncertainty)), joules, _COVERS
        ),
        detection_floor=None if floor is None else record.RecordFloor("a/a", floor),
        functional_units=record.list_functional_units(results),
        results=results,
    )
    return record.explain_missing(measurement, _list_reasons(is_measured=joules is not None))


def _build_results(
    one: SettingResult, answers: int, prefill: PhaseCost, decode: PhaseCost, pue: float
) -> record.Results:
    joules, seconds = sum_known((prefill.joules, decode.joules)), prefill.seconds + decode.seconds

    def figure(interval: Interval | None) -> record.RecordFigure | None:
        if interval is None:
            return None
        return record.build_figure(interval.value, pue, interval.low, interval.high)

    return record.Results(
        questions=answers,
        computed_tokens=prefill.tokens,
        output_tokens=round(decode.tokens),
        seconds=seconds,
        it_joules=joules,
        facility_joules=None if joules is None else joules * pue,
        prefill_joules=prefill.joules,
        decode_joules=decode.joules,
        mean_watts=joules / seconds if joules is not None and seconds > 0 else None,
        joules_per_output_token=record.build_figure(joules / decode.tokens, pue)
        if joules is not None and decode.tokens
        else None,
        joules_per_decoded_token=figure(one.decode_joules_per_token),
        joules_per_computed_token=figure(one.prefill_joules_per_token),
        joules_per_question=figure(one.joules),
        percentiles=record.RecordPercentiles(),
    )


def _sum_phase(parts: Sequence[tuple[PhaseCost, int]]) -> PhaseCost:
    """Sum a phase over answers; a sum without one of its parts would look like the total."""

    def total(values: Iterable[tuple[float | None, int]]) -> float | None:
        return sum_known(None if value is None else value * count for value, count in values)

    return PhaseCost(
        tokens=sum(phase.tokens * count for phase, count in parts),
        joules=total((phase.joules, count) for phase, count in parts),
        uncertainty=total((phase.uncertainty, count) for phase, count in parts),
        seconds=sum(phase.seconds * count for phase, count in parts),
    )


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _list_reasons(*, is_measured: bool) -> dict[str, str]:
    """List why fields of the record are null: path -> reason."""
    unmeasured = "the energy is unmeasured"
    own = "the intervals are those of an answer and a phase"
    sensors = ("output_token", "decoded_token", "computed_token", "question")
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
        "results": "one block has no interval" if is_measured else unmeasured,
        "results.correct": "the answers of the workload are not graded",
        "results.net_joules": "a sweep compares gross joules and needs no baseline",
        "results.peak_watts": "a visit keeps its mean power",
        "results.joules_per_correct": "accuracy is measured on other questions, by the suite",
        "results.joules_per_output_token": "nothing is generated" if is_measured else unmeasured,
        "results.joules_per_output_token.low": own,
        "results.joules_per_output_token.high": own,
        **{f"results.joules_per_{name}.sensor": "see uncertainty" for name in sensors},
        "results.percentiles": "a visit measures the mean of its answers, not each of them",
        "results.steady_state": "blocks repeat each setting in random order instead",
    }
