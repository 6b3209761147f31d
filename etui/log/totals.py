"""Sum joules per model, rule, day, hour or chat, with readings and estimates apart.

A turn with hops was answered by several models, so a sum per model takes its hops apart and charges
each to the model that answered it. The sums over all models are those over all turns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from etui.energy.types import Kind
from etui.log.filters import (
    AT_WALL,
    CLIENT_INDEX,
    COVERING_INDEX,
    HAS_HOPS,
    HOPPED,
    OF_CLIENTS,
    SPAN,
    START,
    Clause,
)
from etui.text import format_utc

if TYPE_CHECKING:
    from etui.log.queries import LogReader

_SUMS = """
    SELECT total({0}joules), coalesce(sum({0}joules IS NULL), 0),
        coalesce(max({0}kind IS 'estimate'), 0)
    FROM {1} WHERE created_at >= ?
"""
_TURNS_SQL = _SUMS.format("energy_", "turns INDEXED BY turns_history")
_LOADS_SQL = _SUMS.format("", "loads")


@dataclass(frozen=True, slots=True)
class Spending:
    """The joules of turns, or of audits with their loads, since a point in time."""

    joules: float  # Gross joules, estimates included
    estimated: bool
    unmeasured_turns: int  # Turns or audits that are missing in the sum, in whole or in part


def parse_spending(*sums: Sequence[sqlite3.Row]) -> Spending:
    """Add up rows of (joules, number of unknown ones, whether estimates are among them)."""
    rows = [found[0] for found in sums if found]
    return Spending(
        sum((row[0] for row in rows), 0.0), any(row[2] for row in rows), rows[0][1] if rows else 0
    )


def sum_joules_since(log: LogReader, moment: datetime) -> Spending:
    """Sum the joules of turns and loads since an aware time."""
    since = (format_utc(moment),)
    return parse_spending(log.select(_TURNS_SQL, since), log.select(_LOADS_SQL, since))


_GROUPS = {
    "all": "'all'",
    "model": "model",
    "rule": "coalesce(rule, '')",
    "status": "status",
    "policy": "coalesce(policy, '')",
    "day": "date(created_at, 'localtime')",
    "hour": "strftime('%Y-%m-%d %H:00', created_at, 'localtime')",
    "chat": "chat_id",
    "key": "client_key",
}
_BEST_FIRST = tuple(Kind)
_RANKS = " ".join(f"WHEN '{kind}' THEN {rank}" for rank, kind in enumerate(_BEST_FIRST))
_READ = f"energy_joules IS NOT NULL AND energy_kind IS NOT '{Kind.ESTIMATE}'"
_ESTIMATED = f"energy_joules IS NOT NULL AND energy_kind IS '{Kind.ESTIMATE}'"
GROUPS = tuple(_GROUPS)
"""Ways to group turns for totals."""


@dataclass(frozen=True, slots=True)
class Total:
    """The joules, tokens and seconds of a group of turns."""

    key: str
    """The model, rule, day (local, ``2026-11-24``), hour (``2026-11-24 13:00``), chat or name of a
    client's key; empty for turns without one."""
    turns: int  # All turns of the group; a turn that several models answered counts for each
    joules: float | None  # Sum over the turns with a hardware reading; None when there is none
    uncertainty: float | None
    """Sum of their half widths, which bounds the error even if all share its cause."""
    kind: str | None  # The weakest kind in `joules`
    estimated_joules: float | None
    """Sum over the turns that were only estimated; None when there is none."""
    unmeasured_turns: int  # Turns that are in neither sum
    output_tokens: int  # Thinking and answer tokens of all turns
    joules_per_token: float | None  # Over the turns with a reading, or else over the estimated ones
    seconds: float  # Prefill and decode of all turns, loads excluded


def totals_sql(by: str, where: Clause) -> tuple[str, tuple[str, ...]]:
    """Build the statement for :class:`Total`: most expensive group first, days newest first."""
    source, values, _ = _build_source(by, where, "energy_joules")
    is_time = by in ("day", "hour")
    order = "key DESC" if is_time else "coalesce(joules, estimated_joules, -1) DESC, key"
    return (
        f"""
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
        {source} GROUP BY 1 ORDER BY {order}
        """,
        values,
    )


def spans_sql(by: str, where: Clause) -> tuple[str, tuple[str, ...]]:
    """Build the statement for the joules of each group by time, to price them.

    They are those at the ``wall`` where a calibration predicted them. Turns that lie in one quarter
    hour are summed, with its begin as ``start_s`` and no ``seconds``.
    """
    parts: list[str] = []
    values: tuple[str, ...] = ()
    for wall, joules in enumerate(("energy_joules", "energy_wall_joules")):
        inside = f"+id {'' if wall else 'NOT '}IN ({AT_WALL})"
        only = replace(where, conditions=(*where.conditions, inside))
        source, found, column = _build_source(by, only, joules)
        values += found
        parts.append(
            f"SELECT {_GROUPS[by]} AS key, energy_kind IS '{Kind.ESTIMATE}' AS estimated, "
            f"{column} AS joules, seconds_total AS seconds, {START} AS start_s, {wall} AS wall "
            f"{source}"
        )
    return (
        f"""
        SELECT key, estimated, wall, sum(joules) AS joules, {SPAN}
        FROM ({" UNION ALL ".join(parts)}) WHERE joules IS NOT NULL GROUP BY 1, 2, 3, 5, 6
        """,
        values,
    )


def _build_source(by: str, where: Clause, joules: str) -> tuple[str, tuple[str, ...], str]:
    """Build ``FROM``, its values, and the name that the column ``joules`` has there."""
    # Without a named index, SQLite groups along a narrow one and looks up every wide row.
    where = replace(where, index=where.index or COVERING_INDEX)
    if by == "model":
        return *_parts_by_model(where, joules), "energy_joules"
    if by == "key" and where.index != CLIENT_INDEX:
        return *_parts_by_key(where, joules), "energy_joules"
    return where.sql, where.values, joules


@dataclass(frozen=True, slots=True)
class CacheTotal:
    """What the KV caches of one tier saved in a group of turns; joules are estimates by a curve.

    The tier ``context`` also has the cost of saving what no turn has used since.
    """

    tier: str
    turns: int  # Turns that reused tokens
    tokens: int
    saved_joules: float | None  # Over the turns for which they are known; None without any
    cost_joules: float | None  # Of saving caches and of bringing them back
    unknown_turns: int  # Turns that are in neither sum
    seconds: float  # Of saving and bringing back

    @property
    def net_joules(self) -> float | None:
        """Joules saved, less the cost; None if either is unknown."""
        if self.saved_joules is None or self.cost_joules is None:
            return None
        return self.saved_joules - self.cost_joules


def sum_caches(log: LogReader, moment: datetime) -> list[CacheTotal]:
    """Sum what KV caches saved since an aware time, by the tier that they came from."""
    rows = log.select(
        """
        SELECT tier, sum(tokens > 0), sum(tokens), sum(saved), sum(cost),
            sum(saved IS NULL OR cost IS NULL), total(seconds)
        FROM (
            SELECT json_extract(cache, '$.tier') AS tier, json_extract(cache, '$.tokens') AS tokens,
                json_extract(cache, '$.saved_joules') AS saved,
                json_extract(cache, '$.cost_joules') AS cost,
                json_extract(cache, '$.restore_seconds') + json_extract(cache, '$.keep_seconds')
                    AS seconds
            FROM turns INDEXED BY turns_with_cache WHERE cache <> '{}' AND created_at >= ?
        )
        GROUP BY tier ORDER BY tier
        """,
        (format_utc(moment),),
    )
    return [CacheTotal(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class WallTotal:
    """The predicted joules at the wall of the turns that have any."""

    turns: int
    joules: float
    uncertainty: float  # Sum of the half widths, as in :class:`Total`


def sum_wall(log: LogReader, moment: datetime) -> WallTotal | None:
    """Sum the joules at the wall since an aware time; None without any."""
    rows = log.select(
        """
        SELECT count(*), total(energy_wall_joules), total(energy_wall_uncertainty)
        FROM turns INDEXED BY turns_at_the_wall
        WHERE energy_wall_joules IS NOT NULL AND created_at >= ?
        """,
        (format_utc(moment),),
    )
    return next((WallTotal(*row) for row in rows if row[0]), None)


_SUMMED = (
    "AS energy_joules, energy_uncertainty, energy_kind, tokens_output, seconds_total, created_at"
)
"""The columns that totals sum and price, after the joules."""


def _parts_by_key(where: Clause, joules: str) -> tuple[str, tuple[str, ...]]:
    """Build ``FROM`` with the turns and their keys, as :func:`_parts_by_model` does for models."""
    of_clients = f"SELECT id FROM turns INDEXED BY {CLIENT_INDEX} WHERE {OF_CLIENTS}"
    asked = replace(where, conditions=(*where.conditions, OF_CLIENTS), index=CLIENT_INDEX)
    others = replace(where, conditions=(*where.conditions, f"+id NOT IN ({of_clients})"))
    return (
        f"""
        FROM (
            SELECT client_key, {joules} {_SUMMED} {asked.sql}
            UNION ALL
            SELECT '' AS client_key, {joules} {_SUMMED} {others.sql}
        )
        """,
        where.values * 2,
    )


def _parts_by_model(where: Clause, joules: str) -> tuple[str, tuple[str, ...]]:
    """Build ``FROM`` with one row per turn and model, with the columns that totals sum.

    The conditions select turns, so they apply to whole turns and not to their hops.
    """
    # Only turns with hops are read in full: a partial index finds them.
    plain = replace(where, conditions=(*where.conditions, f"+id NOT IN ({HOPPED})"))
    hopped = replace(where, conditions=(*where.conditions, HAS_HOPS), index="turns_with_hops")
    share = "" if joules == "energy_joules" else " * turn.whole / nullif(turn.parts, 0)"
    return (
        f"""
        FROM (
            SELECT model, {joules} {_SUMMED} {plain.sql}
            UNION ALL
            SELECT model, CASE WHEN count(joules) = count(*) THEN sum(joules) END,
                CASE WHEN count(joules) = count(*) THEN sum(uncertainty) END, kind,
                sum(tokens), sum(seconds), created_at
            FROM (
                SELECT turn.turn AS turn, turn.energy_kind AS kind, turn.created_at,
                    json_extract(hop.value, '$.model') AS model,
                    CASE WHEN turn.known
                        THEN json_extract(hop.value, '$.joules'){share} END AS joules,
                    json_extract(hop.value, '$.uncertainty') AS uncertainty,
                    json_extract(hop.value, '$.tokens.output') AS tokens,
                    json_extract(hop.value, '$.seconds') AS seconds
                FROM (
                    SELECT id AS turn, energy_joules IS NOT NULL AS known, energy_kind, hops,
                        created_at, {joules} AS whole, energy_joules AS parts
                    {hopped.sql}
                ) AS turn, json_each(turn.hops) AS hop
            ) GROUP BY turn, model
        )
        """,
        where.values * 2,
    )


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
