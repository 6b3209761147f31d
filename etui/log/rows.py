"""Convert records to rows and back: names flattened with ``_``, lists and objects as JSON."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from etui.log.records import AnswerRecord, ChatRecord, CurveRecord, RunRecord
from etui.turn.record import (
    HopRecord,
    LoadRecord,
    ProbeRecord,
    Seconds,
    Tokens,
    TurnEnergy,
    TurnRecord,
    UnloadRecord,
    VoteRecord,
)

Record = (
    TurnRecord | LoadRecord | UnloadRecord | ChatRecord | RunRecord | AnswerRecord | CurveRecord
)
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
}
_PHASES = ("load", "prefill", "decode")
_JSON_COLUMNS = (
    *("energy_channels", "energy_unmeasured", "energy_flags"),
    *("votes", "probes", "hops", "power_watts", "settings", "trace"),
)
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
    return {name: _to_storable(value) for name, value in flat.items()}


def parse_turn(row: ReadRow) -> TurnRecord:
    """Parse a row of ``turns``."""
    read = {name: json.loads(row[name]) for name in _JSON_COLUMNS}
    return TurnRecord(
        **{name: row[name] for name in _PLAIN_OF_TURN},
        tokens=Tokens(**{f.name: row[f"tokens_{f.name}"] for f in fields(Tokens)}),
        seconds=Seconds(**{f.name: row[f"seconds_{f.name}"] for f in fields(Seconds)}),
        energy=TurnEnergy(
            **{name: row[f"energy_{name}"] for name in _PLAIN_OF_ENERGY},
            phases={phase: row[f"energy_phases_{phase}"] for phase in _PHASES},
            channels=read["energy_channels"],
            unmeasured=tuple(read["energy_unmeasured"]),
            flags=tuple(read["energy_flags"]),
            shared=bool(row["energy_shared"]),
        ),
        votes=tuple(VoteRecord(**vote) for vote in read["votes"]),
        probes=tuple(ProbeRecord(**probe) for probe in read["probes"]),
        hops=tuple(HopRecord(**hop | {"tokens": Tokens(**hop["tokens"])}) for hop in read["hops"]),
        power_watts=tuple(read["power_watts"]),
        settings=read["settings"],
        trace=read["trace"],
    )


def parse_chat(row: ReadRow) -> ChatRecord:
    """Parse a row of ``chats``."""
    return ChatRecord(**{f.name: row[f.name] for f in fields(ChatRecord)})


def parse_load(row: ReadRow) -> LoadRecord:
    """Parse a row of ``loads``."""
    return LoadRecord(**{f.name: row[f.name] for f in fields(LoadRecord)})


def parse_unload(row: ReadRow) -> UnloadRecord:
    """Parse a row of ``unloads``."""
    return UnloadRecord(**{f.name: row[f.name] for f in fields(UnloadRecord)})


_NESTED = {
    *("tokens", "seconds", "energy", "votes", "probes", "hops", "power_watts", "settings", "trace"),
}
_PLAIN_OF_TURN = tuple(f.name for f in fields(TurnRecord) if f.name not in _NESTED)
_PLAIN_OF_ENERGY = tuple(
    f.name
    for f in fields(TurnEnergy)
    if f.name not in {"phases", "channels", "unmeasured", "flags", "shared"}
)


def _flatten_turn(record: TurnRecord) -> Row:
    row = {name: getattr(record, name) for name in _PLAIN_OF_TURN}
    row |= {f"tokens_{f.name}": getattr(record.tokens, f.name) for f in fields(Tokens)}
    row |= {f"seconds_{f.name}": getattr(record.seconds, f.name) for f in fields(Seconds)}
    row |= {f"energy_{name}": getattr(record.energy, name) for name in _PLAIN_OF_ENERGY}
    row |= {f"energy_phases_{phase}": record.energy.phases.get(phase) for phase in _PHASES}
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
    }


def _flatten(record: Record) -> Row:
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _to_storable(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict | list | tuple):
        text = json.dumps(value, ensure_ascii=False, default=str)
        return _LONE_SURROGATES.sub("\ufffd", text)
    return value
