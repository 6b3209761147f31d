"""Convert records to rows and back: names flattened with ``_``, lists and objects as JSON."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from etui.log.records import (
    AnswerRecord,
    AuditRecord,
    ChatRecord,
    CurveRecord,
    GradeRecord,
    LoggedQuestion,
    RunRecord,
    SweepRecord,
    SweepSettingRecord,
)
from etui.turn.record import (
    Attribution,
    ClientRecord,
    HopRecord,
    LoopRecord,
    ProbeRecord,
    Seconds,
    Tokens,
    TurnEnergy,
    TurnRecord,
    VoteRecord,
)
from etui.turn.residence_record import LoadRecord, UnloadRecord
from etui.turn.speculation_record import SpeculationRecord, parse_speculation

Record = (
    TurnRecord
    | LoadRecord
    | UnloadRecord
    | ChatRecord
    | RunRecord
    | AnswerRecord
    | CurveRecord
    | SweepRecord
    | SweepSettingRecord
    | GradeRecord
    | AuditRecord
)
N = TypeVar("N")
Row = dict[str, Any]
ReadRow = Mapping[str, Any] | sqlite3.Row

KEYS: dict[str, tuple[str, ...]] = {
    "turns": ("turn_id",),
    "chats": ("chat_id",),
    "loads": ("load_id",),
    "unloads": ("unload_id",),
    "runs": ("run_id",),
    "answers": ("run_id", "arm", "subject", "row"),
    "curves": ("curve_id",),
    "sweeps": ("sweep_id",),
    "sweep_settings": ("sweep_id", "setting"),
    "grades": ("turn_id",),
    "audits": ("audit_id",),
}
"""Table -> the columns that identify a record."""

_TABLE_OF: dict[type, str] = {
    TurnRecord: "turns",
    ChatRecord: "chats",
    LoadRecord: "loads",
    UnloadRecord: "unloads",
    RunRecord: "runs",
    AnswerRecord: "answers",
    CurveRecord: "curves",
    SweepRecord: "sweeps",
    SweepSettingRecord: "sweep_settings",
    GradeRecord: "grades",
    AuditRecord: "audits",
}
_PHASES = ("load", "prefill", "decode")
_JSON_COLUMNS = (
    *("energy_channels", "energy_unmeasured", "energy_flags"),
    *("votes", "probes", "hops", "power_watts", "settings", "trace", "loop"),
)
_NUMBERS = frozenset({int, float, bool, type(None)})
"""Types of values that SQLite takes as they are."""

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def choose_table(record: Record) -> str:
    """Return the table of a record."""
    return _TABLE_OF[type(record)]


def build_row(record: Record) -> Row:
    """Convert a record to column -> value, ready for SQLite.

    A lone surrogate (from bytes of the command line that are not text) cannot be stored and
    becomes U+FFFD.
    """
    flat = _flatten_turn(record) if isinstance(record, TurnRecord) else _flatten(record)
    return {
        name: value if type(value) in _NUMBERS else _to_storable(value)
        for name, value in flat.items()
    }


def parse_turn(row: ReadRow) -> TurnRecord:
    """Parse a row of ``turns``."""
    if isinstance(row, sqlite3.Row):
        # A Row finds a name by comparing all of them, which takes longer than the rest of this.
        row = dict(zip(row.keys(), row, strict=True))
    read = {name: _parse_json(row[name]) for name in _JSON_COLUMNS}
    return TurnRecord(
        **{name: row[name] for name in _PLAIN_OF_TURN},
        tokens=Tokens(*[row[column] for _, column in _TOKEN_COLUMNS]),
        seconds=Seconds(*[row[column] for _, column in _SECOND_COLUMNS]),
        energy=TurnEnergy(
            **{name: row[column] for name, column in _ENERGY_COLUMNS},
            phases={phase: row[column] for phase, column in _PHASE_COLUMNS},
            channels=read["energy_channels"],
            unmeasured=tuple(read["energy_unmeasured"]),
            flags=tuple(read["energy_flags"]),
            shared=bool(row["energy_shared"]),
            attribution=_parse_nested(Attribution, row, _ATTRIBUTION_COLUMNS),
        ),
        votes=tuple(VoteRecord(**vote) for vote in read["votes"]),
        probes=tuple(ProbeRecord(**probe) for probe in read["probes"]),
        hops=tuple(_parse_hop(hop) for hop in read["hops"]),
        power_watts=tuple(read["power_watts"]),
        settings=read["settings"],
        trace=read["trace"],
        speculation=_parse_nested(SpeculationRecord, row, _SPECULATION_COLUMNS),
        loop=LoopRecord(**read["loop"]) if read["loop"] else None,
        client=_parse_nested(ClientRecord, row, _CLIENT_COLUMNS),
    )


QUESTION_COLUMNS = (
    *("turn_id", "chat_id", "query", "system", "answer", "arm", "model", "reasoning"),
    *("energy_joules", "energy_kind", "parent_id", "settings", "hops"),
)
"""The columns of ``turns`` that :func:`parse_question` reads, in its order."""


def parse_question(values: Sequence[Any]) -> LoggedQuestion:
    """Parse the values of ``QUESTION_COLUMNS``."""
    *plain, parent_id, settings, hops = values
    first_hop = None
    if hops != "[]":
        hop = json.loads(hops)[0]
        first_hop = hop["arm"], hop["model"]
    return LoggedQuestion._make([*plain, _parse_json(settings), first_hop, parent_id])


def _parse_hop(hop: dict[str, Any]) -> HopRecord:
    """Parse one of the ``hops``; an older etui recorded no speculation."""
    speculation = parse_speculation(hop.get("speculation"))
    return HopRecord(**hop | {"tokens": Tokens(**hop["tokens"]), "speculation": speculation})


def _parse_nested(kind: type[N], row: ReadRow, columns: Sequence[tuple[str, str]]) -> N | None:
    """Parse a record from its columns; None if the first one, which it always has, is NULL."""
    if row[columns[0][1]] is None:
        return None
    return kind(**{name: row[column] for name, column in columns})


def parse_chat(row: ReadRow) -> ChatRecord:
    """Parse a row of ``chats``."""
    return ChatRecord(**{f.name: row[f.name] for f in fields(ChatRecord)})


def parse_load(row: ReadRow) -> LoadRecord:
    """Parse a row of ``loads``."""
    return LoadRecord(**{f.name: row[f.name] for f in fields(LoadRecord)})


def parse_unload(row: ReadRow) -> UnloadRecord:
    """Parse a row of ``unloads``."""
    return UnloadRecord(**{f.name: row[f.name] for f in fields(UnloadRecord)})


def parse_audit(row: ReadRow) -> AuditRecord:
    """Parse a row of ``audits``."""
    found = {f.name: row[f.name] for f in fields(AuditRecord)}
    agrees = found["agrees"]
    return AuditRecord(**found | {"agrees": None if agrees is None else bool(agrees)})


_NESTED = {
    *("tokens", "seconds", "energy", "votes", "probes", "hops", "power_watts", "settings", "trace"),
    "speculation",
    "loop",
    "client",
}
_PLAIN_OF_TURN = tuple(f.name for f in fields(TurnRecord) if f.name not in _NESTED)
_PLAIN_OF_ENERGY = tuple(
    f.name
    for f in fields(TurnEnergy)
    if f.name not in {"phases", "channels", "unmeasured", "flags", "shared", "attribution"}
)
_TOKEN_COLUMNS = tuple((f.name, f"tokens_{f.name}") for f in fields(Tokens))
_SECOND_COLUMNS = tuple((f.name, f"seconds_{f.name}") for f in fields(Seconds))
_ENERGY_COLUMNS = tuple((name, f"energy_{name}") for name in _PLAIN_OF_ENERGY)
_SPECULATION_COLUMNS = tuple((f.name, f"speculation_{f.name}") for f in fields(SpeculationRecord))
_ATTRIBUTION_COLUMNS = tuple((f.name, f"energy_attribution_{f.name}") for f in fields(Attribution))
_CLIENT_COLUMNS = tuple((f.name, f"client_{f.name}") for f in fields(ClientRecord))
_DERIVED_OF_SPECULATION = ("joules_per_accepted_token", "joules_per_accepted_token_uncertainty")
"""Values that follow from the others; they have columns, so that SQL can sort by them."""
_PHASE_COLUMNS = tuple((phase, f"energy_phases_{phase}") for phase in _PHASES)
_EMPTY: Mapping[str, Callable[[], Any]] = {"[]": list, "{}": dict}
"""Most lists and objects of a turn are empty; these are not worth a parser."""


def _parse_json(text: str) -> Any:
    make = _EMPTY.get(text) if len(text) == 2 else None
    return json.loads(text) if make is None else make()


def _flatten_turn(record: TurnRecord) -> Row:
    row = {name: getattr(record, name) for name in _PLAIN_OF_TURN}
    row |= {column: getattr(record.tokens, name) for name, column in _TOKEN_COLUMNS}
    row |= {column: getattr(record.seconds, name) for name, column in _SECOND_COLUMNS}
    row |= {column: getattr(record.energy, name) for name, column in _ENERGY_COLUMNS}
    row |= {column: record.energy.phases.get(phase) for phase, column in _PHASE_COLUMNS}
    document = record.to_json()
    return row | {
        "energy_channels": record.energy.channels,
        "energy_unmeasured": record.energy.unmeasured,
        "energy_flags": record.energy.flags,
        "energy_shared": record.energy.shared,
        "votes": document["votes"],
        "probes": document["probes"],
        "hops": document["hops"],
        "power_watts": record.power_watts,
        "settings": record.settings,
        "trace": record.trace,
        **_flatten_speculation(record.speculation),
        **_flatten_nested(record.energy.attribution, _ATTRIBUTION_COLUMNS),
        **_flatten_nested(record.client, _CLIENT_COLUMNS),
        "loop": document["loop"] or {},
    }


def _flatten_speculation(speculation: SpeculationRecord | None) -> Row:
    document = speculation.to_json() if speculation is not None else {}
    names = (*(name for name, _ in _SPECULATION_COLUMNS), *_DERIVED_OF_SPECULATION)
    return {f"speculation_{name}": document.get(name) for name in names}


def _flatten_nested(record: object | None, columns: Sequence[tuple[str, str]]) -> Row:
    return {column: getattr(record, name, None) for name, column in columns}


def _flatten(record: Record) -> Row:
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _to_storable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _LONE_SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict | list | tuple):
        if not value:
            return "{}" if isinstance(value, dict) else "[]"
        text = json.dumps(value, ensure_ascii=False, default=str)
        return _LONE_SURROGATES.sub("\ufffd", text)
    return value
