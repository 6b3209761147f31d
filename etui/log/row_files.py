"""Rows that are not in the database: of the turns that run now, and those it could not store.

A turn that runs has a file ``ETUI_HOME/logs/open/ID.jsonl``, which is removed once its record is
stored: the process that runs it with the row as it began, then every few seconds what has changed
of the row. What a dead process has left becomes a row ``interrupted`` the next time the log is
opened. It is a file and no row, because to append to a file waits neither for a lock nor for the
disk: a power cut may lose it, ``kill -9`` does not.

Records that the database could not store are kept as JSON lines ``{"table": ..., "row": {...}}``,
until it can. That file is locked while it is written or read back, so that two processes neither
mix their lines nor lose one.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

try:
    import fcntl
except ImportError:  # Windows: only one etui at a time may write to the log there
    fcntl = None  # type: ignore[assignment]

from etui.atomic import append_whole, open_private
from etui.config.config import Config
from etui.log.records import KEYS, Row, build_row
from etui.owner import Owner, find_owner
from etui.text import utc_now
from etui.turn.record import TurnRecord
from etui.units import seconds_text

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.turn.interfaces import Meter

R = TypeVar("R")
ReadTurn = Callable[[], TurnRecord]
"""Returns the record of a turn as it is now."""
PROGRESS_S = 2.0
"""How often the progress of a turn is noted, until a twentieth of its time so far is more."""
_SLOWER = 0.05
_SILENT_S = 86400.0
"""After a day without progress, a turn of another machine is taken for dead."""
_NEW_S = 60.0
"""A file without a line was created this moment, or its process died in that moment."""


@dataclass(slots=True)
class _OpenTurn:
    path: Path
    file: BinaryIO
    row: Row  # As the file has it
    reads: list[ReadTurn]  # One for each round of a turn that calls tools
    begun_s: float
    due_s: float


class OpenTurns:
    """The turns of this process that are not stored yet; any thread may use it."""

    def __init__(self, config: Config) -> None:
        self._folder = open_dir(config)
        self._owner: dict[str, Any] | None = None
        self._open: dict[str, _OpenTurn] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self, record: TurnRecord, read: ReadTurn) -> None:
        """Note a turn that begins, or a further round of it; nothing if the disk is full.

        ``read`` is called from another thread until the turn is forgotten.
        """
        now_s = time.monotonic()
        with self._changed:
            known = self._open.get(record.turn_id)
            if known is not None:
                known.reads.append(read)
                return
            with suppress(OSError):
                path = self._folder / f"{record.turn_id}.jsonl"
                row, file = build_row(record), _create(path)
                self._owner = self._owner or asdict(find_owner())
                opened = _OpenTurn(path, file, row, [read], now_s, now_s + PROGRESS_S)
                self._open[record.turn_id] = opened
                _append(file, {"owner": self._owner, "row": row})
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="etui-open", daemon=True)
                self._thread.start()
            if len(self._open) == 1:  # it waits without an end; else it looks soon enough
                self._changed.notify()

    def forget(self, turn_id: str) -> None:
        """Remove a turn that is stored now, or has come to nothing."""
        with self._changed:
            opened = self._open.pop(turn_id, None)
        if opened is not None:
            _remove(opened.path, opened.file)

    def note_each(
        self,
        items: Iterator[R],
        what: str,
        arm: Arm,
        meter: Meter,
        when_kept: Callable[[Callable[[], None]], object],
    ) -> Iterator[R]:
        """Yield items, with an open turn for the work on each; ``what`` is its question.

        ``when_kept`` calls its argument once the item that was yielded last is on the disk.
        """
        from etui.turn.build_record import build_work_record
        from etui.turn.interfaces import Origin

        while True:
            origin, start_ns = Origin(), time.monotonic_ns()
            read = partial(build_work_record, origin, what, arm, utc_now(), start_ns, meter)
            self.begin(read(), read)
            forget = partial(self.forget, origin.turn_id)
            try:
                item = next(items)
            except BaseException as error:
                forget()
                if isinstance(error, StopIteration):
                    return
                raise
            try:
                yield item
            finally:
                when_kept(forget)

    def close(self) -> None:
        """Note no more progress."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                due_s = min((each.due_s for each in self._open.values()), default=None)
                now_s = time.monotonic()
                if self._closed:
                    return
                if due_s is None or due_s > now_s:
                    self._changed.wait(None if due_s is None else min(due_s - now_s, PROGRESS_S))
                    continue
                due = [each for each in self._open.values() if each.due_s <= now_s]
            for each in due:
                each.due_s = now_s + max(PROGRESS_S, _SLOWER * (now_s - each.begun_s))
                with suppress(Exception):  # a meter that fails; a turn that has ended meanwhile
                    _note_progress(each)


def _note_progress(turn: _OpenTurn) -> None:
    row = build_row(_join([read() for read in list(turn.reads)]))
    _append(turn.file, {"row": {k: v for k, v in row.items() if v != turn.row[k]}})
    turn.row = row


def _join(rounds: list[TurnRecord]) -> TurnRecord:
    """Return rounds as one turn; joules that are unknown only make the bound lower."""
    known = [each.energy for each in rounds if each.energy.joules is not None]
    if not known:
        return rounds[-1]
    start_ns, end_ns = rounds[0].energy.start_ns, rounds[-1].energy.end_ns
    joules = sum(each.joules or 0.0 for each in known)
    energy = replace(known[-1], joules=joules, start_ns=start_ns, end_ns=end_ns)
    return replace(rounds[-1], energy=energy)


@dataclass(frozen=True, slots=True)
class LeftTurn:
    """A turn of a process that is dead; its file is locked."""

    path: Path
    file: BinaryIO
    row: Row  # Empty if the process died before it began

    def remove(self) -> None:
        """Remove its file, once its row is stored."""
        _remove(self.path, self.file)


@contextmanager
def take_left(config: Config) -> Iterator[list[LeftTurn]]:
    """Take the turns that dead processes have left; those that are not removed stay."""
    with ExitStack() as stack:
        try:
            names = sorted(os.listdir(open_dir(config)))
        except OSError:
            names = []
        left = []
        for name in names:
            path = open_dir(config) / name
            with suppress(OSError):  # removed meanwhile, or locked by its process
                file = stack.enter_context(open(path, "r+b", buffering=0))
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                row = _read_left(file)
                if row is not None:
                    left.append(LeftTurn(path, file, row))
        yield left


def open_dir(config: Config) -> Path:
    """Return the folder of the turns that run now."""
    return config.log_dir / "open"


def _read_left(file: BinaryIO) -> Row | None:
    """Read a row and close it; None if its process may still run."""
    silent_s = time.time() - os.fstat(file.fileno()).st_mtime
    row: Row = {}
    for number, line in enumerate(file.read().splitlines()):
        try:
            document = json.loads(line)
            if number == 0:
                owner = Owner(**document["owner"])
                if owner.is_alive() or (not owner.is_here() and silent_s < _SILENT_S):
                    return None
            row.update(document["row"])
        except (ValueError, KeyError, TypeError):
            break  # the last line, which was cut off
    if not row:
        return None if silent_s < _NEW_S else row
    with suppress(KeyError, TypeError):  # a row of another version, which the log may refuse
        seconds = seconds_text((row["energy_end_ns"] - row["energy_start_ns"]) / 1e9)
        known = f"its joules are those of its first {seconds}, at least"
        if row["energy_joules"] is None:
            known = "its joules are unknown"
        row["error"] = f"etui was killed while it answered; {known}"
    return row


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    file: BinaryIO = open(path, "xb", buffering=0)  # noqa: SIM115
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _append(file: BinaryIO, document: dict[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False) + "\n"
    file.write(text.encode("utf-8", "replace"))


def _remove(path: Path, file: BinaryIO) -> None:
    file.close()  # Windows removes no open file
    with suppress(OSError):
        path.unlink(missing_ok=True)


class UnsavedRow(NamedTuple):
    """One row and the table it belongs to."""

    table: str
    row: Row


def unsaved_file(config: Config) -> Path:
    """Return the path of the file for records that the database has not stored yet."""
    return config.log_dir / "unsaved-turns.jsonl"


def unreadable_file(config: Config) -> Path:
    """Return the path of the file for lines that can never be stored; kept for inspection."""
    return config.log_dir / "unreadable-turns.jsonl"


def append_rows(path: Path, rows: Sequence[UnsavedRow]) -> None:
    """Append rows to the file and flush them to disk, all of them or none.

    OSError if the file cannot be written; its earlier lines are unchanged.
    """
    lines = "".join(
        json.dumps({"table": table, "row": row}, ensure_ascii=False, default=str) + "\n"
        for table, row in rows
    )
    _append_bytes(path, lines.encode("utf-8", "replace"))


def drain_rows(
    config: Config, store: Callable[[UnsavedRow], None], commit: Callable[[], None]
) -> int:
    """Pass every row of the file to ``store``, then ``commit``, then remove the file.

    A ValueError of ``store`` means that this row can never be stored: it is moved to
    :func:`unreadable_file`, and counted in the result. OSError if the file cannot be read or
    removed.
    """
    path = unsaved_file(config)
    if not path.exists():
        return 0
    with _open_locked(path, "r+b", wait=False) as file:
        if file is None:
            return 0
        refused = []
        for line in file.read().splitlines(keepends=True):
            try:
                store(_parse_line(line))
            except ValueError:
                if line.strip():
                    refused.append(line if line.endswith(b"\n") else line + b"\n")
        if refused:
            _append_bytes(unreadable_file(config), b"".join(refused))
        commit()
        try:
            path.unlink()
        except PermissionError:  # Windows removes no open file
            file.truncate(0)
    return len(refused)


def _parse_line(line: bytes) -> UnsavedRow:
    document: Any = json.loads(line)
    if not isinstance(document, dict) or not isinstance(document.get("row"), dict):
        raise ValueError("not a row")
    if document.get("table") not in KEYS:
        raise ValueError(f"no such table: {document.get('table')}")
    return UnsavedRow(document["table"], document["row"])


def _append_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_locked(path, "ab", wait=True) as file:
        assert file is not None
        append_whole(file, data)


@contextmanager
def _open_locked(path: Path, mode: str, *, wait: bool) -> Iterator[BinaryIO | None]:
    """Open and lock the file; None if it is missing, or locked elsewhere and ``wait`` is false."""
    while True:
        try:
            file: BinaryIO = open(  # type: ignore[assignment]  # noqa: SIM115
                path, mode, buffering=0, opener=open_private
            )
        except FileNotFoundError:
            yield None
            return
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    yield None
                    return
            # Another process may have drained and removed the file while this one waited.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return
