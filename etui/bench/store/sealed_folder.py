"""A folder that one process writes: its lock, the seal of a file that grows, its errors.

A seal records the length and hash of what etui wrote, which distinguishes a file edited by hand
from one that a crash cut off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from etui.atomic import write_text
from etui.errors import EtuiError, Stopped, UsageError

if TYPE_CHECKING:
    from filelock import FileLock

CONFIG = "config.json"
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class FolderKind:
    """What a folder has in it, for error messages."""

    noun: str  # Its name: `run`
    command: str  # The command that writes it: `etui bench`


def check_new(folder: Path, kind: FolderKind) -> None:
    """Check that a new run or sweep can use this folder.

    Raises:
        UsageError: The path is a file, or the folder is not empty.
    """
    if (folder / CONFIG).exists():
        raise UsageError(
            f"{folder} already contains a {kind.noun}",
            f"resume it with: {kind.command} --resume {folder}",
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "use a new folder with --out")
    if folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise UsageError(f"{folder} is not empty", "use a new folder with --out")


@contextmanager
def open_locked(folder: Path, kind: FolderKind) -> Iterator[FileLock]:
    """Make and lock a folder while it is opened; the lock is kept unless the body fails.

    Raises:
        EtuiError: Another process is writing to it, or it cannot be written.
    """
    with explain_write_errors(folder, kind):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire_lock(folder)
        try:
            yield lock
        except BaseException:
            lock.release()
            raise


@contextmanager
def explain_write_errors(folder: Path, kind: FolderKind) -> Iterator[None]:
    """Name the folder and what to do where the body cannot write to it.

    Raises:
        Stopped: The disk is full.
        EtuiError: The folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _build_write_error(folder, error, kind) from error


def _acquire_lock(folder: Path) -> FileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EtuiError(
            f"another etui is writing to {folder}", "wait until it ends, or use another --out"
        ) from error
    return lock


def _build_write_error(folder: Path, error: OSError, kind: FolderKind) -> EtuiError:
    """Build the error of a folder that cannot be written; a full disk can be resumed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Stopped(
            f"the disk of {folder} is full",
            f"free some space, then: {kind.command} --resume {folder}",
        )
    return EtuiError(
        f"cannot write to {folder}: {error.strerror or error}", "use another folder with --out"
    )


def append_whole(file: IO[bytes], data: bytes, *, sync: bool) -> None:
    """Append to an unbuffered file; after an error it ends where it ended before.

    Args:
        sync: Whether to wait until they are on the disk.

    Raises:
        OSError: The disk is full, or the file cannot be written.
    """
    before = file.seek(0, os.SEEK_END)
    try:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        if sync:
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # else the partial line is dropped by the next reader
            file.truncate(before)
        raise


def write_seal(path: Path, size_bytes: int, sha256: str) -> None:
    """Write the seal of a file that now has this length and hash."""
    seal = {"bytes": size_bytes, "sha256": sha256}
    write_text(path, json.dumps(seal) + "\n", sync=False)


def find_seal_problem(path: Path, sealed_file: str, raw: bytes) -> str:
    """Compare a file with its seal; lines after the sealed part come from a crash.

    Returns:
        What was changed outside etui; empty if nothing.
    """
    if not path.exists():
        return "" if raw.count(b"\n") <= 1 else f"{path.name} is missing"
    try:
        seal = json.loads(path.read_text(encoding="utf-8"))
        sealed, digest = int(seal["bytes"]), str(seal["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} is damaged"
    if len(raw) < sealed or hashlib.sha256(raw[:sealed]).hexdigest() != digest:
        return f"{sealed_file} differs from what etui wrote"
    return ""
