"""Write rows to the database; the writer's thread is the only caller."""

from __future__ import annotations

import sqlite3

from etui.log.rows import KEYS, Row
from etui.text.title import title_from_question

UNSTORABLE = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
)
"""Errors of which the row is the cause, not the database."""


class Store:
    """Writes rows over one connection, inside a transaction that the caller opened."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns = {
            table: {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
            for table in KEYS
        }

    def put(self, table: str, row: Row, *, overwrite: bool = True) -> None:
        """Insert a row; one of the same key is overwritten, or kept if ``overwrite`` is false.

        Raises:
            ValueError: The row does not fit the table and never will.
            sqlite3.Error: The database cannot store it now.
        """
        unknown = set(row) - self._columns[table]
        if unknown:
            raise ValueError(f"{table} has no column {', '.join(sorted(unknown))}")
        if table == "turns" and row.get("chat_id") is not None:
            self._ensure_chat(row)
        keys = KEYS[table]
        names = ", ".join(row)
        places = ", ".join("?" * len(row))
        updates = ", ".join(f"{name} = excluded.{name}" for name in row if name not in keys)
        action = f"DO UPDATE SET {updates}" if overwrite and updates else "DO NOTHING"
        sql = f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT ({', '.join(keys)}) "
        try:
            self._connection.execute(sql + action, tuple(row.values()))
        except UNSTORABLE as error:
            raise ValueError(f"{table}: {error}") from error

    def _ensure_chat(self, turn: Row) -> None:
        """Create the chat of a turn, named after the question, if it does not exist.

        A turn must never be refused because its chat is missing.
        """
        name = title_from_question(str(turn.get("query", "")))
        self._connection.execute(
            "INSERT INTO chats (chat_id, created_at, name, system) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (chat_id) DO NOTHING",
            (turn["chat_id"], turn.get("created_at", ""), name, turn.get("system")),
        )
