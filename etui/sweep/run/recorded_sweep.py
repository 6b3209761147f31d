"""The content of a sweep folder, and whether etui wrote it: reading needs no lock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from etui.bench.store.sealed_folder import find_seal_problem
from etui.errors import InvalidFile, UsageError
from etui.sweep.blocks import Block
from etui.sweep.machine.accuracy import SettingAnswer
from etui.sweep.machine.visit_power import VisitPower
from etui.sweep.run.find import ANSWERS, BLOCKS, CONFIG, POWER, RESULT, SEAL
from etui.sweep.sweep_config import SweepConfig
from etui.text.codec import DocumentError, from_document

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
