"""The folder of one sweep: ``config.json``, and files that only grow while it is measured.

A block is one line of ``blocks.jsonl``, on the disk before the next one starts, so that a kill
loses one block at most. A line that was cut off is dropped when the sweep is read. A seal records
the length and hash of the blocks that etui wrote, which distinguishes a file edited by hand from
one that a crash cut off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from etui.atomic import write_text
from etui.bench.store.sealed_folder import (
    FolderKind,
    append_whole,
    check_new,
    explain_write_errors,
    open_locked,
    write_seal,
)
from etui.sweep.blocks import Block
from etui.sweep.machine.accuracy import SettingAnswer
from etui.sweep.machine.visit_power import VisitPower
from etui.sweep.run.find import ANSWERS, BLOCKS, CONFIG, POWER, SEAL
from etui.sweep.run.recorded_sweep import (
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

SWEEP = FolderKind("sweep", "etui sweep")


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
        check_new(folder, SWEEP)
        with open_locked(folder, SWEEP) as lock:
            content = to_document(config)
            document = {"version": VERSION, "sha256": hash_config(content), "config": content}
            text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
            write_text(folder / CONFIG, text, errors="surrogatepass")
            sweep = cls(folder, lock, b"")
            # The first block is written before its seal. With a seal of nothing it is what a crash
            # left behind it; without any, somebody may have removed it.
            sweep._write_seal()
            return sweep

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
        with open_locked(folder, SWEEP) as lock:
            recorded = read_sweep(folder)
            whole = read_bytes(folder / BLOCKS)[: recorded.good_bytes[BLOCKS]]
            sweep = cls(folder, lock, whole)
            for name, size in recorded.good_bytes.items():
                sweep._files[name].truncate(size)
            sweep._write_seal()
            return sweep, recorded

    def add_block(self, block: Block) -> None:
        """Append a complete block and flush it to the disk.

        Raises:
            Stopped: The disk is full; earlier blocks are kept.
            EtuiError: The folder cannot be written.
        """
        line = self._append(BLOCKS, [block])
        self._digest.update(line)
        self._sealed_bytes += len(line)
        with explain_write_errors(self.path, SWEEP):
            self._write_seal()

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
        with explain_write_errors(self.path, SWEEP):
            write_text(self.path / name, text, errors="surrogatepass")

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
        with explain_write_errors(self.path, SWEEP):
            append_whole(self._files[name], text, sync=True)
        return text

    def _write_seal(self) -> None:
        write_seal(self.path / SEAL, self._sealed_bytes, self._digest.hexdigest())
