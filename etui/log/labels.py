"""Read what is known of the logged answers: the user's grades, and the audits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from etui.energy.types import Kind
from etui.log.filters import sql_limit
from etui.log.queries import LogReader
from etui.log.records import AuditRecord, ReadRow, parse_record
from etui.log.totals import Spending, parse_spending
from etui.text import format_utc

_LABELLED_SQL = """
    SELECT turn_id, created_at, query, arm, model, reasoning, hops, policy,
        (SELECT good FROM grades WHERE grades.turn_id = turns.turn_id) AS good
    FROM turns
    WHERE turn_id IN (
        SELECT turn_id FROM (
            SELECT * FROM (
                SELECT turn_id, created_at FROM grades ORDER BY created_at DESC LIMIT ?1
            ) UNION ALL SELECT * FROM (
                SELECT turn_id, created_at FROM audits WHERE agrees IS NOT NULL
                ORDER BY created_at DESC LIMIT ?1
            )
        ) GROUP BY turn_id ORDER BY max(created_at) DESC LIMIT ?1
    ) AND status NOT IN ('error', 'interrupted')
    ORDER BY created_at, id
"""
_AUDITS_SQL = """
    SELECT * FROM audits WHERE turn_id IN (SELECT value FROM json_each(?)) AND agrees IS NOT NULL
    ORDER BY created_at, id
"""
_SPENT_SQL = f"""
    SELECT total(joules) + total(load_joules),
        coalesce(sum(joules IS NULL OR load_joules IS NULL), 0),
        coalesce(max(kind IS '{Kind.ESTIMATE.value}'), 0)
    FROM audits INDEXED BY audits_by_time WHERE created_at >= ?
"""
_LARGEST_LOAD_SQL = """
    SELECT max(joules) FROM (
        SELECT joules, created_at FROM loads WHERE model = ?1 AND joules > 0
        UNION ALL
        SELECT load_joules, created_at FROM audits WHERE model = ?1 AND load_joules > 0
        ORDER BY created_at DESC LIMIT 10
    )
"""


@dataclass(frozen=True, slots=True)
class LabelledTurn:
    """A turn with a grade or an audit; arm, model and reasoning are those of the taken hop."""

    turn_id: str
    created_at: str
    query: str
    policy: str | None
    arm: str
    model: str
    reasoning: str
    good: bool | None  # The user's grade; None without one
    audits: tuple[AuditRecord, ...]  # Audits whose answer could be compared, oldest first


def read_labelled(log: LogReader, newest: int | None = None) -> list[LabelledTurn]:
    """Read the turns with a grade or a comparable audit, oldest first.

    With ``newest``, only so many with the newest grades and audits.
    """
    rows = log.select(_LABELLED_SQL, (sql_limit(newest),))
    audits: dict[str, list[AuditRecord]] = {}
    for row in log.select(_AUDITS_SQL, (json.dumps([row["turn_id"] for row in rows]),)):
        audit = parse_record(AuditRecord, row)
        audits.setdefault(audit.turn_id, []).append(audit)
    found = []
    for row in rows:
        arm, model, reasoning = _find_taken(row)
        good = None if row["good"] is None else bool(row["good"])
        turn_id, compared = row["turn_id"], tuple(audits.get(row["turn_id"], ()))
        asked = row["created_at"], row["query"], row["policy"]
        found.append(LabelledTurn(turn_id, *asked, arm, model, reasoning, good, compared))
    return found


def read_audits(
    log: LogReader, since: datetime | None = None, turn_id: str | None = None
) -> list[AuditRecord]:
    """Read audits since an aware time, of a turn or of all; also those without a comparison."""
    rows = log.select(
        "SELECT * FROM audits WHERE created_at >= ?1 AND (?2 IS NULL OR turn_id = ?2) "
        "ORDER BY created_at, id",
        ("" if since is None else format_utc(since), turn_id),
    )
    return [parse_record(AuditRecord, row) for row in rows]


def sum_audits_since(log: LogReader, moment: datetime) -> Spending:
    """Sum the joules of audits since an aware time."""
    return parse_spending(log.select(_SPENT_SQL, (format_utc(moment),)))


def find_largest_load(log: LogReader, model: str) -> float | None:
    """Return the joules of the largest of a model's last ten loads, those for audits included."""
    rows = log.select(_LARGEST_LOAD_SQL, (model,))
    return None if not rows or rows[0][0] is None else float(rows[0][0])


def read_grades(log: LogReader, turn_ids: Sequence[str]) -> dict[str, bool]:
    """Read the grades of turns; those without one are missing."""
    rows = log.select(
        "SELECT turn_id, good FROM grades WHERE turn_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(turn_ids)),),
    )
    return {row["turn_id"]: bool(row["good"]) for row in rows}


def read_named_arms(log: LogReader, turn_ids: Sequence[str]) -> frozenset[str]:
    """Read which of some turns were answered by an arm or a model that was named, not by a rule."""
    rows = log.select(
        "SELECT turn_id FROM turns WHERE rule IS NULL "
        "AND turn_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(turn_ids)),),
    )
    return frozenset(row["turn_id"] for row in rows)


def _find_taken(row: ReadRow) -> tuple[str, str, str]:
    """Return arm, model and reasoning of the answer: of a cascade, those of the taken hop."""
    hops = row["hops"]
    for hop in () if hops == "[]" else json.loads(hops):
        if hop["taken"]:
            return hop["arm"], hop["model"], hop["reasoning"]
    return row["arm"], row["model"], row["reasoning"]
