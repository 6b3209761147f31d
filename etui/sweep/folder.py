"""The folder of one sweep: ``config.json``, and files that only grow while it is measured.

A block is one line of ``blocks.jsonl``, on the disk before the next one starts, so that a kill
loses one block at most. A line that was cut off is dropped when the sweep is read. A seal records
the length and hash of the blocks that etui wrote, which distinguishes a file edited by hand from
one that a crash cut off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, TypeVar

from etui.atomic import write_text
from etui.bench.store.find import find_folder, list_folders, make_id
from etui.bench.store.sealed_folder import CONFIG as CONFIG
from etui.bench.store.sealed_folder import (
    FolderKind,
    append_whole,
    check_new,
    explain_write_errors,
    find_seal_problem,
    open_locked,
    write_seal,
)
from etui.errors import InvalidFile, UsageError
from etui.sweep._accuracy import SettingAnswer
from etui.sweep._measurer import VisitPower
from etui.sweep.blocks import Block
from etui.sweep.config import SweepConfig
from etui.text.codec import DocumentError, from_document, to_document

if TYPE_CHECKING:
    from filelock import FileLock

    from etui.config.config import Config


BLOCKS = "blocks.jsonl"

ANSWERS = "answers.jsonl"

POWER = "power.jsonl"

RESULT = "result.json"

REPORT = "report.html"

RECORDING = "recorded.json"

"""The answers that every setting computes again."""

SEAL = "blocks.seal"


def sweeps_dir(config: Config) -> Path:
    """Return the default folder of sweeps."""
    return config.home / "sweeps"


def new_sweep_id(model: str, now: datetime) -> str:
    """Make an id like ``20260131-142530-smollm2-135m-3f9a``; ids sort by time."""
    return make_id(model[:60], now)


def list_sweeps(config: Config) -> tuple[Path, ...]:
    """List the folders of all sweeps in the default folder, the oldest first."""
    return list_folders(sweeps_dir(config))


def find_sweep(text: str, config: Config) -> Path:
    """Find the folder of a sweep by its path, its id or a prefix of it; ``last`` is the newest.

    Raises:
        UsageError: No sweep matches, or several do.
    """
    return find_folder(text, sweeps_dir(config), "sweep")


VERSION = 1

"""Version of the files; another one is refused."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RecordedSweep:
    """The content of a sweep folder."""

    folder: Path
    config: SweepConfig
    blocks: tuple[Block, ...]  # Complete blocks, in order
    answers: tuple[SettingAnswer, ...]  # Answers to the questions of a suite
    power: tuple[VisitPower, ...]
    """Watts of the visits; those of a few may be missing after a crash."""
    good_bytes: Mapping[str, int]
    """Length of the complete lines of each file that grows, by its name."""
    is_finished: bool  # Whether it has a result of a complete sweep


def read_sweep(folder: Path) -> RecordedSweep:
    """Read a sweep folder, finished or not.

    Raises:
        UsageError: The folder is not a sweep folder.
        InvalidFile: A file in it is unreadable, of another version, or was changed outside etui.
    """
    config = read_config(folder)
    raw = read_bytes(folder / BLOCKS)
    _check_seal(folder, raw)
    blocks, good = _parse_lines(folder / BLOCKS, raw, Block)
    _check_blocks(folder / BLOCKS, blocks, config)
    answers, good_answers = _read_lines(folder / ANSWERS, SettingAnswer)
    power, good_power = _read_lines(folder / POWER, VisitPower)
    sizes = {BLOCKS: good, ANSWERS: good_answers, POWER: good_power}
    return RecordedSweep(folder, config, blocks, answers, power, sizes, is_finished(folder))


def read_config(folder: Path) -> SweepConfig:
    """Read the configuration of a sweep.

    Raises:
        UsageError: The folder is not a sweep folder.
        InvalidFile: The file is unreadable, of another version, or was changed outside etui.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise no_sweep_error(folder)
    fix = "start a new sweep"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version, known, content = document["version"], document["sha256"], document["config"]
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidFile(f"{path} is not a sweep configuration: {error}", fix) from error
    if version != VERSION:
        raise InvalidFile(
            f"{path} has version {version!r}, but this etui reads version {VERSION}",
            "use the etui that wrote it, or start a new sweep",
        )
    if hash_config(content) != known:
        raise InvalidFile(f"{path} was changed outside etui: it does not match its hash", fix)
    try:
        return from_document(SweepConfig, content)
    except DocumentError as error:
        raise InvalidFile(f"{path} is not a sweep configuration: {error}", fix) from error


def is_finished(folder: Path) -> bool:
    """Return whether a folder has the result of a complete sweep."""
    try:
        document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("is_complete") is True


def hash_config(content: object) -> str:
    """Return the sha256 of a configuration's document, whatever its spacing."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_bytes(path: Path) -> bytes:
    """Read a file of the folder; empty if it does not exist.

    Raises:
        InvalidFile: It cannot be read.
    """
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror or error}") from error


def _read_lines(path: Path, kind: type[T]) -> tuple[tuple[T, ...], int]:
    return _parse_lines(path, read_bytes(path), kind)


def _parse_lines(path: Path, raw: bytes, kind: type[T]) -> tuple[tuple[T, ...], int]:
    """Parse complete lines; return the values and the number of bytes that they take."""
    values: list[T] = []
    good = 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # cut off while it was written
        try:
            values.append(from_document(kind, json.loads(line)))
        except ValueError as error:
            raise InvalidFile(
                f"{path}:{number}: not a line of this etui: {error}",
                "the file was changed outside etui, or written by another version; "
                "start a new sweep",
            ) from error
        good += len(line)
    return tuple(values), good


def _check_seal(folder: Path, raw: bytes) -> None:
    """Compare the blocks with the seal; lines after the sealed part come from a crash."""
    found = find_seal_problem(folder / SEAL, BLOCKS, raw)
    if found:
        raise InvalidFile(
            f"{folder} was changed outside etui: {found}",
            "its figures can no longer be relied on; start a new sweep",
        )


def _check_blocks(path: Path, blocks: Iterable[Block], config: SweepConfig) -> None:
    """Refuse blocks that cannot belong to the sweep."""
    known = {setting.key for setting in config.design.settings}
    for number, block in enumerate(blocks):
        names = {visit.setting for visit in block.visits}
        names |= {failure.setting for failure in block.failures}
        strange = sorted(names - known)
        if block.number != number or strange:
            what = f"setting {strange[0]!r}" if strange else f"number {block.number}"
            raise InvalidFile(
                f"{path}:{number + 1}: a block of another sweep ({what})", "start a new sweep"
            )


def no_sweep_error(folder: Path) -> UsageError:
    """Build the error of a folder that has no sweep."""
    return UsageError(
        f"{folder} is not a sweep folder: it has no {CONFIG}", "start a sweep: etui sweep MODEL"
    )


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
