"""Open the database: check its version, migrate it, and explain failures.

sqlite-utils takes 150 ms to import, so it is imported only to apply migrations: whether a database
is up to date follows from ``NAMES`` alone.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui.atomic import open_private
from etui.config.config import Config, make_home
from etui.errors import EtuiError, LogUnavailable
from etui.text import one_line

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_SECONDS = 5.0
"""How long to wait for another etui that is writing."""
SET_NAME = "etui"
"""Name of the migration set in ``_sqlite_migrations``."""
NAMES = (
    "m018_grades_and_audits",
    "m019_kv_caches",
    "m020_turns_by_file",
    "m021_tool_loops",
    "m022_pictures",
    "m023_newest_turns",
    "m024_chat_routes",
    "m025_rates",
    "m026_wall_joules",
)
"""Every migration of this version, in order; a released one never changes. The first creates the
schema of 0.1 (``schema.sql``) under the name of the last step before it: a log that has gone
through those steps has the same schema."""
_BEFORE_0_1 = re.compile(r"m0(0[1-9]|1[0-7])_\w+")
FileIdentity = tuple[int, int]
"""Device and inode of a file: another one after it was removed or replaced while it was open."""
_ELSEWHERE = "set ETUI_HOME to another folder"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""Codes of damage; a general error means that our own statements do not fit the tables."""
_NOT_UTF_8 = "Could not decode to UTF-8"  # raised by sqlite3 itself, without a code
_MOST_CHARACTERS = 200
_WAL_PAGES = 64
"""The size beside the log from which SQLite moves changes into it: a turn changes 20 pages."""


class _Connection(sqlite3.Connection):
    """Connection whose errors are all ``sqlite3.Error``.

    sqlite3 raises UnicodeDecodeError if the error message of SQLite quotes damaged bytes.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute one statement."""
        try:
            return super().execute(sql, parameters)
        except UnicodeDecodeError as error:
            damaged = sqlite3.DatabaseError(error.object.decode("utf-8", "replace"))
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged from error


def open_for_writing(config: Config, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open a writing connection, in autocommit mode, on a database that is up to date.

    A missing database is created and an older one is migrated. Two processes may do so at once:
    the second waits for the first and finds nothing left to do. LogUnavailable if the database is
    from a newer etui, is not one of etui's, is locked or not writable.
    """
    path = config.database
    try:
        make_home(config)
    except EtuiError as error:
        raise LogUnavailable(error.what, error.fix) from error
    if path.is_file() and not os.access(path, os.W_OK):
        # SQLite would open it anyway and fail only at the first write.
        raise translate_error(path, sqlite3.OperationalError("the file is read-only"))
    with suppress(OSError):  # SQLite gives its further files the same permissions
        open(path, "xb", opener=open_private).close()
    connection = None
    try:
        connection = sqlite3.connect(
            path, timeout=busy_seconds, isolation_level=None, factory=_Connection
        )
        connection.row_factory = sqlite3.Row
        if _pending(connection, path):
            _migrate(connection, path, busy_seconds)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * 4096}")
    except (sqlite3.Error, LogUnavailable) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, LogUnavailable):
            raise
        raise translate_error(path, error) from error
    return connection


def open_for_reading(config: Config) -> sqlite3.Connection | None:
    """Open a read-only connection; None if there is no database yet.

    A database of an older etui is migrated first. A database on a read-only disk is read as it is.
    LogUnavailable if it is from a newer etui, or is not one of etui's.
    """
    path = config.database
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return None
    try:
        connection = _connect_reader(path)
        if _pending(connection, path):
            connection.close()
            open_for_writing(config).close()
            connection = _connect_reader(path)
    except sqlite3.Error as error:
        raise translate_error(path, error) from error
    return connection


def read_identity(path: Path) -> FileIdentity | None:
    """Read which file is at a path; None without one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def translate_error(path: Path, error: sqlite3.Error) -> LogUnavailable:
    """Translate an SQLite error into one that the user can act on."""
    # The column's text follows, whatever its length.
    message = str(error).partition(" with text ")[0]
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) & 0xFF  # without details
    if path.is_dir():
        return LogUnavailable(f"the log {path} is a folder", f"move it away, or {_ELSEWHERE}")
    if code in _DAMAGED or message.startswith(_NOT_UTF_8):
        return _build_damage(path, message)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogUnavailable(
            f"the log {path} is locked by another program",
            "close the program that holds it (an open transaction in a database browser?)",
        )
    if code == sqlite3.SQLITE_FULL:
        return LogUnavailable(f"no space for the log {path}: {message}", "free space on that disk")
    return LogUnavailable(
        f"cannot open or write the log {path}: {message}",
        f"make the file and its folder writable, or {_ELSEWHERE}",
    )


def _build_damage(path: Path, message: str) -> LogUnavailable:
    return LogUnavailable(
        f"the log {path} is not a database, or is damaged: {one_line(message)[:_MOST_CHARACTERS]}",
        f"move it away (etui starts a new one), or {_ELSEWHERE}",
    )


def _connect_reader(path: Path) -> sqlite3.Connection:
    """Open the database read-only, for any thread: the reader has its own lock."""
    uri = path.absolute().as_uri()
    for query in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(
            f"{uri}?{query}",
            uri=True,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
            factory=_Connection,
        )
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            # WAL needs a file next to the database, which a read-only folder cannot hold.
            connection.close()
            if "immutable" in query or "locked" in str(error) or os.access(path.parent, os.W_OK):
                raise
        else:
            return connection
    raise AssertionError("the second attempt returned or raised")


def _pending(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether migrations are missing."""
    tables = {
        row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    applied: set[str] = set()
    if "_sqlite_migrations" in tables:
        rows = connection.execute(
            "SELECT name FROM _sqlite_migrations WHERE migration_set = ?", (SET_NAME,)
        )
        applied = {row[0] for row in rows}
    unknown = sorted(name for name in applied - set(NAMES) if not _BEFORE_0_1.fullmatch(name))
    if applied and not unknown and NAMES[0] not in applied:
        raise LogUnavailable(
            f"the log {path} was written by an etui from before 0.1",
            f"move it away (etui starts a new one), or {_ELSEWHERE}",
        )
    if unknown and not applied.issuperset(NAMES):
        # A newer etui has applied ours too.
        raise _build_damage(path, f"unknown migrations {', '.join(unknown)}")
    if unknown:
        raise LogUnavailable(
            f"the log {path} was written by a newer etui ({', '.join(unknown)})",
            f"update etui (pip install -U etui), or {_ELSEWHERE}",
        )
    if tables and not applied:
        raise LogUnavailable(
            f"the log {path} is a database of another program",
            f"move it away (etui starts a new one), or {_ELSEWHERE}",
        )
    return not applied.issuperset(NAMES)


def _migrate(connection: sqlite3.Connection, path: Path, busy_seconds: float) -> None:
    """Apply the missing migrations in one exclusive transaction."""
    from sqlite_utils import Database, Migrations

    _use_wal(connection, busy_seconds)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _pending(connection, path):
            migrations = Migrations(SET_NAME)
            for name in NAMES:
                script = "schema" if name == NAMES[0] else name
                migrations(name=name)(partial(_run_script, script))
            migrations.apply(Database(connection, execute_plugins=False))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _run_script(name: str, db: Database) -> None:
    """Run the statements of ``NAME.sql``; ``executescript`` would end the transaction."""
    statement = ""
    for line in (files(__package__) / f"{name}.sql").read_text("utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""


def _use_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Switch to WAL; SQLite does not wait by itself when two processes switch at once."""
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
