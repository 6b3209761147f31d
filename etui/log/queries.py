"""Reading the log: turns, chats and totals over a connection that cannot write."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from etui.arm import TokenCost
from etui.chat import Message
from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve
from etui.errors import EtuiError
from etui.log.curve_rows import CURVES_SQL, parse_curve
from etui.log.database import open_for_reading, unavailable
from etui.log.filters import Sort, TurnFilter, clause, like_pattern, order
from etui.log.records import ChatRecord
from etui.log.rows import chat_of, load_of, turn_of, unload_of
from etui.log.token_cost import COSTS_SQL, TURNS, TurnCost, mean_token_cost
from etui.log.totals import Total, total_of, totals_sql
from etui.text.suggest import find_nearest, format_suggestion
from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord

__all__ = ["ChatSummary", "LogReader", "Sort", "Total", "TurnFilter", "TurnSummary", "UnknownId"]

_SNIPPET_CHARS = 200
_PAGE_ROWS = 500


class UnknownId(EtuiError):
    """No turn or chat has this id, or more than one begins with it.

    Attributes:
        nearest: Ids that were perhaps meant.
    """

    def __init__(self, what: str, nearest: Sequence[str], otherwise: str) -> None:
        super().__init__(what, format_suggestion(nearest, quoted=False) or otherwise)
        self.nearest = tuple(nearest)


@dataclass(frozen=True, slots=True)
class TurnSummary:
    """One line of the history; ``query`` and ``answer`` hold their first 200 characters."""

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


@dataclass(frozen=True, slots=True)
class ChatSummary:
    """One line of the list of chats; ``total`` is None for a chat without turns."""

    chat: ChatRecord
    last_at: str
    total: Total | None


_SUMMARY_SQL = {
    "query": f"substr(query, 1, {_SNIPPET_CHARS})",
    "answer": f"substr(answer, 1, {_SNIPPET_CHARS})",
    "joules": "energy_joules",
    "uncertainty": "energy_uncertainty",
    "kind": "energy_kind",
    "joules_per_token": "energy_joules_per_token",
    "mean_watts": "energy_mean_watts",
}
_SUMMARY_COLUMNS = ", ".join(
    f"{_SUMMARY_SQL.get(f.name, f.name)} AS {f.name}_" for f in fields(TurnSummary)
)


class LogReader:
    """Reads the log; safe to use from several threads, which wait for each other.

    A missing database reads as an empty one until the first turn makes it.

    Raises:
        LogUnavailable: The database is from a newer etui, is none, or cannot be read.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._path = config.database
        self._closed = False
        self._connection = open_for_reading(config)
        self._lock = threading.Lock()

    @property
    def exists(self) -> bool:
        """Whether there is a database at all."""
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
        wanted: TurnFilter | None = None,
        *,
        sort: Sort = Sort.TIME,
        descending: bool = True,
        limit: int | None = 50,
        offset: int = 0,
    ) -> list[TurnSummary]:
        """A page of the history; what is unknown comes last in either direction."""
        rows = self._page(_SUMMARY_COLUMNS, wanted, sort, descending, limit, offset)
        return [TurnSummary(*row) for row in rows]

    def turns(self, wanted: TurnFilter | None = None) -> Iterator[TurnRecord]:
        """Whole turns, oldest first, for export and replay; read in pages, never all at once."""
        for offset in itertools.count(step=_PAGE_ROWS):
            rows = self._page("turns.*", wanted, Sort.TIME, False, _PAGE_ROWS, offset)
            yield from map(turn_of, rows)
            if len(rows) < _PAGE_ROWS:
                return

    def count_turns(self, wanted: TurnFilter | None = None) -> int:
        """How many turns a filter means."""
        where = clause(wanted or TurnFilter())
        rows = self._rows(f"SELECT count(*) {where.sql}", where.values)
        return int(rows[0][0]) if rows else 0

    def get_turn(self, turn_id: str) -> TurnRecord:
        """The turn of an id, of the one id that begins so, or of ``last``.

        Raises:
            UnknownId: There is none, or more than one.
        """
        if turn_id == "last":
            found = self._rows("SELECT * FROM turns ORDER BY created_at DESC, id DESC LIMIT 1")
        else:
            found = self._beginning("*", turn_id, 6)
        exact = [row for row in found if row["turn_id"] == turn_id]
        if exact or len(found) == 1:
            return turn_of((exact or found)[0])
        if found:
            ids = [row["turn_id"] for row in found]
            raise UnknownId(f"more than one turn begins with {turn_id!r}", ids[:5], "")
        raise UnknownId(
            f"no turn {turn_id!r} in the log {self._path}",
            self._nearest(turn_id),
            "`etui logs list` shows the turns there are",
        )

    def totals(self, by: str = "all", wanted: TurnFilter | None = None) -> list[Total]:
        """Joules, tokens and seconds per group of :data:`etui.log.totals.GROUPS`."""
        where = clause(wanted or TurnFilter())
        return [total_of(row) for row in self._rows(totals_sql(by, where), where.values)]

    def price(self, model: str, sha256: str | None) -> TokenCost | None:
        """What this model's tokens cost, as the mean of its last turns; None without any."""
        rows = self._rows(COSTS_SQL, (model, sha256, TURNS))
        return mean_token_cost([TurnCost(*row) for row in rows])

    def curves(self, model: str | None = None, sha256: str | None = None) -> list[OperatingCurve]:
        """Operating curves, newest first; of one model, or of one file of it."""
        found = (parse_curve(row) for row in self.select(CURVES_SQL, (model, sha256)))
        return [curve for curve in found if curve is not None]

    def select(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of a statement that reads, for the other modules of this room."""
        return self._rows(sql, values)

    def loads(self, limit: int | None = 50, turn_id: str | None = None) -> list[LoadRecord]:
        """Loads of models, newest first; with ``turn_id`` only that turn's."""
        return [load_of(row) for row in self._residence("loads", limit, turn_id)]

    def unloads(self, limit: int | None = 50, turn_id: str | None = None) -> list[UnloadRecord]:
        """Models that were given up, newest first; with ``turn_id`` only for that turn."""
        return [unload_of(row) for row in self._residence("unloads", limit, turn_id)]

    def chats(
        self, search: str | None = None, *, limit: int | None = 50, offset: int = 0
    ) -> list[ChatSummary]:
        """Chats, the last used first; with ``search`` those whose name or turns hold the words."""
        condition, values = "", tuple[str, ...]()
        if search is not None and search.strip():
            found = clause(TurnFilter(search=search))
            condition = f"WHERE name LIKE ? ESCAPE '\\' OR chat_id IN (SELECT chat_id {found.sql})"
            values = (like_pattern(search.strip()), *found.values)
        rows = self._rows(
            f"""SELECT *, coalesce(
                    (SELECT max(created_at) FROM turns WHERE turns.chat_id = chats.chat_id),
                    created_at) AS last_at
                FROM chats {condition} ORDER BY last_at DESC, id DESC LIMIT ? OFFSET ?""",
            (*values, _limit(limit), offset),
        )
        totals = self._totals_of_chats([row["chat_id"] for row in rows])
        return [
            ChatSummary(chat_of(row), row["last_at"], totals.get(row["chat_id"])) for row in rows
        ]

    def get_chat(self, chat_id: str) -> ChatRecord:
        """The chat of an id.

        Raises:
            UnknownId: There is none.
        """
        rows = self._rows("SELECT * FROM chats WHERE chat_id = ?", (chat_id,))
        if not rows:
            raise UnknownId(f"no chat {chat_id!r} in the log {self._path}", (), "")
        return chat_of(rows[0])

    def chat_turns(
        self, chat_id: str, *, limit: int | None = None, before: str | None = None
    ) -> list[TurnRecord]:
        """The last turns of a chat, oldest first; ``before`` names the turn they stand before."""
        condition, values = "", tuple[str, ...]()
        if before is not None:
            condition = (
                "AND (created_at, id) < (SELECT created_at, id FROM turns WHERE turn_id = ?)"
            )
            values = (before,)
        rows = self._rows(
            f"SELECT * FROM turns WHERE chat_id = ? {condition} "
            "ORDER BY created_at DESC, id DESC LIMIT ?",
            (chat_id, *values, _limit(limit)),
        )
        return [turn_of(row) for row in reversed(rows)]

    def chat_messages(self, chat_id: str) -> tuple[Message, ...]:
        """Questions and answers of a chat, oldest first, to go on with it.

        A turn without an answer is left out: a template wants question and answer in turn.
        """
        rows = self._rows(
            "SELECT query, answer FROM turns WHERE chat_id = ? AND answer != '' "
            "ORDER BY created_at, id",
            (chat_id,),
        )
        return tuple(
            message
            for row in rows
            for message in (Message("user", row["query"]), Message("assistant", row["answer"]))
        )

    def names(self, column: str) -> list[str]:
        """Every model, rule, status or policy in the log, for a filter to offer.

        Raises:
            ValueError: Another column.
        """
        if column not in ("model", "rule", "status", "policy"):
            raise ValueError(f"no names of {column}")
        sql = (
            f"SELECT DISTINCT {column} FROM turns INDEXED BY turns_history "
            f"WHERE {column} IS NOT NULL ORDER BY 1"
        )
        return [row[0] for row in self._rows(sql)]

    def _residence(self, table: str, limit: int | None, turn_id: str | None) -> list[sqlite3.Row]:
        condition = "WHERE turn_id = ?" if turn_id is not None else ""
        values: tuple[Any, ...] = (turn_id,) if turn_id is not None else ()
        sql = f"SELECT * FROM {table} {condition} ORDER BY created_at DESC, id DESC LIMIT ?"
        return self._rows(sql, (*values, _limit(limit)))

    def _page(
        self,
        columns: str,
        wanted: TurnFilter | None,
        sort: Sort,
        descending: bool,
        limit: int | None,
        offset: int,
    ) -> list[sqlite3.Row]:
        # The page is found over narrow indexes first; only its rows are then read whole.
        where = clause(wanted or TurnFilter())
        by = order(sort, descending)
        sql = (
            f"SELECT {columns} FROM (SELECT id AS page_id {where.sql} {by} LIMIT ? OFFSET ?) "
            f"JOIN turns ON id = page_id {by}"
        )
        return self._rows(sql, (*where.values, _limit(limit), offset))

    def _totals_of_chats(self, chat_ids: Sequence[str]) -> dict[str, Total]:
        by_chat: dict[str, Total] = {}
        for chat_id in chat_ids:
            where = replace(clause(TurnFilter(chat_id=chat_id)), index="turns_by_chat")
            for row in self._rows(totals_sql("chat", where), where.values):
                by_chat[chat_id] = total_of(row)
        return by_chat

    def _beginning(self, columns: str, prefix: str, limit: int) -> list[sqlite3.Row]:
        return self._rows(
            f"SELECT {columns} FROM turns WHERE turn_id >= ? AND turn_id < ? "
            "ORDER BY turn_id LIMIT ?",
            (prefix, f"{prefix}\U0010ffff", limit),
        )

    def _nearest(self, turn_id: str) -> list[str]:
        """Ids much like this one among those that begin alike and the latest."""
        rows = [
            *self._beginning("turn_id", turn_id[:3], 500),
            *self._rows("SELECT turn_id FROM turns ORDER BY created_at DESC LIMIT 500"),
        ]
        return find_nearest(turn_id, {row["turn_id"] for row in rows}, most=3)

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            if self._connection is None and not self._closed:
                self._connection = open_for_reading(self._config)
            if self._connection is None:
                return []
            try:
                return self._connection.execute(sql, tuple(values)).fetchall()
            except sqlite3.Error as error:
                raise unavailable(self._path, error) from error


def _limit(limit: int | None) -> int:
    """SQLite reads a negative limit as none."""
    return -1 if limit is None else max(0, limit)
