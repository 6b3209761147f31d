"""The folder of one sweep: ``config.json``, and files that only grow while it is measured.

A block is one line of ``blocks.jsonl``, on the disk before the next one starts, so that a kill
loses one block at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from etui.codec import DocumentError, from_document, to_document
from etui.errors import InvalidFile
from etui.measure.folder import CONFIG as CONFIG
from etui.measure.folder import (
    FileLines,
    Folder,
    FolderKind,
    find_folder,
    find_seal_problem,
    list_folders,
    make_id,
    read_lines,
    wrong_folder_error,
)
from etui.sweep.blocks import Block, SettingAnswer, VisitPower
from etui.sweep.config import SweepConfig

if TYPE_CHECKING:
    from etui.config.config import Config


T = TypeVar("T")

BLOCKS = "blocks.jsonl"
ANSWERS = "answers.jsonl"
POWER = "power.jsonl"
RESULT = "result.json"
REPORT = "report.html"
RECORDING = "recorded.json"  # The answers that every setting computes again
VERSION = 1  # Version of the files; another one is refused

SWEEP = FolderKind(
    "sweep",
    "etui sweep",
    "start a sweep: etui sweep MODEL",
    BLOCKS,
    "blocks.seal",
    (ANSWERS, POWER),
)


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
    """Find the folder of a sweep by its path, its id or a prefix of it; ``last`` is the newest."""
    return find_folder(text, sweeps_dir(config), "sweep")


@dataclass(frozen=True, slots=True)
class RecordedSweep:
    """The content of a sweep folder."""

    folder: Path
    config: SweepConfig
    blocks: tuple[Block, ...]  # Complete blocks, in order
    answers: tuple[SettingAnswer, ...]  # Answers to the questions of a suite
    power: tuple[VisitPower, ...]  # Those of a few may be missing after a crash
    good_bytes: Mapping[str, int]  # Length of the complete lines of each file
    is_finished: bool  # Whether it has a result of a complete sweep


def read_sweep(folder: Path) -> RecordedSweep:
    """Read a sweep folder, finished or not.

    UsageError if the folder is not a sweep folder; InvalidFile if a file in it is unreadable, of
    another version, or was changed outside etui.
    """
    config = read_config(folder)
    blocks = _read_lines(folder / BLOCKS, Block)
    if found := find_seal_problem(folder, SWEEP, blocks.raw):  # what follows it is from a crash
        raise InvalidFile(
            f"{folder} was changed outside etui: {found}",
            "its figures can no longer be relied on; start a new sweep",
        )
    answers = _read_lines(folder / ANSWERS, SettingAnswer)
    power = _read_lines(folder / POWER, VisitPower)
    sizes = {BLOCKS: blocks.good_bytes, ANSWERS: answers.good_bytes, POWER: power.good_bytes}
    return RecordedSweep(
        folder, config, blocks.values, answers.values, power.values, sizes, is_finished(folder)
    )


def read_config(folder: Path) -> SweepConfig:
    """Read the configuration of a sweep.

    UsageError if the folder is not a sweep folder; InvalidFile if the file is unreadable, of
    another version, or was changed outside etui.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise wrong_folder_error(folder, SWEEP)
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


def _read_lines(path: Path, kind: type[T]) -> FileLines[T]:
    return read_lines(
        path,
        lambda document: from_document(kind, document),
        "a line of this etui",
        "the file was changed outside etui, or written by another version; start a new sweep",
    )


class SweepFolder(Folder):
    """A sweep folder, locked for writing by this process until it is closed."""

    @classmethod
    def start(cls, folder: Path, config: SweepConfig) -> Self:
        """Create the folder of a new sweep; errors as in :meth:`Folder.create`."""
        content = to_document(config)
        document = {"version": VERSION, "sha256": hash_config(content), "config": content}
        return cls.create(folder, SWEEP, document)

    @classmethod
    def resume(cls, folder: Path) -> tuple[Self, RecordedSweep]:
        """Open the folder of a sweep to resume it; errors as in :meth:`Folder.reopen`."""
        return cls.reopen(folder, SWEEP, read_sweep)

    def add_block(self, block: Block) -> None:
        """Append a complete block and flush it to the disk; errors as in :meth:`Folder.append`."""
        document = to_document(block)
        if block.cost is None:
            del document["cost"]
        self.append(BLOCKS, [document])

    def add(self, name: str, lines: Iterable[SettingAnswer | VisitPower]) -> None:
        """Append answers or watts to their file; errors as in :meth:`Folder.append`."""
        self.append(name, map(to_document, lines))
