"""Sum joules per model, rule, day or chat, with readings and estimates apart."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from etui.energy.types import Kind
from etui.log.filters import COVERING_INDEX, Clause

_GROUPS = {
    "all": "'all'",
    "model": "model",
    "rule": "coalesce(rule, '')",
    "status": "status",
    "policy": "coalesce(policy, '')",
    "day": "date(created_at, 'localtime')",
    "chat": "chat_id",
}
_BEST_FIRST = tuple(Kind)
_RANKS = " ".join(f"WHEN '{kind}' THEN {rank}" for rank, kind in enumerate(_BEST_FIRST))
_READ = f"energy_joules IS NOT NULL AND energy_kind IS NOT '{Kind.ESTIMATE}'"
_ESTIMATED = f"energy_joules IS NOT NULL AND energy_kind IS '{Kind.ESTIMATE}'"

GROUPS = tuple(_GROUPS)
"""Ways to group turns for totals."""


@dataclass(frozen=True, slots=True)
class Total:
    """The joules, tokens and seconds of a group of turns.

    Attributes:
        key: The model, rule, day (local, ``2026-11-24``) or chat; empty for turns without one.
        turns: All turns of the group.
        joules: Sum over the turns with a hardware reading; None when there is none.
        uncertainty: Sum of their half widths, which bounds the error even if all share its cause.
        kind: The weakest kind in ``joules``.
        estimated_joules: Sum over the turns that were only estimated; None when there is none.
        unmeasured_turns: Turns that are in neither sum.
        output_tokens: Thinking and answer tokens of all turns.
        joules_per_token: Over the turns with a reading, or else over the estimated ones.
        seconds: Prefill and decode of all turns, loads excluded.
    """

    key: str
    turns: int
    joules: float | None
    uncertainty: float | None
    kind: str | None
    estimated_joules: float | None
    unmeasured_turns: int
    output_tokens: int
    joules_per_token: float | None
    seconds: float


def totals_sql(by: str, where: Clause) -> str:
    """Build the statement for :class:`Total`: most expensive group first, days newest first.

    Raises:
        KeyError: ``by`` is not in :data:`GROUPS`.
    """
    # Without a named index, SQLite groups along a narrow one and looks up every wide row.
    where = replace(where, index=where.index or COVERING_INDEX)
    order = "key DESC" if by == "day" else "coalesce(joules, estimated_joules, -1) DESC, key"
    return f"""
        SELECT {_GROUPS[by]} AS key,
            count(*) AS turns,
            sum(energy_joules) FILTER (WHERE {_READ}) AS joules,
            sum(energy_uncertainty) FILTER (WHERE {_READ}) AS uncertainty,
            max(CASE energy_kind {_RANKS} END) FILTER (WHERE {_READ}) AS kind_rank,
            sum(energy_joules) FILTER (WHERE {_ESTIMATED}) AS estimated_joules,
            count(*) FILTER (WHERE energy_joules IS NULL) AS unmeasured_turns,
            sum(tokens_output) AS output_tokens,
            sum(tokens_output) FILTER (WHERE {_READ}) AS read_tokens,
            sum(tokens_output) FILTER (WHERE {_ESTIMATED}) AS estimated_tokens,
            sum(seconds_total) AS seconds
        {where.sql} GROUP BY 1 ORDER BY {order}
    """


def parse_total(row: sqlite3.Row) -> Total:
    """Parse a row of :func:`totals_sql`."""
    read = row["joules"] is not None
    joules = row["joules"] if read else row["estimated_joules"]
    tokens = row["read_tokens"] if read else row["estimated_tokens"]
    return Total(
        key=row["key"] or "",
        turns=row["turns"],
        joules=row["joules"],
        uncertainty=row["uncertainty"],
        kind=None if row["kind_rank"] is None else str(_BEST_FIRST[row["kind_rank"]]),
        estimated_joules=row["estimated_joules"],
        unmeasured_turns=row["unmeasured_turns"],
        output_tokens=row["output_tokens"],
        joules_per_token=joules / tokens if joules is not None and tokens else None,
        seconds=row["seconds"],
    )
