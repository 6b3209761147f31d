"""The records of the log; field names are the JSON names, flattened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from etui.turn.record import (
    Attribution,
    ClientRecord,
    HopRecord,
    LoadRecord,
    LoopRecord,
    ProbeRecord,
    Seconds,
    SpeculationRecord,
    Tokens,
    TurnEnergy,
    TurnRecord,
    UnloadRecord,
    VoteRecord,
    parse_speculation,
)

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """One chat of the app.

    ``head`` is the turn that the user went back to last, below which the current branch ends; None
    for the newest branch.
    """

    chat_id: str
    created_at: str
    name: str
    system: str | None = None
    head: str | None = None


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


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One bench run: its settings and results in short; the folder has the details."""

    run_id: str
    created_at: str
    finished_at: str | None
    status: str
    folder: str
    suite: str
    format: str
    shots: int
    seed: int
    data_sha256: str | None
    config_sha256: str | None
    questions: int
    correct: int
    joules: float | None
    uncertainty: float | None
    kind: str | None
    seconds: float
    arms: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """The answer of one arm to one question of a run; the key is (run, arm, subject, row)."""

    run_id: str
    arm: str
    subject: str
    row: int
    answer: str
    choice: str | None
    correct: bool
    letter_mass: float | None
    status: str
    tokens_computed: int
    tokens_cached: int
    tokens_thinking: int
    tokens_output: int
    joules: float | None
    uncertainty: float | None
    kind: str | None
    seconds: float
    logprobs: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class CurveRecord:
    """The operating curve of a model on a machine; ``source`` is ``calibration`` or ``log``.

    ``coefficients`` has ``e0``, ``a`` and ``a2`` of prefill and ``e0``, ``b`` and ``c`` of decode,
    in joules and joules per token; ``settings`` has what else the curve depends on (threads,
    channels).
    """

    curve_id: str
    created_at: str
    model: str
    model_sha256: str | None
    machine: str
    build: str
    power_limit_watts: float | None
    kind: str | None
    source: str
    n: int
    r2_prefill: float | None
    r2_decode: float | None
    coefficients: dict[str, float]
    residuals: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """One sweep: what it looked for, and what it has found so far; the folder has the details.

    ``floor_joules_percent`` and ``floor_seconds_percent`` are the smallest differences that it
    could show; ``joules`` is the sum over all measured answers, None if any is unmeasured.
    """

    sweep_id: str
    created_at: str
    folder: str
    model: str
    model_sha256: str | None
    machine: str
    goal: str
    within_percent: float | None
    baseline: str
    best: str | None
    verdict: str
    floor_joules_percent: float | None
    floor_seconds_percent: float | None
    blocks: int
    visits: int
    joules: float | None
    kind: str | None
    seconds: float
    complete: bool


@dataclass(frozen=True, slots=True)
class SweepSettingRecord:
    """One setting of a sweep: an answer's costs, and differences to the baseline in percent.

    ``accuracy`` is a share in [0, 1], ``accuracy_points`` its difference in percentage points; all
    ends are those of intervals at 95 %. ``dropped_after`` is the number of a block.
    """

    sweep_id: str
    setting: str
    axes: dict[str, Any]
    stage: str
    blocks: int
    joules: float | None
    joules_low: float | None
    joules_high: float | None
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None
    joules_percent: float | None
    joules_percent_low: float | None
    joules_percent_high: float | None
    joules_claimed: bool
    seconds_percent: float | None
    seconds_percent_low: float | None
    seconds_percent_high: float | None
    seconds_claimed: bool
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    accuracy_points: float | None
    accuracy_points_low: float | None
    accuracy_points_high: float | None
    dropped_after: int | None
    reason: str
    frontier: bool


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

ReadRow: TypeAlias = "Mapping[str, Any] | sqlite3.Row"


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
    if not isinstance(row, dict):
        # A Row of SQLite compares all names to find one, which takes longer than the rest of this.
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
