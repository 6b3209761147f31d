"""The folder of one sweep: ``config.json``, and files that only grow while it is measured.

A block is one line of ``blocks.jsonl``, on the disk before the next one starts, so that a kill
loses one block at most. A line that was cut off is dropped when the sweep is read. A seal records
the length and hash of the blocks that etui wrote, which distinguishes a file edited by hand from
one that a crash cut off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from etui.atomic import write_text
from etui.errors import EtuiError, Stopped, UsageError
from etui.sweep.blocks import Block
from etui.sweep.machine.accuracy import SettingAnswer
from etui.sweep.machine.visit_power import VisitPower
from etui.sweep.run.recorded_sweep import (
    ANSWERS,
    BLOCKS,
    CONFIG,
    POWER,
    SEAL,
    VERSION,
    RecordedSweep,
    hash_config,
    no_sweep_error,
    read_bytes,
    read_sweep,
)
from etui.sweep.sweep_config import SweepConfig
from etui.text.codec import to_document

if TYPE_CHECKING:
    from filelock import FileLock

_LOCK = ".lock"


def check_new(folder: Path) -> None:
    """Check that a new sweep can use this folder.

    Raises:
        UsageError: The path is a file, or the folder is not empty.
    """
    if (folder / CONFIG).exists():
        raise UsageError(
            f"{folder} already contains a sweep", f"resume it with: etui sweep --resume {folder}"
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "use a new folder with --out")
    if folder.is_dir() and any(entry.name != _LOCK for entry in folder.iterdir()):
        raise UsageError(f"{folder} is not empty", "use a new folder with --out")


class SweepFolder:
    """A sweep folder, locked for writing by this process until it is closed.

    Use :meth:`create` or :meth:`reopen`.
    """

    def __init__(self, folder: Path, lock: FileLock, sealed: bytes) -> None:
        self.path = folder
        self._lock = lock
        self._digest = hashlib.sha256(sealed)
        self._sealed_bytes = len(sealed)
        self._files: dict[str, IO[bytes]] = {}
        for name in (BLOCKS, ANSWERS, POWER):
            self._files[name] = (folder / name).open("ab", buffering=0)

    @classmethod
    def create(cls, folder: Path, config: SweepConfig) -> Self:
        """Create the folder of a new sweep.

        Raises:
            UsageError: The path is a file, or the folder is not empty.
            EtuiError: The folder cannot be written, or another process is writing to it.
        """
        check_new(folder)
        lock = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _acquire_lock(folder)
            content = to_document(config)
            document = {"version": VERSION, "sha256": hash_config(content), "config": content}
            text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
            write_text(folder / CONFIG, text, errors="surrogatepass")
            sweep = cls(folder, lock, b"")
            # The first block is written before its seal. With a seal of nothing it is what a crash
            # left behind it; without any, somebody may have removed it.
            sweep._write_seal()
            return sweep
        except OSError as error:
            if lock is not None:
                lock.release()
            raise _write_error(folder, error) from error
        except EtuiError:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def reopen(cls, folder: Path) -> tuple[Self, RecordedSweep]:
        """Open the folder of a sweep to resume it; drop last lines that were cut off.

        Raises:
            UsageError: The folder is not a sweep folder.
            InvalidFile: A file in it was changed outside etui.
            EtuiError: The folder cannot be written, or another process is writing to it.
        """
        if not (folder / CONFIG).is_file():
            raise no_sweep_error(folder)
        lock = _acquire_lock(folder)
        try:
            recorded = read_sweep(folder)
            whole = read_bytes(folder / BLOCKS)[: recorded.good_bytes[BLOCKS]]
            sweep = cls(folder, lock, whole)
            for name, size in recorded.good_bytes.items():
                sweep._files[name].truncate(size)
            sweep._write_seal()
            return sweep, recorded
        except OSError as error:
            lock.release()
            raise _write_error(folder, error) from error
        except EtuiError:
            lock.release()
            raise

    def add_block(self, block: Block) -> None:
        """Append a complete block and flush it to the disk.

        Raises:
            Stopped: The disk is full; earlier blocks are kept.
            EtuiError: The folder cannot be written.
        """
        line = self._append(BLOCKS, [block])
        self._digest.update(line)
        self._sealed_bytes += len(line)
        try:
            self._write_seal()
        except OSError as error:
            raise _write_error(self.path, error) from error

    def add_answers(self, answers: Iterable[SettingAnswer]) -> None:
        """Append answers to questions; errors as in :meth:`add_block`."""
        self._append(ANSWERS, answers)

    def add_power(self, power: Iterable[VisitPower]) -> None:
        """Append watts; errors as in :meth:`add_block`."""
        self._append(POWER, power)

    def write(self, name: str, text: str) -> None:
        """Write one of the other files atomically.

        Raises:
            EtuiError: The file cannot be written.
        """
        try:
            write_text(self.path / name, text, errors="surrogatepass")
        except OSError as error:
            raise _write_error(self.path, error) from error

    def close(self) -> None:
        """Close the folder and release its lock."""
        for file in self._files.values():
            file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, name: str, values: Iterable[object]) -> bytes:
        text = b"".join(json.dumps(to_document(value)).encode() + b"\n" for value in values)
        file = self._files[name]
        before = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(text)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # else the partial line is dropped by the next reader
                file.truncate(before)
            raise _write_error(self.path, error) from error
        return text

    def _write_seal(self) -> None:
        seal = {"bytes": self._sealed_bytes, "sha256": self._digest.hexdigest()}
        write_text(self.path / SEAL, json.dumps(seal) + "\n", sync=False)


def _acquire_lock(folder: Path) -> FileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EtuiError(
            f"another etui is writing to {folder}", "wait until it ends, or use another --out"
        ) from error
    except OSError as error:
        raise _write_error(folder, error) from error
    return lock


def _write_error(folder: Path, error: OSError) -> EtuiError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Stopped(
            f"the disk of {folder} is full",
            f"free some space, then: etui sweep --resume {folder}",
        )
    return EtuiError(
        f"cannot write to {folder}: {error.strerror or error}", "use another folder with --out"
    )
