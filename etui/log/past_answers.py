"""Read the answers of earlier runs, to predict what the same arms will cost."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from etui.curves.fit import TurnPoint, compute_speed
from etui.curves.operating_curve import Conditions, Speed
from etui.log.curve_lookup import (
    POINTS_SQL,
    SPECULATED_SQL,
    LoggedTurn,
    find_curve,
    parse_logged_turns,
)
from etui.routing.joules import (
    ArmKey,
    LoggedModelFacts,
    MeasuredAudit,
    PastAudits,
    PastOutput,
    average_audits,
)

if TYPE_CHECKING:
    from etui.log.queries import LogReader


PAST_TURNS = 200
"""Number of a model's last turns from which its usual output and prompts are taken."""
_SPEED_TURNS = 20
"""Number of turns that a speed is computed from, for each phase."""
_LOADS = 10
_BYTES_PER_TOKEN = 4

_ANSWERED_SQL = "status IN ('complete', 'truncated') AND hops = '[]' AND tokens_output > 0"

_SECONDS_SQL = f"""
    SELECT tokens_computed, tokens_output, seconds_prefill, seconds_decode,
        json_extract(settings, '$.machine') AS machine
    FROM turns
    WHERE id IN (
        SELECT id FROM turns INDEXED BY turns_answered
        WHERE model = ? AND model_sha256 IS ? AND {_ANSWERED_SQL}
        ORDER BY created_at DESC, id DESC LIMIT {PAST_TURNS}
    ) AND reasoning <> 'vote' AND probes = '[]' AND speculation_method IS NULL
        AND tokens_computed > 0
    ORDER BY created_at DESC, id DESC LIMIT ?
"""

_PAST_SQL = f"""
    SELECT reasoning, status, tokens_prompt, tokens_output, energy_phases_decode, energy_kind,
        chat_id, length(CAST(query AS BLOB)) AS query_bytes,
        length(CAST(coalesce(system, '') AS BLOB)) AS system_bytes,
        json_extract(settings, '$.think_tokens') AS think_tokens,
        json_extract(settings, '$.max_tokens') AS max_tokens,
        json_extract(settings, '$.votes') AS votes
    FROM turns INDEXED BY turns_answered
    WHERE model = ? AND model_sha256 IS ? AND {_ANSWERED_SQL}
    ORDER BY created_at DESC, id DESC LIMIT ?
"""

_LOADS_SQL = """
    SELECT joules, seconds, kind FROM loads
    WHERE model = ? AND model_sha256 IS ? AND joules IS NOT NULL
    ORDER BY created_at DESC, id DESC LIMIT ?
"""


# An audit has neither machine nor prompt of its own in the log: they are those of the audited turn.
_AUDITS_SQL = """
    SELECT audits.arm, audits.joules, audits.uncertainty, audits.seconds, audits.kind,
        audits.load_joules, json_extract(turns.settings, '$.machine') AS machine,
        turns.tokens_prompt, turns.chat_id, length(CAST(turns.query AS BLOB)) AS query_bytes,
        length(CAST(coalesce(turns.system, '') AS BLOB)) AS system_bytes
    FROM audits JOIN turns USING (turn_id)
    WHERE audits.model = ? AND audits.model_sha256 IS ?
        AND audits.status IN ('complete', 'truncated')
    ORDER BY audits.created_at DESC, audits.id DESC LIMIT ?
"""


def read_model_facts(
    log: LogReader,
    model: str,
    sha256: str | None,
    now: Conditions,
) -> LoggedModelFacts:
    """Read the facts of one model under the conditions of now, see :func:`find_curve`."""
    past = log.select(_PAST_SQL, (model, sha256, PAST_TURNS))
    loads = log.select(_LOADS_SQL, (model, sha256, _LOADS))
    loads = [row for row in loads if row["kind"] == loads[0]["kind"]]
    audits = _select_audits(log.select(_AUDITS_SQL, (model, sha256, PAST_TURNS)), now)
    audit_loads = [row["load_joules"] for row in audits if row["load_joules"]]
    return LoggedModelFacts(
        curve=find_curve(log, model, sha256, now),
        speed=read_speed(log, model, sha256, now.machine),
        load_joules=_mean([row["joules"] for row in loads] or audit_loads[:_LOADS]),
        load_seconds=_mean([row["seconds"] for row in loads]),
        past=_group_output(past),
        prompt_overhead=_median_overhead(past or audits),
        speculated=_measure_speculated(log, model, sha256, now.machine),
        audits=_group_audits(audits),
    )


def _select_audits(rows: Sequence[sqlite3.Row], now: Conditions) -> list[sqlite3.Row]:
    """Select the audits here whose energy is of the kind of the newest measured one, if any."""
    here = [row for row in rows if row["machine"] in (None, now.machine)]
    kind = next((row["kind"] for row in here if row["joules"] is not None), None)
    return [row for row in here if row["joules"] is None or row["kind"] == kind]


def _group_audits(rows: Sequence[sqlite3.Row]) -> Mapping[str, PastAudits]:
    by_arm: dict[str, list[MeasuredAudit]] = {}
    for row in rows:
        prompt = row["tokens_prompt"] or None
        audit = MeasuredAudit(row["joules"], row["uncertainty"], row["seconds"], prompt)
        by_arm.setdefault(row["arm"], []).append(audit)
    return {arm: average_audits(audits) for arm, audits in by_arm.items()}


def read_speed(log: LogReader, model: str, sha256: str | None, machine: str) -> Speed | None:
    """Compute the speed from the last turns on a machine, or on an unrecorded one.

    Without measured turns it is that of the others, without watts; None without any turn.
    """
    rows = _select_turns(log, POINTS_SQL, model, sha256)
    measured = _compute_speed(_select_here(parse_logged_turns(rows), machine))
    if measured is not None:
        return measured
    unmeasured = _select_turns(log, _SECONDS_SQL, model, sha256)
    alike = [row for row in unmeasured if row["machine"] in (None, machine)]
    if not alike:
        return None
    points = [
        TurnPoint(row[0], 0, row[1], 0.0, 0.0, prefill_seconds=row[2], decode_seconds=row[3])
        for row in alike
    ]
    return replace(_pool_speed(points), prefill_watts=None, decode_watts=None)


def read_quiet_speed(log: LogReader, model: str, sha256: str | None, machine: str) -> Speed | None:
    """Compute the speed from the last turns beside which no other program was seen to run.

    None without any: those of a busy machine say little of other models.
    """
    rows = _select_turns(log, POINTS_SQL, model, sha256)
    here = _select_here(parse_logged_turns(rows), machine)
    return _compute_speed([turn for turn in here if not turn.shared])


def _select_turns(log: LogReader, sql: str, model: str, sha256: str | None) -> list[sqlite3.Row]:
    """Select the newest turns; many of them only if some of these decoded nothing."""
    rows = log.select(sql, (model, sha256, _SPEED_TURNS))
    if all(row["tokens_output"] > 1 for row in rows):
        return rows
    return log.select(sql, (model, sha256, PAST_TURNS))


def _measure_speculated(
    log: LogReader, model: str, sha256: str | None, machine: str
) -> Mapping[str, Speed]:
    """Compute the speed of each setting of ``speculate`` from its last turns on this machine."""
    rows = log.select(SPECULATED_SQL, (model, sha256, PAST_TURNS))
    by_setting: dict[str, list[LoggedTurn]] = {}
    for turn in _select_here(parse_logged_turns(rows), machine):
        by_setting.setdefault(str(turn.settings["speculate"]), []).append(turn)
    speeds = {name: _compute_speed(turns) for name, turns in by_setting.items()}
    return {name: speed for name, speed in speeds.items() if speed is not None}


def _select_here(turns: Sequence[LoggedTurn], machine: str) -> list[LoggedTurn]:
    return [turn for turn in turns if turn.settings.get("machine") in (None, machine)]


def _compute_speed(turns: Sequence[LoggedTurn]) -> Speed | None:
    """Compute the speed of turns whose energy is of the same kind as that of the newest."""
    if not turns:
        return None
    return _pool_speed([turn.point for turn in turns if turn.kind == turns[0].kind])


def _pool_speed(points: Sequence[TurnPoint]) -> Speed:
    """Compute the speed of the newest points, newest first.

    Each phase is that of the newest turns that have it: an answer of one token decodes nothing,
    and many in a row would hide how fast the model decodes.
    """
    prefill = compute_speed(points[:_SPEED_TURNS])
    decoded = [p for p in points if p.output_tokens > 1 and p.decode_seconds]
    decode = compute_speed(decoded[:_SPEED_TURNS])
    return replace(
        prefill,
        decode_tokens_per_second=decode.decode_tokens_per_second,
        decode_watts=decode.decode_watts,
    )


def _group_output(rows: Sequence[sqlite3.Row]) -> Mapping[ArmKey, PastOutput]:
    by_key: dict[ArmKey, list[sqlite3.Row]] = {}
    for row in rows:
        if row["tokens_output"] > 0 and row["max_tokens"] is not None:
            key = ArmKey(
                row["reasoning"], row["think_tokens"] or 0, row["max_tokens"], row["votes"] or 0
            )
            by_key.setdefault(key, []).append(row)
    return {key: _average_output(found) for key, found in by_key.items()}


def _average_output(rows: Sequence[sqlite3.Row]) -> PastOutput:
    measured = [row for row in rows if row["energy_phases_decode"] is not None]
    measured = [row for row in measured if row["energy_kind"] == measured[0]["energy_kind"]]
    tokens = sum(row["tokens_output"] for row in measured)
    joules = math.fsum(row["energy_phases_decode"] for row in measured)
    return PastOutput(
        len(rows),
        sum(row["tokens_output"] for row in rows) / len(rows),
        joules / tokens if tokens else None,
        tuple(row["tokens_output"] for row in rows),
    )


def _median_overhead(rows: Sequence[sqlite3.Row]) -> float | None:
    extra = [
        row["tokens_prompt"]
        - -(-row["query_bytes"] // _BYTES_PER_TOKEN)
        - -(-row["system_bytes"] // _BYTES_PER_TOKEN)
        for row in rows
        if row["chat_id"] is None and row["tokens_prompt"] > 0
    ]
    return float(median(extra)) if extra else None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


_RUNS_SQL = "SELECT run_id, config FROM runs WHERE suite = ? ORDER BY created_at DESC, id DESC"
_ANSWERS_SQL = """
    SELECT joules, uncertainty, seconds, tokens_computed, tokens_output, kind
    FROM answers WHERE run_id = ? AND arm = ? AND status <> 'error'
"""


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """Cost and tokens of an answer; joules, uncertainty and kind are None if unmeasured."""

    joules: float | None
    uncertainty: float | None
    seconds: float
    tokens_computed: float
    tokens_output: int
    kind: str | None = None


def read_run_documents(log: LogReader, suite: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Read id and configuration of the runs of a suite, newest first, if it is a JSON object."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for row in log.select(_RUNS_SQL, (suite,)):
        with suppress(TypeError, ValueError):
            document = json.loads(row["config"])
            if isinstance(document, dict):
                found.append((row["run_id"], document))
    return found


def read_past_answers(log: LogReader, run_id: str, arm: str) -> list[PastAnswer]:
    """Read the answers of an arm of a run."""
    return [PastAnswer(*row) for row in log.select(_ANSWERS_SQL, (run_id, arm))]
