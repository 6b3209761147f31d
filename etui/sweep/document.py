"""The result of a sweep as JSON: ``result.json`` of its folder, and ``etui sweep --json``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etui import units
from etui.energy.energy_record import (
    RECORD_VERSION,
    BatchSizes,
    EnergyRecord,
    Hardware,
    Measurement,
    Method,
    Precision,
    RecordChannel,
    RecordFigure,
    RecordFloor,
    RecordModel,
    RecordPercentiles,
    Results,
    Source,
    Utilisation,
    build_figure,
    build_uncertainty,
    describe_framework,
    describe_single,
    explain_missing,
    list_functional_units,
)
from etui.stats.tests import Interval
from etui.sweep.blocks import Block, PhaseCost, Visit
from etui.sweep.config import AxisName, SweepConfig, Value
from etui.sweep.result import (
    Accuracy,
    AxisEffect,
    DetectionFloor,
    Difference,
    Interaction,
    SettingResult,
    SweepResult,
    is_best_claimed,
)
from etui.sweep.verdict import floor_text, format_verdict
from etui.text import SEPARATOR, one_line

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


_CONFIDENCE_PERCENT = 95

_MOST_LIMITS = 6


def build_conditions(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block] = ()
) -> dict[str, Any]:
    """Build the conditions of all settings together as a JSON document; what is unknown is None.

    The energy record (:mod:`etui.sweep.document`) has them for each setting.

    Args:
        blocks: Its blocks, for what only they know: tokens of the prompts, busy devices.
    """
    seen, visits = config.provenance, [visit for block in blocks for visit in block.visits]
    usual = find_in_use(config)
    return {
        "hardware": {
            "machine": seen.get("machine"),
            "system": seen.get("system"),
            "cpus": seen.get("cpus"),
            "channels": list(config.channels),
            "power_limit_watts": sorted(
                {v.power_limit_watts for v in visits if v.power_limit_watts is not None}
            ),
        },
        "model_version": {"model": config.model, "sha256": config.model_sha256},
        "precision": {
            "weights": find_weights(config, config.model),
            "kv_type": _values_of(config, "kv_type") or _known(usual.get("kv_type")),
        },
        "prompt_tokens": _mean([visit.prefill.tokens for visit in visits]),
        "output_tokens": config.output_tokens,
        "batch": {
            "sequences": 1 if config.arm is None else None,  # an arm may have votes
            "batch_tokens": _values_of(config, "batch_tokens") or _known(usual.get("batch_tokens")),
        },
        "utilisation": {
            "questions_at_a_time": 1,
            "visits": len(visits) or None,
            "shared_visits": sum(visit.shared for visit in visits) if visits else None,
            "repeated_blocks": len(result.repeated),
        },
        "framework": {
            "etui": seen.get("etui"),
            "llama_cpp_python": seen.get("llama_cpp_python"),
            "python": seen.get("python"),
        },
        "pue": float(seen.get("pue", 1.0)),
        "method": {
            "kind": result.kind,
            "joules": "gross",
            "sample_hz": seen.get("sample_hz"),
            "window_seconds": config.window_s,
            "cool_down_seconds": config.cool_down_s,
            "cool_down_celsius": config.cool_down_celsius,
            "hottest_celsius": _most([visit.temperature_celsius for visit in visits]),
            "paired_blocks": result.blocks,
        },
        "uncertainty": {
            "confidence_percent": _CONFIDENCE_PERCENT,
            "detection_floor_percent": None
            if result.floor is None
            else result.floor.joules_percent,
            "meter_percent": _meter_percent(visits),
        },
    }


def describe_conditions(record: dict[str, Any], model: str) -> list[tuple[str, str]]:
    """Describe a record in words, one line for each of the eleven conditions."""
    hardware, version = record["hardware"], record["model_version"]
    use, method, doubt = record["utilisation"], record["method"], record["uncertainty"]
    batch, precision, framework = record["batch"], record["precision"], record["framework"]
    prompt, output = record["prompt_tokens"], record["output_tokens"]
    channels = ", ".join(hardware["channels"]) or "no power channel"
    versions = [f"{name} {version}" for name, version in framework.items() if version]
    shared = use["shared_visits"]
    return [
        (
            "Hardware",
            _join(
                hardware["machine"],
                f"measured: {channels}",
                _limits_text(hardware["power_limit_watts"]),
            ),
        ),
        ("Model version", _join(model, f"sha256 {version['sha256'] or units.UNKNOWN}")),
        ("Precision", _join(precision["weights"], _listed("KV cache", precision["kv_type"]))),
        ("Prompt length", _tokens(prompt, "on average")),
        ("Output length", _tokens(output, "the same for every setting")),
        ("Batch", _join(_describe_sequences(batch), _describe_batches(batch["batch_tokens"]))),
        (
            "Utilisation",
            _join(
                "one question at a time",
                None
                if shared is None
                else f"other processes used the measured devices in {shared:,} of "
                f"{units.count_text(use['visits'], 'visit')}",
                f"{units.count_text(use['repeated_blocks'], 'block')} repeated",
            ),
        ),
        ("Framework", _join(*(text.replace("_", "-", 2) for text in versions))),
        ("PUE", _describe_pue(record["pue"])),
        ("Method", _describe_method(method)),
        ("Uncertainty", _describe_doubt(doubt)),
    ]


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


def find_in_use(config: SweepConfig) -> dict[str, Any]:
    """Return the settings in use before the sweep, axis -> value; empty if not recorded."""
    in_use = config.provenance.get("in_use")
    return dict(in_use) if isinstance(in_use, dict) else {}


def find_weights(config: SweepConfig, model: str) -> str | None:
    """Return the quantisation of a model's weights; None if not recorded."""
    weights = config.provenance.get("weights")
    found = weights.get(model) if isinstance(weights, dict) else None
    return None if found is None else str(found)


def _describe_pue(pue: float) -> str:
    if pue == 1:
        return "1: the joules of this machine, nothing is added for a building"
    return f"{pue:g}; the joules are those of the machine, the building needs {pue:g} times them"


def _describe_method(method: dict[str, Any]) -> str:
    kind, hertz = method["kind"], method["sample_hz"]
    to_celsius, hottest = method["cool_down_celsius"], method["hottest_celsius"]
    cool = f"{units.seconds_text(method['cool_down_seconds'])} idle before each visit"
    if to_celsius is not None:
        cool += f" and cooled to {to_celsius:.0f} °C"
    return _join(
        "joules are unmeasured" if kind is None else f"gross joules, kind {kind}",
        None if hertz is None else f"sampled at {hertz:g} Hz",
        f"phases of at least {units.seconds_text(method['window_seconds'])}",
        cool,
        None if hottest is None else f"hottest {hottest:.0f} °C",
        f"{units.count_text(method['paired_blocks'], 'block')}, settings in random order",
    )


def _describe_doubt(doubt: dict[str, Any]) -> str:
    floor, meter = doubt["detection_floor_percent"], doubt["meter_percent"]
    return _join(
        f"intervals at {doubt['confidence_percent']} % over the blocks: bootstrap, or Student's t "
        "for few",
        "detection floor unmeasured"
        if floor is None
        else f"detection floor {floor_text(floor)} of the joules",
        None
        if meter is None
        else f"the meter itself ±{units.change_text(meter, signed=False)}, the same for all",
    )


def _limits_text(watts: Sequence[float]) -> str | None:
    """Format the power limits that were read back; None if none was."""
    if not watts:
        return None
    if len(watts) > _MOST_LIMITS:
        ends = f"{units.watts_text(watts[0])} to {units.watts_text(watts[-1])}"
        return f"power limits read back: {len(watts)} from {ends}"
    return f"power limit read back: {', '.join(map(units.watts_text, watts))}"


def _values_of(config: SweepConfig, name: AxisName) -> list[Value] | None:
    """List the values of an axis over all settings; None if the sweep has no such axis."""
    values = dict.fromkeys(setting.get(name) for setting in config.design.settings)
    return [value for value in values if value is not None] or None


def _known(value: object) -> list[object] | None:
    return None if value is None else [value]


def _listed(name: str, values: list[object] | None) -> str:
    if not values:
        return f"{name} {units.UNKNOWN}"
    return f"{name} {' and '.join(map(str, values))}"


def _describe_sequences(batch: dict[str, Any]) -> str:
    return "one sequence" if batch["sequences"] == 1 else "one sequence per vote of the arm"


def _describe_batches(tokens: list[object] | None) -> str:
    if not tokens:
        return f"batch size {units.UNKNOWN}"
    return f"prefill in batches of {' and '.join(map(str, tokens))} tokens"


def _tokens(count: float | None, note: str) -> str:
    return units.UNKNOWN if count is None else f"{units.tokens_text(round(count))}, {note}"


def _join(*parts: object) -> str:
    return one_line(SEPARATOR.join(str(part) for part in parts if part)) or units.UNKNOWN


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _meter_percent(visits: Sequence[Visit]) -> float | None:
    """Return the mean half width of the meter's joules in per cent; None if unmeasured."""
    shares = []
    for visit in visits:
        halves = (visit.prefill.uncertainty, visit.decode.uncertainty)
        joules = visit.joules
        if joules is None or joules <= 0 or halves[0] is None or halves[1] is None:
            continue
        shares.append(100 * (halves[0] + halves[1]) / joules)
    return _mean(shares)


VERSION = 1
"""Version of the document; keys may be added without a new one."""


def build_document(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block] = ()
) -> dict[str, Any]:
    """Build the document of a sweep, finished or not.

    Units are part of the names; intervals are at 95 % and have ``low`` and ``high``. What is not
    known is None, never 0.

    Args:
        blocks: Its blocks, for the conditions; none leaves those unknown that only they have.
    """
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
        "goal": {
            "measure": result.goal.measure,
            "within_percent": _number(result.goal.within_percent),
        },
        "baseline": result.baseline,
        "best": result.best,
        "is_best_claimed": is_best_claimed(result),
        "kind": result.kind,
        "floor": _floor(result.floor),
        "settings": [_setting(one) for one in result.settings],
        "effects": [_effect(one) for one in result.effects],
        "interactions": [_interaction(one) for one in result.interactions],
        "drops": [
            {
                "setting": one.setting,
                "after_block": one.dropped_after,
                "reason": one.drop_reason,
            }
            for one in sorted(result.settings, key=_when_dropped)
            if one.dropped_after is not None or one.drop_reason
        ],
        "blocks": result.blocks,
        "visits": result.visits,
        "seconds": _number(result.seconds),
        "full_grid_seconds": _number(result.full_grid_seconds),
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
            "seed": config.design.seed,
            "floor_blocks": config.design.floor_blocks,
            "race_rounds": config.design.race_rounds,
            "confirm_blocks": config.design.confirm_blocks,
            "halving": config.design.halving,
            "window_seconds": _number(config.window_s),
            "cool_down_seconds": _number(config.cool_down_s),
            "cool_down_celsius": _number(config.cool_down_celsius),
        },
        "cap": config.cap,
        "channels": list(config.channels),
        "conditions": build_conditions(config, result, blocks),
        "command": build_command(config),
        "provenance": dict(config.provenance),
    }


def _setting(one: SettingResult) -> dict[str, Any]:
    return {
        "setting": one.setting,
        "values": dict(one.values),
        "stage": one.stage,
        "blocks": one.blocks,
        "joules": _interval(one.joules),
        "seconds": _interval(one.seconds),
        "prefill_joules_per_token": _interval(one.prefill_joules_per_token),
        "decode_joules_per_token": _interval(one.decode_joules_per_token),
        "joules_difference": _difference(one.joules_difference),
        "seconds_difference": _difference(one.seconds_difference),
        "accuracy": _accuracy(one.accuracy),
        "dropped_after": one.dropped_after,
        "drop_reason": one.drop_reason,
        "is_on_frontier": one.is_on_frontier,
    }


def _interval(figure: Interval | None) -> dict[str, float | None] | None:
    if figure is None:
        return None
    return {
        "value": _number(figure.value),
        "low": _number(figure.low),
        "high": _number(figure.high),
    }


def _difference(one: Difference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "percent": _number(one.percent),
        "low_percent": _number(one.low),
        "high_percent": _number(one.high),
        "p": _number(one.p),
        "blocks": one.blocks,
        "is_claimed": one.is_claimed,
    }


def _accuracy(one: Accuracy | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "correct": one.correct,
        "questions": one.questions,
        "share": _interval(one.share),
        "difference_points": _interval(one.difference_points),
        "p": _number(one.p),
        "measured_as": one.measured_as,
    }


def _effect(one: AxisEffect) -> dict[str, Any]:
    return {
        "axis": one.axis,
        "value": one.value,
        "reference": one.reference,
        "joules_difference": _difference(one.joules),
        "seconds_difference": _difference(one.seconds),
    }


def _interaction(one: Interaction) -> dict[str, Any]:
    return {
        "values": dict(zip(one.axes, one.values, strict=True)),
        "references": dict(zip(one.axes, one.references, strict=True)),
        "joules_difference": _difference(one.joules),
    }


def _floor(floor: DetectionFloor | None) -> dict[str, Any] | None:
    if floor is None:
        return None
    return {
        "joules_percent": _number(floor.joules_percent),
        "seconds_percent": _number(floor.seconds_percent),
        "measured_joules_percent": _number(floor.measured_joules_percent),
        "measured_seconds_percent": _number(floor.measured_seconds_percent),
        "blocks": floor.blocks,
        "claim_blocks": floor.claim_blocks,
    }


def _when_dropped(one: SettingResult) -> tuple[int, str]:
    return (-1 if one.dropped_after is None else one.dropped_after, one.setting)


def _number(value: float | None) -> float | None:
    """Return a plain float (numpy's is not JSON); None for what JSON has no number for."""
    return None if value is None or not math.isfinite(value) else float(value)
