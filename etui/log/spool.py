"""Keep records that the database could not store as JSON lines, until it can.

A line is ``{"table": ..., "row": {...}}``. The file is locked while it is written or read back, so
that two processes neither mix their lines nor lose one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

try:
    import fcntl
except ImportError:  # Windows has no flock; only one etui at a time may write this file there
    fcntl = None  # type: ignore[assignment]

from etui.atomic import open_private
from etui.config.config import Config
from etui.log.records import KEYS, Row


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


def append(path: Path, rows: Sequence[UnsavedRow]) -> None:
    """Append rows to the file and flush them to disk, all of them or none.

    Raises:
        OSError: The file cannot be written; its earlier lines are unchanged.
    """
    lines = "".join(
        json.dumps({"table": table, "row": row}, ensure_ascii=False, default=str) + "\n"
        for table, row in rows
    )
    _append_bytes(path, lines.encode("utf-8", "replace"))


def drain(config: Config, store: Callable[[UnsavedRow], None], commit: Callable[[], None]) -> int:
    """Pass every row of the file to ``store``, then ``commit``, then remove the file.

    Args:
        config: Settings with the folder of the log files.
        store: Stores one row; a ValueError means that this row can never be stored.
        commit: Commits the stored rows; the file is removed only after it returned.

    Returns:
        The number of lines that were refused and moved to :func:`unreadable_file`.

    Raises:
        OSError: The file cannot be read or removed.
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
        start = file.seek(0, os.SEEK_END)
        try:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[file.write(remaining) :]
            os.fsync(file.fileno())
        except OSError:
            # A full disk may hold a partial line, which could not be parsed: remove it.
            os.ftruncate(file.fileno(), start)
            raise


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
