"""The folder of one run: ``config.json``, and the append-only ``samples.jsonl``.

Each answer is one line, written to the disk before the next one starts. A line that a crash cut off
is dropped when the run resumes. A seal file records the length and hash of the samples that etui
wrote, which distinguishes a file edited by hand from one that a crash cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from etui.atomic import write_text
from etui.bench.store.run_config import RunConfig, parse_run_config
from etui.bench.store.sample import Sample, parse_sample
from etui.bench.store.sealed_folder import (
    CONFIG,
    FolderKind,
    append_whole,
    check_new,
    explain_write_errors,
    find_seal_problem,
    open_locked,
    write_seal,
)
from etui.errors import InvalidFile, UsageError

if TYPE_CHECKING:
    from filelock import FileLock

SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
PER_SUBJECT = "per_subject.csv"
REPORT = "report.html"
CURVES = "curves.jsonl"
"""Points of operating curves that a design measures on the way; other runs have none."""

_SEAL = "samples.seal"
RUN = FolderKind("run", "etui bench")


@dataclass(frozen=True, slots=True)
class Recorded:
    """The content of a run folder."""

    config: RunConfig
    samples: tuple[Sample, ...]  # The answers, in the order they were given
    good_bytes: int  # Length of the complete lines of `samples.jsonl`
    edited: tuple[str, ...] = ()
    """Descriptions of changes made outside etui; empty if there are none."""


def read_run(folder: Path) -> Recorded:
    """Read a run folder, finished or not.

    Raises:
        UsageError: The folder is not a run folder.
        InvalidFile: A file in it is unreadable or invalid.
    """
    config, edited = _read_config(folder)
    path = folder / SAMPLES
    try:
        raw = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror or error}") from error
    samples: list[Sample] = []
    good = 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # cut off while it was written
        try:
            samples.append(parse_sample(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidFile(
                f"{path}:{number}: not a valid answer: {error}",
                "the file was changed outside etui; remove the line, or start a new run",
            ) from error
        good += len(line)
    broken = find_seal_problem(folder / _SEAL, SAMPLES, raw)
    changed = (*edited, *([broken] if broken else []), *_find_strays(samples, config))
    return Recorded(config, tuple(samples), good, changed)


class RunFolder:
    """A run folder, locked for writing by this process until it is closed.

    Use :meth:`create` or :meth:`reopen`.
    """

    def __init__(self, folder: Path, lock: FileLock, file: IO[bytes], sealed: bytes) -> None:
        self.path = folder
        self._lock = lock
        self._file = file
        self._digest = hashlib.sha256(sealed)
        self._bytes = len(sealed)

    @classmethod
    def create(cls, folder: Path, config: RunConfig) -> Self:
        """Create the folder of a new run.

        Raises:
            UsageError: The path is a file, or the folder is not empty.
            EtuiError: The folder cannot be written, or another process is writing to it.
        """
        check_new(folder, RUN)
        with open_locked(folder, RUN) as lock:
            _write_config(folder, config)
            run = cls(folder, lock, (folder / SAMPLES).open("ab", buffering=0), b"")
            # The first answers are written before their seal. With a seal of nothing they are what
            # a crash left behind it; without any, somebody may have removed it.
            run._write_seal()
            return run

    @classmethod
    def reopen(cls, folder: Path) -> tuple[Self, Recorded]:
        """Open the folder of a run to resume it; drop a last line that was cut off.

        Raises:
            UsageError: The folder is not a run folder.
            InvalidFile: A file in it was changed outside etui.
            EtuiError: The folder cannot be written, or another process is writing to it.
        """
        if not (folder / CONFIG).is_file():
            raise _no_run_error(folder)
        with open_locked(folder, RUN) as lock:
            recorded = read_run(folder)
            if recorded.edited:
                raise InvalidFile(
                    f"{folder} was changed outside etui: {'; '.join(recorded.edited)}",
                    "its results would mix two runs; start a new run",
                )
            file = (folder / SAMPLES).open("ab", buffering=0)
            file.truncate(recorded.good_bytes)
            whole = (folder / SAMPLES).read_bytes()
            run = cls(folder, lock, file, whole)
            run._write_seal()
            return run, recorded

    def add_machines(self, config: RunConfig) -> None:
        """Record a configuration that differs only in further machines.

        Raises:
            EtuiError: The file cannot be written.
        """
        with explain_write_errors(self.path, RUN):
            _write_config(self.path, config)

    def append(self, samples: Iterable[Sample]) -> None:
        """Append answers to the samples and flush them to the disk.

        Raises:
            Stopped: The disk is full; earlier answers are kept.
            EtuiError: The folder cannot be written.
        """
        with explain_write_errors(self.path, RUN):
            for sample in samples:
                line = json.dumps(sample.to_json(), ensure_ascii=True).encode() + b"\n"
                append_whole(self._file, line, sync=False)
                self._digest.update(line)
                self._bytes += len(line)
            os.fsync(self._file.fileno())
            self._write_seal()

    def write(self, name: str, text: str) -> None:
        """Write one of the other files atomically.

        Raises:
            EtuiError: The file cannot be written.
        """
        with explain_write_errors(self.path, RUN):
            write_text(self.path / name, text, errors="surrogatepass")

    def close(self) -> None:
        """Close the folder and release its lock."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_seal(self) -> None:
        write_seal(self.path / _SEAL, self._bytes, self._digest.hexdigest())


def _write_config(folder: Path, config: RunConfig) -> None:
    document = {**config.to_json(), "config_sha256": config.sha256}
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    write_text(folder / CONFIG, text, errors="surrogatepass")


def _read_config(folder: Path) -> tuple[RunConfig, tuple[str, ...]]:
    path = folder / CONFIG
    if not path.is_file():
        raise _no_run_error(folder)
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = parse_run_config(document)
        known = document["config_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidFile(
            f"{path} is not a valid run configuration: {error}", "start a new run"
        ) from error
    return config, () if known == config.sha256 else (f"{CONFIG} does not match its hash",)


def _find_strays(samples: Iterable[Sample], config: RunConfig) -> tuple[str, ...]:
    """Find answers that cannot belong to the run."""
    seen: set[tuple[str, str, int]] = set()
    for sample in samples:
        key = (config.contender(sample.arm), sample.subject, sample.row)
        where = f"{sample.arm}, {sample.subject} {sample.row}"
        if sample.arm not in config.arms or sample.subject not in config.drawn:
            return (f"{SAMPLES} contains an answer that is not part of the run ({where})",)
        if key in seen:
            return (f"{SAMPLES} contains an answer twice ({where})",)
        seen.add(key)
    return ()


def _no_run_error(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} is not a run folder: it has no {CONFIG}", "start a run with: etui bench --suite"
    )
