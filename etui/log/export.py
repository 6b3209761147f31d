"""Export turns and chats as JSON lines, CSV, Markdown or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from etui import units
from etui.codec import to_document
from etui.energy.energy_record import (
    NO_SWEEP,
    RECORD_VERSION,
    BatchSizes,
    EnergyRecord,
    Hardware,
    Measurement,
    Method,
    Precision,
    RecordChannel,
    RecordFigure,
    RecordModel,
    RecordPercentiles,
    Results,
    Source,
    Utilisation,
    build_figure,
    build_sensor_floor,
    build_uncertainty,
    describe_framework,
    describe_single,
    explain_missing,
    explain_no_floor,
    list_functional_units,
)
from etui.log.prices import Prices
from etui.log.records import ChatRecord, build_row
from etui.text import close_fence, sanitize
from etui.turn.chat_tree import current_branch
from etui.turn.record import Attribution, HopRecord, TurnRecord
from etui.turn.text import energy_line

NO_WEIGHTS: Mapping[str, str] = {}
"""Quantisations of no model."""
_OLD = "the turn was logged by an earlier version of etui"
_NOT_LOGGED = "the log of turns does not keep it"
_COVERS = "the error of the meter over this turn; another turn would have cost something else"


def build_energy_record(turn: TurnRecord, weights: Mapping[str, str] = NO_WEIGHTS) -> EnergyRecord:
    """Build the energy record of a turn: one measurement.

    Args:
        weights: Hash of a model -> quantisation of its weights, of the models on this machine.
    """
    settings, energy = turn.settings, turn.energy
    pue = float(settings.get("pue", 1.0))
    results = _build_results(turn, pue)
    attribution = energy.attribution or Attribution("exclusive")
    measurement = Measurement(
        name=turn.arm,
        hardware=Hardware(
            machine=settings.get("machine"),
            threads=settings.get("decode_threads") or settings.get("threads"),
            channels=tuple(RecordChannel(name) for name in energy.channels),
        ),
        models=_build_models(turn, weights),
        prompt_tokens=describe_single(turn.tokens.prompt),
        output_tokens=describe_single(turn.tokens.output),
        batch=BatchSizes(
            sequences=_count_sequences(turn),
            batch_tokens=settings.get("batch_tokens"),
            questions_together=max(1, round(attribution.mean_requests)),
        ),
        utilisation=Utilisation(
            questions_at_a_time=max(1, round(attribution.mean_requests)),
            is_shared=None if energy.joules is None else energy.shared,
            shared_share=None if energy.joules is None else float(energy.shared),
            attribution=attribution.method,
        ),
        framework=describe_framework(settings),
        pue=pue,
        method=Method(
            kind=energy.kind,
            sample_hz=settings.get("sample_hz"),
            idle_watts=energy.idle_watts,
            unmeasured=tuple(energy.unmeasured),
            coverage=None if energy.joules is None else energy.coverage,
        ),
        uncertainty=build_uncertainty(energy.uncertainty, energy.joules, _COVERS),
        detection_floor=build_sensor_floor(energy.uncertainty, energy.joules, energy.kind),
        functional_units=list_functional_units(results),
        results=results,
    )
    return EnergyRecord(
        schema_version=RECORD_VERSION,
        source=Source("turn", turn.turn_id, turn.created_at, "one question"),
        measurements=(explain_missing(measurement, _list_reasons(turn)),),
    )


def _build_results(turn: TurnRecord, pue: float) -> Results:
    energy, output = turn.energy, turn.tokens.output
    joules, decode = energy.joules, energy.phases.get("decode")
    prefill, computed = energy.phases.get("prefill"), turn.tokens.computed

    def figure(above: float | None, below: int, width: float | None) -> RecordFigure | None:
        if above is None or not below:
            return None
        sensor = None if width is None else width / below
        low = None if sensor is None else max(0.0, above / below - sensor)
        high = None if sensor is None else above / below + sensor
        return build_figure(above / below, pue, low, high, sensor)

    return Results(
        questions=1,
        computed_tokens=float(computed),
        output_tokens=output,
        seconds=turn.seconds.total,
        it_joules=joules,
        facility_joules=None if joules is None else joules * pue,
        net_joules=energy.net_joules,
        prefill_joules=prefill,
        decode_joules=decode,
        mean_watts=energy.mean_watts,
        peak_watts=energy.peak_watts,
        joules_per_output_token=figure(joules, output, energy.uncertainty),
        joules_per_decoded_token=figure(decode, output, None),
        joules_per_computed_token=figure(prefill, computed, None),
        joules_per_question=figure(joules, 1, energy.uncertainty),
        percentiles=RecordPercentiles(
            joules_per_question=None if joules is None else describe_single(joules),
            joules_per_output_token=describe_single(joules / output)
            if joules is not None and output
            else None,
            ttft_seconds=None if turn.seconds.ttft is None else describe_single(turn.seconds.ttft),
        ),
    )


def _build_models(turn: TurnRecord, weights: Mapping[str, str]) -> tuple[RecordModel, ...]:
    """Build the models of all hops; the settings in the log are those of the taken one."""
    settings = turn.settings
    models = dict.fromkeys((hop.model, hop.model_sha256) for hop in turn.hops)
    models = {(turn.model, turn.model_sha256): None} | models
    return tuple(
        RecordModel(
            name=name,
            sha256=sha256,
            gpu_layers=None,
            precision=Precision(
                weights=weights.get(sha256) if sha256 is not None else None,
                kv_type=settings.get("kv_type") if name == turn.model else None,
                flash_attention=settings.get("flash_attention") if name == turn.model else None,
            ),
            backend=str(settings.get("backend") or ""),
        )
        for name, sha256 in models
    )


def _count_sequences(turn: TurnRecord) -> int | None:
    """Return 1 without votes; how many votes were decoded together is not in the log."""
    hops: tuple[HopRecord, ...] = turn.hops
    voted = turn.reasoning == "vote" or any(hop.reasoning == "vote" for hop in hops)
    return None if voted or len(turn.votes) > 1 else 1


def _list_reasons(turn: TurnRecord) -> dict[str, str]:
    energy = turn.energy
    is_measured = energy.joules is not None
    unmeasured = "the energy is unmeasured"
    figures = "nothing was computed or generated" if is_measured else unmeasured
    return {
        "": _OLD,
        "hardware.memory_bytes": _NOT_LOGGED,
        "hardware.channels": _NOT_LOGGED,
        "models[].sha256": "the file has no known hash, or another machine serves it",
        "models[].file_bytes": _NOT_LOGGED,
        "models[].gpu_layers": _NOT_LOGGED,
        "models[].precision": "the log has the settings of the last model only",
        "models[].precision.weights": "no model file with this hash is on this machine",
        "batch.sequences": "how many votes were decoded together is not logged",
        "batch.batch_tokens": "nothing was computed, or another machine answered",
        "utilisation": unmeasured,
        "framework.llama_cpp": "it is the version that llama_cpp_python ships",
        "method.kind": unmeasured,
        "method.coverage": unmeasured,
        "method.idle_watts": "no idle baseline was measured; see etui power idle",
        **NO_SWEEP,
        "uncertainty": unmeasured,
        "detection_floor": explain_no_floor(energy.uncertainty, energy.kind),
        "detection_floor.percent": "no joules to divide by",
        "results": figures,
        "results.correct": "a turn is not graded",
        "results.joules_per_correct": "a turn is not graded",
        "results.net_joules": unmeasured if not is_measured else "no idle baseline was measured",
        "results.peak_watts": unmeasured if not is_measured else "too short to have a peak",
        **{
            f"results.joules_per_{phase}_token.{end}": "the half width is that of the whole turn"
            for phase in ("decoded", "computed")
            for end in ("low", "high", "sensor")
        },
        "results.percentiles": figures,
        "results.percentiles.ttft_seconds": "nothing was generated",
        "results.percentiles.inter_token_seconds": "the log does not keep the times of tokens",
        "results.steady_state": "it needs the answers of a run",
    }


def build_turn_document(
    turn: TurnRecord, weights: Mapping[str, str] = NO_WEIGHTS, prices: Prices | None = None
) -> dict[str, Any]:
    """Build the document of ``etui ask --json``, with system prompt, trace and energy record.

    Args:
        weights: Hash of a model -> quantisation of its weights.
        prices: Add what the turn cost; None leaves that out.
    """
    document = turn.to_json() | {
        "system": turn.system,
        "trace": turn.trace,
        "energy_record": to_document(build_energy_record(turn, weights)),
    }
    if prices is None:
        return document
    cost = prices.of_turn(turn)
    return document | {"cost": None if cost is None else cost.to_json()}


def write_json_lines(
    turns: Iterable[TurnRecord],
    file: TextIO,
    weights: Mapping[str, str] = NO_WEIGHTS,
    prices: Prices | None = None,
) -> None:
    """Write each turn as one line of JSON, see :func:`build_turn_document`."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for turn in turns:
        file.write(encode(build_turn_document(turn, weights, prices)) + "\n")


def write_csv(turns: Iterable[TurnRecord], file: TextIO, prices: Prices | None = None) -> None:
    """Write each turn as a row with the columns of the table ``turns``; unknown values are empty.

    With prices, four columns with its cost follow. Lists and objects are JSON text. Open the file
    with ``newline=""``.
    """
    writer = None
    for turn in turns:
        row = build_row(turn)
        if prices is not None:
            cost = prices.of_turn(turn)
            found = {} if cost is None else cost.to_json()
            names = ("kilowatt_hours", "price", "currency", "grams_co2e")
            row |= {f"cost_{name}": found.get(name) for name in names}
        if writer is None:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(row)
        writer.writerow(row.values())


def build_chat_document(
    chat: ChatRecord,
    turns: Iterable[TurnRecord],
    weights: Mapping[str, str] = NO_WEIGHTS,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """Build one JSON document of a chat and its turns, see :func:`build_turn_document`."""
    return {
        "chat_id": chat.chat_id,
        "created_at": chat.created_at,
        "name": chat.name,
        "system": chat.system,
        "turns": [build_turn_document(turn, weights, prices) for turn in turns],
    }


def format_chat(chat: ChatRecord, turns: Sequence[TurnRecord], *, is_whole: bool = True) -> str:
    """Format the current branch of a chat as Markdown: each question, its answer, and its energy.

    ``turns`` are all its turns, oldest first; where a filter has left some out, all are shown.
    """
    name = " ".join(sanitize(chat.name).split())
    shown = current_branch(turns, chat.head) if is_whole else turns
    parts = [f"# {name or chat.chat_id}", _format_head(chat, shown)]
    if elsewhere := len(turns) - len(shown):
        parts.append(f"*{units.count_text(elsewhere, 'turn')} on other branches left out*")
    if chat.system:
        parts += ["System prompt:", _quote(chat.system)]
    for turn in shown:
        parts += [
            "---",
            _quote(turn.query),
            close_fence(sanitize(turn.answer).strip()) or f"*{sanitize(_explain_missing(turn))}*",
        ]
        parts.append(f"*{turn.model}: {energy_line(turn)}*")
    return "\n\n".join(parts) + "\n"


def _format_head(chat: ChatRecord, turns: Sequence[TurnRecord]) -> str:
    count = units.count_text(len(turns), "turn")
    read = [t.energy for t in turns if t.energy.kind != units.ESTIMATE]
    estimated = [t.energy for t in turns if t.energy.kind == units.ESTIMATE]
    sums = []
    for energies, kind in ((read, None), (estimated, units.ESTIMATE)):
        joules = [energy.joules for energy in energies if energy.joules is not None]
        if joules:
            sums.append(units.total_text(sum(joules), None, kind))
    return f"{chat.created_at}, {count}, {' and '.join(sums) or units.UNMEASURED}"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in sanitize(text).strip().splitlines())


def _explain_missing(turn: TurnRecord) -> str:
    if turn.tool_calls:
        calls = json.loads(turn.tool_calls)
        return f"calls {', '.join(str(call['function']['name']) for call in calls)}"
    return f"no answer ({turn.status}{f': {turn.error}' if turn.error else ''})"
