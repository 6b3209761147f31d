"""Read turns, totals and loads from the log over a read-only connection."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from etui.arm import TokenCost
from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve
from etui.errors import EtuiError, LogUnavailable
from etui.log.curve_lookup import (
    COSTS_SQL,
    CURVES_SQL,
    LOOKED_AT,
    TurnCost,
    mean_token_cost,
    parse_curve,
)
from etui.log.database import FileIdentity, open_for_reading, read_identity, translate_error
from etui.log.filters import (
    COUNT_WORDS_SQL,
    Sort,
    TurnFilter,
    build_clause,
    build_order,
    order_by_index,
    sql_limit,
)
from etui.log.records import (
    QUESTION_COLUMNS,
    ChatRecord,
    LoggedQuestion,
    R,
    parse_question,
    parse_record,
    parse_turn,
)
from etui.log.row_files import take_left
from etui.log.totals import Total, parse_total, totals_sql
from etui.text import find_nearest, format_suggestion
from etui.turn.record import CUT, LoadRecord, TurnRecord, UnloadRecord

__all__ = ["LogReader", "Sort", "Total", "TurnFilter", "TurnSummary", "UnknownId"]
_SNIPPET_CHARS = 200
_PAGE_ROWS = 500
_PAGE_TOTAL = "page_total"


class UnknownId(EtuiError):
    """No turn or chat has this id, or more than one id begins with it.

    Attributes:
        nearest: Similar ids, or those that begin with it.
    """

    def __init__(self, what: str, nearest: Sequence[str], fix: str) -> None:
        super().__init__(what, format_suggestion(nearest, quoted=False) or fix)
        self.nearest = tuple(nearest)


@dataclass(frozen=True, slots=True)
class TurnSummary:
    """One line of the history; ``query`` and ``answer`` hold their first 200 characters.

    ``endpoint`` and ``key`` are those of the client that asked for it; None without one. ``kept``
    is ``part`` if the log has only the begin and the end of a text, else ``whole``.
    """

    turn_id: str
    created_at: str
    chat_id: str | None
    query: str
    answer: str
    status: str
    model: str
    arm: str
    policy: str | None
    rule: str | None
    tokens_output: int
    seconds_total: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    joules_per_token: float | None
    mean_watts: float | None
    endpoint: str | None = None
    key: str | None = None
    kept: str = "whole"


_SUMMARY_SQL = {
    "query": f"substr(query, 1, {_SNIPPET_CHARS})",
    "answer": f"substr(answer, 1, {_SNIPPET_CHARS})",
    "joules": "energy_joules",
    "uncertainty": "energy_uncertainty",
    "kind": "energy_kind",
    "joules_per_token": "energy_joules_per_token",
    "mean_watts": "energy_mean_watts",
    "endpoint": "client_endpoint",
    "key": "client_key",
    "kept": f"""iif(instr(settings, '"{CUT}": {{'), 'part', 'whole')""",
}
_SUMMARY_COLUMNS = ", ".join(
    f"{_SUMMARY_SQL.get(f.name, f.name)} AS {f.name}_" for f in fields(TurnSummary)
)


def _close_left(config: Config) -> None:
    """Store the turns of processes that were killed, so that what is read has them."""
    with take_left(config) as left:
        if not left:
            return
    from etui.log.writer import TurnWriter

    with suppress(LogUnavailable):
        TurnWriter(config).close()  # it does that when it opens the log


class LogReader:
    """Reads the log; several threads may use it, one at a time.

    A missing database reads as an empty one until the first turn creates it, and one that was
    removed or replaced is opened again. ``identity`` is the file that was read last; None without
    one.

    Raises:
        LogUnavailable: The database is from a newer etui, is not one of etui's, or cannot be read.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._path = config.database
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self.identity: FileIdentity | None = None
        self._lock = threading.Lock()
        _close_left(config)
        self._connect()

    @property
    def exists(self) -> bool:
        """Whether the database exists."""
        return self._connection is not None

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list_turns(
        self,
        turn_filter: TurnFilter | None = None,
        *,
        sort: Sort = Sort.TIME,
        descending: bool = True,
        limit: int | None = 50,
        offset: int = 0,
    ) -> list[TurnSummary]:
        """Return a page of the history; unknown values come last in either direction."""
        rows = self._select_page(_SUMMARY_COLUMNS, turn_filter, sort, descending, limit, offset)
        return [TurnSummary(*row) for row in rows]

    def list_page(
        self, turn_filter: TurnFilter, *, sort: Sort, descending: bool, limit: int, offset: int
    ) -> tuple[list[TurnSummary], int]:
        """Return a page of the history, and how many turns the filter has.

        A search that no index helps reads all texts once for both. A page that is not full says
        how many there are.
        """
        scans = build_clause(turn_filter).scans_texts
        counted = f", {_PAGE_TOTAL}" if scans else ""
        columns = f"{_SUMMARY_COLUMNS}{counted}"
        rows = self._select_page(columns, turn_filter, sort, descending, limit, offset)
        turns = [TurnSummary(*tuple(row)[: len(row) - scans]) for row in rows]
        if rows and scans:
            return turns, int(rows[0][_PAGE_TOTAL])
        if len(rows) < limit and (rows or offset == 0):
            return turns, offset + len(rows)
        return turns, self.count_turns(turn_filter)

    def turns(
        self,
        turn_filter: TurnFilter | None = None,
        *,
        report: Callable[[int, int], None] | None = None,
    ) -> Iterator[TurnRecord]:
        """Yield the turns that are in the log now, oldest first, for export.

        They are read in pages; a turn that is deleted meanwhile is left out. ``report`` is called
        with the number of turns read and the number of all, after each page.
        """
        return map(parse_turn, self._iter_rows("*", turn_filter, report))

    def questions(
        self,
        turn_filter: TurnFilter | None = None,
        *,
        report: Callable[[int, int], None] | None = None,
    ) -> Iterator[LoggedQuestion]:
        """Yield the questions of the turns, as :meth:`turns` yields the turns, for a replay."""
        columns = ", ".join(QUESTION_COLUMNS)
        rows = self._iter_rows(columns, turn_filter, report)
        return (parse_question(row[1:]) for row in rows)

    def _iter_rows(
        self,
        columns: str,
        turn_filter: TurnFilter | None,
        report: Callable[[int, int], None] | None,
    ) -> Iterator[sqlite3.Row]:
        """Yield the ``id`` and the columns of the turns, read as :meth:`turns` says."""
        where = build_clause(turn_filter or TurnFilter())
        order = build_order(Sort.TIME, descending=False)
        ids = [row[0] for row in self.select(f"SELECT id {where.sql} {order}", where.values)]
        sql = f"SELECT id, {columns} FROM turns WHERE id IN (SELECT value FROM json_each(?))"
        for start in range(0, len(ids), _PAGE_ROWS):
            page = ids[start : start + _PAGE_ROWS]
            found = {row[0]: row for row in self.select(sql, (json.dumps(page),))}
            yield from (found[id_] for id_ in page if id_ in found)
            if report is not None:
                report(start + len(page), len(ids))

    def count_turns(self, turn_filter: TurnFilter | None = None) -> int:
        """Count the turns of a filter."""
        where = build_clause(turn_filter or TurnFilter())
        sql = COUNT_WORDS_SQL if where.only_words else f"SELECT count(*) {where.sql}"
        rows = self.select(sql, where.values)
        return int(rows[0][0]) if rows else 0

    def get_turn(self, turn_id: str) -> TurnRecord:
        """Return the turn of an id, of a unique prefix of an id, or the latest one for ``last``.

        Raises:
            UnknownId: No turn matches, or more than one.
        """
        if turn_id == "last":
            found = self.select("SELECT * FROM turns ORDER BY created_at DESC, id DESC LIMIT 1")
        else:
            found = self._select_by_prefix("*", turn_id, 6)
        exact = [row for row in found if row["turn_id"] == turn_id]
        if exact or len(found) == 1:
            return parse_turn((exact or found)[0])
        if found:
            ids = [row["turn_id"] for row in found]
            raise UnknownId(f"more than one turn id begins with {turn_id!r}", ids[:5], "")
        raise UnknownId(
            f"no turn {turn_id!r} in the log {self._path}",
            self._find_similar(turn_id),
            "list the turns with `etui logs list`",
        )

    def find_turn(self, turn_id: str) -> TurnRecord | None:
        """Return the turn of exactly this id; None if there is none."""
        rows = self.select("SELECT * FROM turns WHERE turn_id = ?", (turn_id,))
        return parse_turn(rows[0]) if rows else None

    def totals(self, by: str = "all", turn_filter: TurnFilter | None = None) -> list[Total]:
        """Sum joules, tokens and seconds per group, see :data:`etui.log.totals.GROUPS`."""
        where = build_clause(turn_filter or TurnFilter())
        return [parse_total(row) for row in self.select(*totals_sql(by, where))]

    def price(self, model: str, sha256: str | None) -> TokenCost | None:
        """Average the joules per token of a model over its last turns; None without any."""
        rows = self.select(COSTS_SQL, (model, sha256, LOOKED_AT))
        return mean_token_cost([TurnCost(*row) for row in rows])

    def curves(self, model: str | None = None, sha256: str | None = None) -> list[OperatingCurve]:
        """Read operating curves, newest first; of one model, or of one file of it."""
        found = (parse_curve(row) for row in self.select(CURVES_SQL, (model, sha256)))
        return [curve for curve in found if curve is not None]

    def loads(self, limit: int | None = 50, turn_id: str | None = None) -> list[LoadRecord]:
        """Read loads of models, newest first; with ``turn_id`` only those of that turn."""
        return self._read_residence(LoadRecord, "loads", limit, turn_id)

    def unloads(self, limit: int | None = 50, turn_id: str | None = None) -> list[UnloadRecord]:
        """Read unloads of models, newest first; with ``turn_id`` only those of that turn."""
        return self._read_residence(UnloadRecord, "unloads", limit, turn_id)

    def get_chat(self, chat_id: str) -> ChatRecord:
        """Return the chat of an id; UnknownId if there is no such chat."""
        rows = self.select("SELECT * FROM chats WHERE chat_id = ?", (chat_id,))
        if not rows:
            raise UnknownId(f"no chat {chat_id!r} in the log {self._path}", (), "")
        return parse_record(ChatRecord, rows[0])

    def names(self, column: str) -> list[str]:
        """Return every model, rule, status or policy in the log, as choices for a filter.

        Raises:
            ValueError: ``column`` is none of these.
        """
        if column not in ("model", "rule", "status", "policy"):
            raise ValueError(f"no names of {column}")
        # From one name to the next by an index: DISTINCT would read an entry of every turn.
        next_name = f"SELECT min({column}) FROM turns WHERE {column} > name"
        sql = f"""
            WITH RECURSIVE names (name) AS (
                SELECT '' UNION ALL SELECT ({next_name}) FROM names WHERE name IS NOT NULL
            ) SELECT name FROM names WHERE name <> ''
        """
        return [row[0] for row in self.select(sql)]

    def _read_residence(
        self, kind: type[R], table: str, limit: int | None, turn_id: str | None
    ) -> list[R]:
        condition = "WHERE turn_id = ?" if turn_id is not None else ""
        values: tuple[Any, ...] = (turn_id,) if turn_id is not None else ()
        sql = f"SELECT * FROM {table} {condition} ORDER BY created_at DESC, id DESC LIMIT ?"
        return [parse_record(kind, row) for row in self.select(sql, (*values, sql_limit(limit)))]

    def _select_page(
        self,
        columns: str,
        turn_filter: TurnFilter | None,
        sort: Sort,
        descending: bool,
        limit: int | None,
        offset: int,
    ) -> list[sqlite3.Row]:
        # Find the page over narrow indexes first; read only its rows in full. Without CROSS, SQLite
        # may look for each turn of the log in the page.
        where = order_by_index(build_clause(turn_filter or TurnFilter()), sort)
        by = build_order(sort, descending)
        total = f", count(*) OVER () AS {_PAGE_TOTAL}" if where.scans_texts else ""
        sql = (
            f"SELECT {columns} FROM "
            f"(SELECT id AS page_id{total} {where.sql} {by} LIMIT ? OFFSET ?) "
            f"CROSS JOIN turns ON id = page_id {by}"
        )
        return self.select(sql, (*where.values, sql_limit(limit), offset))

    def _select_by_prefix(self, columns: str, prefix: str, limit: int) -> list[sqlite3.Row]:
        return self.select(
            f"SELECT {columns} FROM turns WHERE turn_id >= ? AND turn_id < ? "
            "ORDER BY turn_id LIMIT ?",
            (prefix, f"{prefix}\U0010ffff", limit),
        )

    def _find_similar(self, turn_id: str) -> list[str]:
        """Find similar ids among the latest and those with the same first characters."""
        rows = [
            *self._select_by_prefix("turn_id", turn_id[:3], 500),
            *self.select("SELECT turn_id FROM turns ORDER BY created_at DESC LIMIT 500"),
        ]
        return find_nearest(turn_id, {row["turn_id"] for row in rows}, most=3)

    def select(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Run a SELECT and return its rows; none without a database."""
        with self._lock:
            self._connect()
            if self._connection is None:
                return []
            try:
                return self._connection.execute(sql, tuple(values)).fetchall()
            except sqlite3.Error as error:
                raise translate_error(self._path, error) from error

    def _connect(self) -> None:
        """Open the database that is in its place now, unless it is open."""
        if self._closed or (self._connection and read_identity(self._path) == self.identity):
            return
        if self._connection is not None:
            self._connection.close()
        self._connection = open_for_reading(self._config)
        self.identity = None if self._connection is None else read_identity(self._path)
