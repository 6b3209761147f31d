"""The records of the log; field names are the JSON names, flattened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from etui.codec import from_document
from etui.energy.types import WallEnergy
from etui.text import cut_middle
from etui.turn.record import (
    CUT,
    Attribution,
    ClientRecord,
    LoadRecord,
    Seconds,
    SpeculationRecord,
    Tokens,
    TurnEnergy,
    TurnRecord,
    UnloadRecord,
)

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """One chat of the app.

    ``head`` is the turn that the user went back to last, below which the current branch ends; None
    for the newest branch. ``route_policy``, ``route_model`` and ``route_arm`` are the route that
    was chosen for the chat, all None where it follows the settings.
    """

    chat_id: str
    created_at: str
    name: str
    system: str | None = None
    head: str | None = None
    route_policy: str | None = None
    route_model: str | None = None
    route_arm: str | None = None


class LoggedQuestion(NamedTuple):
    """A question of the log and what answered it: the part of a turn that a replay reads.

    The fields are those of ``TurnRecord``, ``joules`` and ``kind`` those of its energy.
    ``first_hop`` is the arm and the model of the first hop; None without hops. A frozen dataclass
    takes six times as long to make, and a replay makes one for every turn of the log.
    """

    turn_id: str
    chat_id: str | None
    query: str
    system: str | None
    answer: str
    arm: str
    model: str
    reasoning: str
    joules: float | None
    kind: str | None
    settings: dict[str, Any]
    first_hop: tuple[str, str] | None
    parent_id: str | None = None


@dataclass(frozen=True, slots=True)
class GradeRecord:
    """What the user says of the answer of a turn; ``good`` is False for a bad one."""

    turn_id: str
    created_at: str
    good: bool


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """The answer of the audit arm to a question that another arm had answered.

    ``audited_arm`` and ``audited_model`` gave the answer of the turn. ``agrees`` says whether both
    answers are the same, None if they cannot be compared; ``why`` then says why. ``joules`` is the
    answer's, ``load_joules`` that of the loads for it (0.0 without one); None if unmeasured. Both
    belong to audits alone: they are in no turn, and in no load of the log.
    """

    audit_id: str
    turn_id: str
    created_at: str
    policy: str
    arm: str
    model: str
    model_sha256: str | None
    audited_arm: str
    audited_model: str
    status: str
    answer: str
    agrees: bool | None
    why: str
    tokens_output: int
    seconds: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    load_joules: float | None


Record = TurnRecord | LoadRecord | UnloadRecord | ChatRecord | GradeRecord | AuditRecord

Row = dict[str, Any]
ReadRow: TypeAlias = "Mapping[str, Any] | sqlite3.Row"
R = TypeVar("R")
_TABLES: dict[type, tuple[str, tuple[str, ...]]] = {
    TurnRecord: ("turns", ("turn_id",)),
    ChatRecord: ("chats", ("chat_id",)),
    LoadRecord: ("loads", ("load_id",)),
    UnloadRecord: ("unloads", ("unload_id",)),
    GradeRecord: ("grades", ("turn_id",)),
    AuditRecord: ("audits", ("audit_id",)),
}
"""Record -> its table, and the columns that identify it there."""
KEYS: dict[str, tuple[str, ...]] = {
    **dict(_TABLES.values()),
    "rates": ("start_s",),
    "curves": ("curve_id",),
    "runs": ("run_id",),
    "answers": ("run_id", "arm", "subject", "row"),
    "sweeps": ("sweep_id",),
    "sweep_settings": ("sweep_id", "setting"),
}


def _pair_columns(kind: type, prefix: str, *without: str) -> dict[str, str]:
    """Pair the fields of a dataclass with the columns that hold them."""
    return {f.name: f"{prefix}{f.name}" for f in fields(kind) if f.name not in without}


_LISTS = (
    *("votes", "probes", "hops", "power_watts", "settings", "trace", "loop", "cache", "tools"),
    "pictures",
)
_ENERGY_LISTS = ("channels", "unmeasured", "flags")
_TURN = _pair_columns(
    TurnRecord, "", "tokens", "seconds", "energy", "speculation", "client", *_LISTS
)
_TOKENS = _pair_columns(Tokens, "tokens_")
_SECONDS = _pair_columns(Seconds, "seconds_")
_ENERGY = _pair_columns(
    TurnEnergy, "energy_", "phases", "shared", "attribution", "wall", *_ENERGY_LISTS
)
_PHASES = {name: f"energy_phases_{name}" for name in ("load", "prefill", "decode")}
_ATTRIBUTION = _pair_columns(Attribution, "energy_attribution_")
_WALL = _pair_columns(WallEnergy, "energy_wall_")
_SPECULATION = _pair_columns(SpeculationRecord, "speculation_")
_CLIENT = _pair_columns(ClientRecord, "client_")
_DERIVED = {
    name: f"speculation_{name}"
    for name in ("joules_per_accepted_token", "joules_per_accepted_token_uncertainty")
}
"""Values of a speculation that follow from the others; SQL can sort by their columns."""
_NUMBERS = frozenset({int, float, bool, type(None)})
"""Types of values that SQLite takes as they are."""
TURN_BYTES = 1_000_000
"""The log keeps this much of all texts of a turn; of the longest ones their begin and end."""
REFUSED_BYTES = 3_000
"""It keeps this much of the question of a client that was refused, or left before any work."""
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def choose_table(record: Record) -> str:
    """Return the table of a record."""
    return _TABLES[type(record)][0]


def build_row(record: Record) -> Row:
    """Convert a record to column -> value, ready for SQLite.

    A lone surrogate (from bytes of the command line that are not text) cannot be stored and
    becomes U+FFFD. Of long texts of a turn the middle is left out, see :data:`TURN_BYTES`.
    """
    if not isinstance(record, TurnRecord):
        return to_row({f.name: getattr(record, f.name) for f in fields(record)})
    flat = _flatten_turn(record)
    row = to_row(flat)
    names, most_bytes = tuple(row), TURN_BYTES
    if record.client is not None and not (record.tokens.prompt or record.tokens.output):
        names, most_bytes = ("query", "system"), REFUSED_BYTES
    characters = sum(len(row[name]) for name in names if isinstance(row[name], str))
    if 4 * characters <= most_bytes:  # no character has more bytes
        return row
    return to_row(_bound_texts(flat, names, most_bytes))


def to_row(flat: Row) -> Row:
    """Convert the values of a row for SQLite: lists and objects become JSON."""
    return {
        name: value if type(value) in _NUMBERS else _to_storable(value)
        for name, value in flat.items()
    }


def parse_turn(row: ReadRow) -> TurnRecord:
    """Parse a row of ``turns``."""
    if not isinstance(row, dict):
        # A Row of SQLite compares all names to find one, which takes longer than the rest of this.
        row = dict(zip(row.keys(), row, strict=True))
    read = {name: _parse_json(row[name]) for name in _LISTS}
    pictures = read["pictures"]
    wall = _read_part(row, _WALL)
    energy = {
        **_read(row, _ENERGY),
        **{name: _parse_json(row[f"energy_{name}"]) for name in _ENERGY_LISTS},
        "phases": _read(row, _PHASES) | ({"image": pictures["joules"]} if pictures else {}),
        "shared": bool(row["energy_shared"]),
        "attribution": _read_part(row, _ATTRIBUTION),
        "wall": wall and wall | {"extrapolated": bool(wall["extrapolated"])},
    }
    document = {
        **_read(row, _TURN),
        **read,
        **{name: read[name] or None for name in ("loop", "cache", "tools", "pictures")},
        "tokens": _read(row, _TOKENS),
        "seconds": _read(row, _SECONDS),
        "energy": energy,
        "speculation": _read_part(row, _SPECULATION),
        "client": _read_part(row, _CLIENT),
    }
    return from_document(TurnRecord, document, extra="ignore")


def _read(row: ReadRow, columns: Mapping[str, str]) -> Row:
    return {name: row[column] for name, column in columns.items()}


def _read_part(row: ReadRow, columns: Mapping[str, str]) -> Row | None:
    """Read a part of a turn; None if the first column, which it always has, is NULL."""
    return None if row[next(iter(columns.values()))] is None else _read(row, columns)


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


def parse_record(kind: type[R], row: ReadRow) -> R:
    """Parse a row of chats, loads, unloads or audits."""
    found = {name: row[name] for name in kind.__dataclass_fields__}  # type: ignore[attr-defined]
    if found.get("agrees") is not None:
        found["agrees"] = bool(found["agrees"])
    return kind(**found)


_EMPTY: Mapping[str, Callable[[], Any]] = {"[]": list, "{}": dict}
"""Most lists and objects of a turn are empty; these are not worth a parser."""


def _parse_json(text: str) -> Any:
    make = _EMPTY.get(text) if len(text) == 2 else None
    return json.loads(text) if make is None else make()


def _flatten_turn(record: TurnRecord) -> Row:
    energy, document = record.energy, record.to_json()
    return {
        **_flatten(record, _TURN),
        **_flatten(record.tokens, _TOKENS),
        **_flatten(record.seconds, _SECONDS),
        **_flatten(energy, _ENERGY),
        **{column: energy.phases.get(phase) for phase, column in _PHASES.items()},
        **{f"energy_{name}": getattr(energy, name) for name in (*_ENERGY_LISTS, "shared")},
        **{name: document[name] for name in ("votes", "probes", "hops")},
        "power_watts": record.power_watts,
        "settings": record.settings,
        "trace": record.trace,
        **_flatten(record.speculation, _SPECULATION | _DERIVED),
        **_flatten(energy.attribution, _ATTRIBUTION),
        **_flatten(energy.wall, _WALL),
        **_flatten(record.client, _CLIENT),
        **{name: document.get(name) or {} for name in ("loop", "cache", "tools", "pictures")},
    }


def _bound_texts(flat: Row, names: Sequence[str], most_bytes: int) -> Row:
    """Cut the longest texts of some columns to one length, so that all of them fit."""
    sizes = {
        name: [len(text.encode("utf-8", "surrogatepass")) for text in _iter_texts(flat[name])]
        for name in names
    }
    kept = _find_level(sorted(size for each in sizes.values() for size in each), most_bytes)
    cut = {name: sum(each) for name, each in sizes.items() if max(each, default=0) > kept}
    if not cut:
        return flat
    short = {name: _cut_texts(flat[name], kept) for name in cut}
    if "tool_calls" in cut:  # JSON already
        calls = _cut_texts(json.loads(flat["tool_calls"]), kept)
        short["tool_calls"] = json.dumps(calls, ensure_ascii=False)
    settings: Any = short.get("settings", flat["settings"])
    return {**flat, **short, "settings": {**settings, CUT: {**cut, **settings.get(CUT, {})}}}


def _find_level(sizes: Sequence[int], most: int) -> int:
    """Return to what the largest of some sorted sizes have to be cut so that their sum fits."""
    for index, size in enumerate(sizes):
        if size * (len(sizes) - index) > most:
            return most // (len(sizes) - index)
        most -= size
    return max(sizes, default=0)


def _iter_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _iter_texts(each)


def _cut_texts(value: Any, most_bytes: int) -> Any:
    if isinstance(value, str):
        return cut_middle(value, most_bytes)
    if isinstance(value, dict):
        return {name: _cut_texts(each, most_bytes) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cut_texts(each, most_bytes) for each in value]
    return value


def _flatten(part: object | None, columns: Mapping[str, str]) -> Row:
    return {column: getattr(part, name, None) for name, column in columns.items()}


def _to_storable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _LONE_SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict | list | tuple):
        if not value:
            return "{}" if isinstance(value, dict) else "[]"
        text = json.dumps(value, ensure_ascii=False, default=str)
        return _LONE_SURROGATES.sub("\ufffd", text)
    return value
