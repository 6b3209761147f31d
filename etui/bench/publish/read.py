"""Read public folders, which anybody may have written: nothing in them is trusted.

A folder counts only if its files have the checksums that it states, no file is a link, and
``public_run`` accepts what they contain.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from etui.bench.publish.folder import RECORD, SUMS, read_sums
from etui.bench.publish.public_run import (
    AnswerCount,
    BrokenFolder,
    PublicRun,
    build_public_run,
    parse_amount,
    parse_name,
)
from etui.bench.store.run_folder import SAMPLES, SUMMARY
from etui.text.codec import DocumentError
from etui.units import bytes_text

_MOST_BYTES = {RECORD: 4 << 20, SUMMARY: 16 << 20, SAMPLES: 512 << 20, SUMS: 1 << 20}
_MOST_LINE_BYTES = 1 << 20
_MOST_FOLDERS = 10_000


_ODD = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""What documents of an unexpected form raise where their values are used."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A folder that was not read: its path below the folder of the board, and why."""

    place: str
    why: str


def read_folders(root: Path) -> tuple[list[PublicRun], list[Skipped]]:
    """Read all public folders below a folder; links are not followed.

    Of a run that is there twice, the first by path is read.

    Returns:
        The runs in the order of their paths, and what was skipped.
    """
    runs: dict[str, PublicRun] = {}
    skipped: list[Skipped] = []
    for place, problem in _find_folders(root):
        name = place.relative_to(root).as_posix()
        if problem:
            skipped.append(Skipped(name, problem))
            continue
        try:
            run = read_folder(place, name)
        except BrokenFolder as error:
            skipped.append(Skipped(name, str(error)))
            continue
        if run.run_id in runs:
            skipped.append(Skipped(name, f"it has the same run as {runs[run.run_id].place}"))
        else:
            runs[run.run_id] = run
    return list(runs.values()), skipped


def read_folder(folder: Path, place: str) -> PublicRun:
    """Read a public folder.

    Raises:
        BrokenFolder: A file is missing, too large, a link, changed or invalid, or figures do not
            follow from the answers.
    """
    try:
        sums = read_sums(_read(folder, SUMS).decode("utf-8"))
        record = _parse(_checked(folder, RECORD, sums), RECORD)
        summary = _parse(_checked(folder, SUMMARY, sums), SUMMARY)
        counts = _count_answers(folder, sums, record)
        return build_public_run(place, record, summary, counts)
    except BrokenFolder:
        raise
    except DocumentError as error:
        raise BrokenFolder(
            f"a file is not of the expected form: {parse_name(str(error))}"
        ) from error
    except _ODD as error:
        reason = f"{type(error).__name__}: {error}"
        raise BrokenFolder(f"it cannot be read: {parse_name(reason)}") from error


def _find_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each folder with a record, and each link that leaves the root with a problem."""
    found = 0
    base = root.resolve()
    for current, folders, files in os.walk(root, followlinks=False):
        here = Path(current)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            if (here / name).is_symlink():
                folders.remove(name)
                if not (here / name).resolve().is_relative_to(base):
                    yield here / name, "it is a link to another place"
        if RECORD in files:
            found += 1
            if found > _MOST_FOLDERS:
                yield here, f"there are more than {_MOST_FOLDERS:,} folders"
                return
            yield here, ""


def _open(folder: Path, name: str) -> IO[bytes]:
    """Open a regular file of a folder; a link, a pipe or a huge file is refused."""
    path = folder / name
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise BrokenFolder(f"{name} is a link")
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise BrokenFolder(f"{name} is missing") from error
    except OSError as error:
        raise BrokenFolder(f"{name} cannot be read: {error.strerror or error}") from error
    state, most = os.fstat(descriptor), _MOST_BYTES[name]
    problem = ""
    if not stat.S_ISREG(state.st_mode):
        problem = "is not a file"
    elif state.st_size > most:
        problem = f"has {bytes_text(state.st_size)}, more than {bytes_text(most)}"
    if problem:
        os.close(descriptor)
        raise BrokenFolder(f"{name} {problem}")
    return os.fdopen(descriptor, "rb")


def _read(folder: Path, name: str) -> bytes:
    with _open(folder, name) as file:
        return file.read(_MOST_BYTES[name] + 1)


def _checked(folder: Path, name: str, sums: Mapping[str, str]) -> bytes:
    content = _read(folder, name)
    if hashlib.sha256(content).hexdigest() != sums.get(name):
        raise BrokenFolder(f"{name} differs from its checksum in {SUMS}")
    return content


def _parse(content: bytes, name: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise BrokenFolder(f"{name} contains {word}, which is not a number")

    document = json.loads(content.decode("utf-8"), parse_constant=refuse)
    if not isinstance(document, dict):
        raise BrokenFolder(f"{name} is not a JSON object")
    return document


def _count_answers(
    folder: Path, sums: Mapping[str, str], record: Mapping[str, Any]
) -> dict[str, AnswerCount]:
    """Count the answers of each system while the checksum of the file is computed."""
    config = record["config"]
    routed = config["policy"]["name"] if config.get("routed") and config.get("policy") else None
    digest = hashlib.sha256()
    counts: dict[str, AnswerCount] = defaultdict(AnswerCount)
    seen: set[tuple[str, str, int]] = set()
    with _open(folder, SAMPLES) as file:
        while line := file.readline(_MOST_LINE_BYTES + 1):
            if len(line) > _MOST_LINE_BYTES:
                raise BrokenFolder(f"{SAMPLES} has a line of more than a megabyte")
            digest.update(line)
            sample = _parse(line, SAMPLES)
            name = str(routed or sample["arm"])
            key = (name, str(sample["subject"]), int(sample["row"]))
            if key in seen:
                raise BrokenFolder(f"{SAMPLES} has an answer twice")
            seen.add(key)
            count = counts[name]
            count.questions += 1
            count.correct += sample["correct"] is True
            if sample.get("joules") is not None:
                count.joules += parse_amount(sample["joules"], SAMPLES)
                count.measured += 1
                if sample.get("kind") is not None:
                    count.kinds.add(str(sample["kind"]))
    if digest.hexdigest() != sums.get(SAMPLES):
        raise BrokenFolder(f"{SAMPLES} differs from its checksum in {SUMS}")
    return counts
