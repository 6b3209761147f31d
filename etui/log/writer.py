"""The only writer of the log: a thread that owns its connection, fed by a queue.

Nothing is lost silently. Records that the database cannot store go to ``unsaved-turns.jsonl`` and
are stored as soon as it can be written again. A callback reports when that begins and when it is
over; ``flush`` and ``close`` raise what is not stored by then. A database that is removed while it
is open is made again with the next record.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see below
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve
from etui.errors import InvalidFile, LogUnavailable
from etui.log.curve_lookup import build_curve_row
from etui.log.database import (
    BUSY_SECONDS,
    FileIdentity,
    open_for_writing,
    read_identity,
    translate_error,
)
from etui.log.records import (
    KEYS,
    AuditRecord,
    Record,
    Row,
    build_row,
    choose_table,
    to_row,
)
from etui.log.row_files import (
    OpenTurns,
    UnsavedRow,
    append_rows,
    drain_rows,
    take_left,
    unreadable_file,
    unsaved_file,
)
from etui.text import title_from_question
from etui.turn.record import OWN_SYSTEM, SAVED_PROMPT, LoadRecord, TurnRecord, UnloadRecord
from etui.units import count_text

UNSTORABLE = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
)
"""Errors of which the row is the cause, not the database."""


_PRUNE_CURVES = """
    DELETE FROM curves WHERE id IN (
        SELECT id FROM curves WHERE model = ? AND model_sha256 IS ? AND source = 'log'
        ORDER BY created_at DESC, id DESC LIMIT -1 OFFSET 20
    )
"""
"""Leaves the newest curves that were fitted to the log: there is one after every 20 turns."""


_KEEP_RATES = (
    "currency = iif(price IS NULL, excluded.currency, currency), "
    "price = coalesce(price, excluded.price), carbon = coalesce(carbon, excluded.carbon)"
)
"""What was known once stays as it is."""


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

        ValueError if it does not fit the table and never will, sqlite3.Error if not now.
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
        if table == "rates":
            updates = _KEEP_RATES
        action = f"DO UPDATE SET {updates}" if overwrite and updates else "DO NOTHING"
        sql = f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT ({', '.join(keys)}) "
        try:
            self._connection.execute(sql + action, tuple(row.values()))
        except UNSTORABLE as error:
            raise ValueError(f"{table}: {error}") from error
        if table == "curves" and row.get("source") == "log":
            self._connection.execute(_PRUNE_CURVES, (row["model"], row["model_sha256"]))

    def _ensure_chat(self, turn: Row) -> None:
        """Create the chat of a turn, named after the question, if it does not exist.

        A turn must never be refused because its chat is missing. A system prompt of its model or of
        a saved prompt is not that of the chat.
        """
        settings = json.loads(turn.get("settings") or "{}")
        of_turn = settings.get(OWN_SYSTEM) or settings.get(SAVED_PROMPT)
        name = title_from_question(str(turn.get("query", "")))
        system = None if of_turn else turn.get("system")
        self._connection.execute(
            "INSERT INTO chats (chat_id, created_at, name, system) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (chat_id) DO NOTHING",
            (turn["chat_id"], turn.get("created_at", ""), name, system),
        )


_BATCH_ROWS = 500
_RETRY_SECONDS = 2.0
"""Time between attempts to store what waits, while nothing else is to be written."""
_RETRY_BUSY_SECONDS = 0.2
"""How long each of them, and each record meanwhile, waits for another etui that is writing."""


class _Change(NamedTuple):
    """A statement on behalf of the user, which is not kept for later if it fails."""

    what: str
    sql: str
    key: str


class TurnWriter:
    """Saves records; each ``save_`` method returns once its record is queued.

    The thread imports what opens the database, which may go on after the end of the main thread.
    ``concurrent.futures.thread`` cannot be imported then, and pandas, which sqlite-utils imports
    where it is installed, needs it: so it is imported above.

    The thread opens the database, so creating a writer is cheap; :meth:`ready` waits for it, so
    that a log that cannot be written is reported before an answer costs energy. ``report`` is
    called from the thread with a text about each failure as it happens: once when records begin to
    wait, and once when they are stored. Each of the ``open_turns`` is forgotten once it is stored.
    """

    def __init__(
        self,
        config: Config,
        report: Callable[[str], None] | None = None,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self._config = config
        self._report = report
        self.open_turns = OpenTurns(config)
        self._busy_seconds = busy_seconds
        self._queue: SimpleQueue[UnsavedRow | _Change | threading.Event | None] = SimpleQueue()
        """What to do; an event is set once everything before it has been done, None ends it."""
        self._lock = threading.Lock()
        self._closed = False
        self._failures: list[LogUnavailable] = []
        """What was not stored since the last flush."""
        self._lost: list[LogUnavailable] = []
        """What will never be stored."""
        self._trouble: LogUnavailable | None = None
        """Why records wait now."""
        self._unraised = False
        """Whether a record waits of which no flush has raised that."""
        self._said = ""
        """What was reported of the present trouble."""
        self._noted: Row = {}  # of the rate that was noted last
        self._connection: sqlite3.Connection | None = None
        self._identity: FileIdentity | None = None
        self._wal: FileIdentity | None = None
        """The file beside the database that has its newest changes."""
        self._store: Store | None = None
        self._waiting = True
        """Whether the file of unsaved rows may have some."""
        self.unsaved = 0
        """Number of records that wait until the log can be written, for any thread to read."""
        self._stranded: list[UnsavedRow] = []
        """Rows that could not even be put there."""
        self._opened = threading.Event()
        self._refusal: LogUnavailable | None = None
        self._thread = threading.Thread(target=self._work, name="etui-log", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def report_to(self, report: Callable[[str], None]) -> None:
        """Report to another function from now on, and to it the messages on records that wait."""
        self._report = report
        trouble = self._trouble
        if trouble is not None:
            self._say(trouble.what)

    def save(self, record: Record) -> None:
        """Queue a record; one of the same key is replaced.

        A run comes before its answers, and a turn before its grade and its audits.
        """
        self._enqueue(UnsavedRow(choose_table(record), build_row(record)))
        self._note_rates(record)

    def _note_rates(self, record: Record) -> None:
        """Note what a kilowatt-hour costs while something is spent, as it is known now."""
        if not self._config.has_rates:
            return
        from etui.energy.tariff_files import read_tariff

        if isinstance(record, TurnRecord):
            seconds = record.seconds.total
        elif isinstance(record, LoadRecord | UnloadRecord | AuditRecord):
            seconds = record.seconds
        else:
            return
        with suppress(InvalidFile):  # the commands that show costs report it
            tariff = read_tariff(self._config)
            if tariff is None:
                return
            start_s = datetime.fromisoformat(record.created_at).timestamp()
            for slot, rate in tariff.known_rates(start_s, seconds):
                noted = {"start_s": slot, **asdict(rate)}
                if noted != self._noted:
                    self.save_rows("rates", [noted])
                self._noted = noted

    save_turn = save_load = save_unload = save_chat = save
    save_audit = save_grade = save
    # These are the names by which callers that save records of one kind know it.

    def save_curve(self, curve: OperatingCurve) -> None:
        """Queue an operating curve."""
        self.save_rows("curves", [build_curve_row(curve)])

    def save_rows(self, table: str, rows: Iterable[Row]) -> None:
        """Queue rows of bench runs, their answers, sweeps, or their settings."""
        for row in rows:
            self._enqueue(UnsavedRow(table, to_row(row)))

    def clear_grade(self, turn_id: str) -> None:
        """Queue the removal of a turn's grade; nothing happens if it has none."""
        sql = "DELETE FROM grades WHERE turn_id = ?"
        self._enqueue(_Change("the grade was not removed", sql, turn_id))

    def delete_chat(self, chat_id: str) -> None:
        """Queue the deletion of a chat and its turns; loads are kept, their energy was spent."""
        sql = "DELETE FROM chats WHERE chat_id = ?"
        self._enqueue(_Change("the chat was not deleted", sql, chat_id))

    def ready(self) -> None:
        """Wait until the database is open; LogUnavailable if it cannot be opened."""
        self._await(self._opened)
        if self._refusal is not None:
            raise self._refusal

    def flush(self) -> None:
        """Wait until everything queued so far is stored.

        Raises:
            LogUnavailable: Something since the last flush is not stored; ``what`` names the file
                that has the records.
        """
        reached = threading.Event()
        with self._lock:
            if not self._closed:
                self._queue.put(reached)
        if not self._closed:
            self._await(reached)
        _raise_last(self._take_failures())

    def close(self) -> None:
        """Store what is queued and end the thread; a second call does nothing.

        Raises:
            LogUnavailable: Something is not stored, whether or not a flush has raised that.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._queue.put(None)
        self._thread.join()
        self.open_turns.close()
        atexit.unregister(self._close_at_exit)
        failures = self._take_failures()
        if first:
            failures = [*self._lost, *([] if self._trouble is None else [self._trouble])]
        _raise_last(failures)

    def _take_failures(self) -> list[LogUnavailable]:
        with self._lock:
            failures, self._failures = self._failures, []
            if self._trouble is not None and self._unraised:
                failures.append(self._trouble)
            self._unraised = False
        return failures

    def __enter__(self) -> TurnWriter:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self.close()
            return
        with suppress(LogUnavailable):  # the callback has reported it; the first matters more
            self.close()

    def _enqueue(self, item: UnsavedRow | _Change) -> None:
        with self._lock:
            if not self._closed:
                self._queue.put(item)
                return
        if isinstance(item, _Change):
            raise LogUnavailable(f"{item.what}: the log is closed", "restart etui")
        self._set_aside([item], LogUnavailable("the log is already closed"))
        self._unraised = True

    def _await(self, event: threading.Event) -> None:
        while not event.wait(0.5):
            if not self._thread.is_alive() and not event.is_set():
                raise LogUnavailable("the thread that writes the log has ended", "restart etui")

    def _close_at_exit(self) -> None:
        with suppress(LogUnavailable):
            self.close()

    def _work(self) -> None:
        self._connect()
        if self._connection is not None:
            self._drain()
            self._close_left()
        self._opened.set()
        while True:
            try:
                item = self._queue.get(timeout=None if self._trouble is None else _RETRY_SECONDS)
            except Empty:
                self._save(())
                continue
            rows: list[UnsavedRow] = []
            while isinstance(item, UnsavedRow):
                rows.append(item)
                if len(rows) == _BATCH_ROWS or self._queue.empty():
                    break
                item = self._queue.get()
            if rows or (self._trouble is not None and not isinstance(item, _Change)):
                self._save(rows)
            if isinstance(item, _Change):
                self._change(item)
            elif isinstance(item, threading.Event):
                item.set()
            elif item is None:
                break
        if self._stranded:
            records = count_text(len(self._stranded), "record")
            self._fail(
                f"{records} of the log could not be saved anywhere and will be lost",
                f"free space for {self._config.home}, or make it writable",
            )
            if self.unsaved == len(self._stranded):  # else others are in the file
                self._trouble = None
        self._drop_connection()

    def _connect(self) -> LogUnavailable | None:
        """Open the database unless it is open and in its place; return why that is impossible."""
        removed = self._drop_removed()
        if self._connection is None:
            seconds = self._busy_seconds
            if self._trouble is not None:
                seconds = min(seconds, _RETRY_BUSY_SECONDS)
            try:
                self._connection = open_for_writing(self._config, seconds)
            except LogUnavailable as error:
                self._refusal = error
                return error
            self._identity = read_identity(self._config.database)
            self._store = Store(self._connection)
            self._refusal = None
        if removed:
            self._say(removed)
        return None

    def _drop_removed(self) -> str:
        """Close a database that is no longer in its place; return what is to be said of it."""
        path = self._config.database
        if self._connection is None or self._is_in_place():
            return ""
        self._drop_connection()
        wal, shm = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
        if self._wal is not None and read_identity(wal) == self._wal:
            # SQLite leaves these of a database that has gone, and would read them into another.
            for left in (wal, shm):
                with suppress(OSError):
                    left.unlink()
        if path.exists():
            return f"the log {path} was replaced: what follows is written to the new file"
        return f"the log {path} was removed: a new one is made, without the earlier turns"

    def _is_in_place(self) -> bool:
        path = self._config.database
        if read_identity(path) != self._identity:
            return False
        self._wal = read_identity(path.with_name(f"{path.name}-wal"))
        return True

    def _drop_connection(self) -> None:
        connection, self._connection, self._store = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _save(self, new: Sequence[UnsavedRow]) -> None:
        """Store rows and what waits, or set all of it aside."""
        rows, self._stranded = [*self._stranded, *new], []
        error = self._connect()
        if error is None and self._waiting:  # first: a later row of the same key replaces it
            error = self._drain()
        if error is None and rows:
            error = self._store_rows(rows)
        if error is not None:
            self.unsaved += len(new)
        if error is None or (rows and self._set_aside(rows, error)):
            for row in rows:
                if row.table == "turns":
                    self.open_turns.forget(row.row["turn_id"])
        if error is None and not self._waiting and not self._stranded:
            self._end_trouble()
        self._unraised = self._unraised or bool(new)

    def _store_rows(self, rows: Sequence[UnsavedRow]) -> LogUnavailable | None:
        refused: list[tuple[UnsavedRow, ValueError]] = []
        while True:
            error = self._connect()
            connection, store = self._connection, self._store
            if connection is None or store is None:
                return error
            refused.clear()
            try:
                connection.execute("BEGIN IMMEDIATE")
                for row in rows:
                    try:
                        store.put(row.table, row.row)
                    except ValueError as unfit:
                        refused.append((row, unfit))
                connection.execute("COMMIT")
            except sqlite3.Error as failure:
                self._drop_connection()
                return translate_error(self._config.database, failure)
            if self._is_in_place():  # else they went to a file that was just removed
                break
        self._keep_refused(refused)
        return None

    def _keep_refused(self, refused: Sequence[tuple[UnsavedRow, ValueError]]) -> None:
        for row, fault in refused:
            problem = LogUnavailable(f"a record does not fit the log: {fault}")
            path = unreadable_file(self._config)
            if self._keep(path, [row], problem):
                self._fail(f"{problem.what}; 1 record kept in {path} for inspection", "")

    def _set_aside(self, rows: Sequence[UnsavedRow], error: LogUnavailable) -> bool:
        """Keep what the database cannot store now, to store it later; return whether it is kept."""
        path = unsaved_file(self._config)
        is_kept = self._keep(path, rows, error)
        if is_kept:
            self._waiting = True
            records = count_text(max(self.unsaved, len(rows)), "record")
            self._note_trouble(error, f"{records} kept in {path} until it can be written")
        return is_kept

    def _keep(self, path: Path, rows: Sequence[UnsavedRow], error: LogUnavailable) -> bool:
        """Append rows to a file; return False if they could only be kept in memory."""
        try:
            append_rows(path, rows)
            return True
        except OSError as second:
            self._stranded.extend(rows)
            self.unsaved = max(self.unsaved, len(self._stranded))
            records = count_text(len(self._stranded), "record")
            reason = second.strerror or second
            self._note_trouble(error, f"{records} kept in memory only ({path}: {reason})")
            return False

    def _drain(self) -> LogUnavailable | None:
        """Store what was set aside, in this or in another process; return why it cannot be."""
        connection, store = self._connection, self._store
        if connection is None or store is None:
            return self._refusal
        path = unsaved_file(self._config)

        def put(row: UnsavedRow) -> None:
            # The name of a chat in the database is newer than the one in the file.
            store.put(row.table, row.row, overwrite=row.table != "chats")

        refused = 0
        try:
            if path.exists():
                connection.execute("BEGIN IMMEDIATE")
                refused = drain_rows(self._config, put, connection.commit)
                connection.commit()
        except (sqlite3.Error, OSError) as error:
            self._drop_connection()
            if isinstance(error, sqlite3.Error):
                problem = translate_error(self._config.database, error)
            else:
                problem = LogUnavailable(f"cannot read {path}: {error.strerror or error}")
            if self._trouble is None:
                self._note_trouble(problem, f"records are still in {path}")
            return problem
        if refused:
            self._fail(
                f"cannot read {count_text(refused, 'line')} that were set aside earlier",
                f"they are kept in {unreadable_file(self._config)}",
            )
        self._waiting = path.exists()  # while another etui reads or writes it
        return None

    def _close_left(self) -> None:
        """Store the turns that were open when their process was killed, unless they are stored."""
        with take_left(self._config) as left:
            if not left or self._connection is None or self._store is None:
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                refused = []
                for turn in left:
                    try:
                        if turn.row:
                            self._store.put("turns", turn.row, overwrite=False)
                    except ValueError as error:
                        refused.append((UnsavedRow("turns", turn.row), error))
                self._connection.execute("COMMIT")
            except sqlite3.Error:  # the next start tries again
                self._drop_connection()
                return
            self._keep_refused(refused)
            for turn in left:
                turn.remove()

    def _change(self, change: _Change) -> None:
        reason = self._connect()
        try:
            if self._connection is not None:
                self._connection.execute(change.sql, (change.key,))
                return
        except sqlite3.Error as error:
            self._drop_connection()
            reason = translate_error(self._config.database, error)
        assert reason is not None
        self._fail(f"{change.what}: {reason.what}", reason.fix)

    def _fail(self, what: str, fix: str) -> None:
        """Note what will never be stored, and say so."""
        error = LogUnavailable(what, fix)
        with self._lock:
            self._failures.append(error)
            self._lost.append(error)
        self._say(what)

    def _note_trouble(self, error: LogUnavailable, where: str) -> None:
        """Note why records wait, and where; say so unless the same was said."""
        self._trouble = LogUnavailable(f"{error.what}; {where}", error.fix)
        if self._said != error.what:
            self._said = error.what
            self._say(self._trouble.what)

    def _end_trouble(self) -> None:
        """Note that nothing waits any more, and say so."""
        if self._trouble is None:
            return
        self._trouble = None
        records = count_text(self.unsaved, "record")
        self.unsaved, self._said = 0, ""
        if self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * self._busy_seconds)}")
        self._say(f"the log can be written again; stored: {records} that had waited")

    def _say(self, text: str) -> None:
        if self._report is not None:
            try:
                self._report(text)
            except Exception:  # noqa: BLE001 - an error in the callback must not end the log
                self._report = None


def _raise_last(failures: Sequence[LogUnavailable]) -> None:
    """Raise the last failure, with the number of those before it."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        before = count_text(len(failures) - 1, "earlier failure")
        raise LogUnavailable(f"{failures[-1].what} (after {before})", failures[-1].fix)
