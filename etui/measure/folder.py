"""The folder of an experiment: ``config.json``, JSON lines that only grow, a lock and a seal.

Each result is a line that is on the disk before the next one is measured. A line that a crash cut
off is dropped when the experiment resumes. The seal records the length and hash of what etui wrote,
which distinguishes a file edited by hand from one that a crash cut off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from etui.atomic import append_whole, write_text
from etui.errors import EtuiError, InvalidFile, Stopped, UsageError

if TYPE_CHECKING:
    from filelock import FileLock

T = TypeVar("T")
CONFIG = "config.json"
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class FolderKind:
    """What an experiment keeps in its folder, and its words in messages."""

    noun: str  # Its name: `run`
    command: str  # The command that writes it: `etui bench`
    start: str  # How to start one: `start a run with: etui bench --suite`
    sealed: str  # The file with the results: `samples.jsonl`
    seal: str  # The file with its seal: `samples.seal`
    others: tuple[str, ...] = ()  # Other files that grow, without a seal


class HasGoodBytes(Protocol):
    """The content of a folder, as far as :meth:`Folder.reopen` needs it."""

    @property
    def good_bytes(self) -> Mapping[str, int]:
        """Length of the complete lines of each file that grows."""


R = TypeVar("R", bound=HasGoodBytes)


class Folder:
    """A folder that this process writes and has locked; use :meth:`create` or :meth:`reopen`."""

    def __init__(self, path: Path, kind: FolderKind, lock: FileLock, sealed: bytes) -> None:
        self.path = path
        self._kind = kind
        self._lock = lock
        self._digest = hashlib.sha256(sealed)
        self._bytes = len(sealed)
        self._files: dict[str, IO[bytes]] = {
            name: (path / name).open("ab", buffering=0) for name in (kind.sealed, *kind.others)
        }

    @classmethod
    def create(cls, path: Path, kind: FolderKind, config: Mapping[str, Any]) -> Self:
        """Create the folder of a new experiment.

        UsageError if the path is a file, or the folder is not empty; EtuiError if the folder cannot
        be written, or another process is writing to it.
        """
        check_new(path, kind)
        with _open_locked(path, kind) as lock:
            _write_config(path, config)
            folder = cls(path, kind, lock, b"")
            # The first results are written before their seal. With a seal of nothing they are what
            # a crash left behind it; without any, it may have been removed.
            folder._write_seal()
            return folder

    @classmethod
    def reopen(cls, path: Path, kind: FolderKind, read: Callable[[Path], R]) -> tuple[Self, R]:
        """Open a folder to resume its experiment; drop last lines that were cut off.

        UsageError if it is not a folder of this kind; InvalidFile if a file in it was changed
        outside etui; EtuiError if the folder cannot be written, or another process is writing to
        it.
        """
        if not (path / CONFIG).is_file():
            raise wrong_folder_error(path, kind)
        with _open_locked(path, kind) as lock:
            content = read(path)
            good = content.good_bytes
            sealed = read_bytes(path / kind.sealed)[: good[kind.sealed]]
            folder = cls(path, kind, lock, sealed)
            for name, size in good.items():
                folder._files[name].truncate(size)
            folder._write_seal()
            return folder, content

    def append(self, name: str, documents: Iterable[Any]) -> None:
        """Append documents as lines to a file that grows, and flush them to the disk.

        Stopped if the disk is full; earlier lines are kept; EtuiError if the folder cannot be
        written.
        """
        lines = b"".join(json.dumps(document).encode() + b"\n" for document in documents)
        with explain_write_errors(self.path, self._kind):
            append_whole(self._files[name], lines)
            if name == self._kind.sealed:
                self._digest.update(lines)
                self._bytes += len(lines)
                self._write_seal()

    def replace_config(self, config: Mapping[str, Any]) -> None:
        """Replace the document of ``config.json``."""
        with explain_write_errors(self.path, self._kind):
            _write_config(self.path, config)

    def write(self, name: str, text: str) -> None:
        """Write one of the other files atomically."""
        with explain_write_errors(self.path, self._kind):
            write_text(self.path / name, text, errors="surrogatepass")

    def close(self) -> None:
        """Close the files and release the lock."""
        for file in self._files.values():
            file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_seal(self) -> None:
        seal = {"bytes": self._bytes, "sha256": self._digest.hexdigest()}
        write_text(self.path / self._kind.seal, json.dumps(seal) + "\n", sync=False)


@dataclass(frozen=True, slots=True)
class FileLines(Generic[T]):
    """The complete lines of a file."""

    values: tuple[T, ...]
    good_bytes: int  # Their length; what follows was cut off while it was written
    raw: bytes


def read_lines(path: Path, parse: Callable[[Any], T], what: str, fix: str) -> FileLines[T]:
    """Read a file of JSON lines; one that does not exist has none.

    InvalidFile if the file cannot be read, or a line is not valid.

    Args:
        parse: Builds a value from a document; raises ValueError, KeyError or TypeError.
        what: What a line should be, for messages: ``a valid answer``.
        fix: What to do about a line that is not.
    """
    raw = read_bytes(path)
    values: list[T] = []
    good = 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            values.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidFile(f"{path}:{number}: not {what}: {error}", fix) from error
        good += len(line)
    return FileLines(tuple(values), good, raw)


def read_bytes(path: Path) -> bytes:
    """Read a file; empty if it does not exist."""
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror or error}") from error


def append_line(path: Path, document: Any) -> None:
    """Append a document as a line to a file of its own, and flush it to the disk.

    A last line that was cut off is dropped first. OSError if the disk is full, or the file cannot
    be written.
    """
    with path.open("a+b", buffering=0) as file:
        file.seek(0)
        whole = file.read()
        if whole and not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)
        append_whole(file, json.dumps(document).encode() + b"\n")


def find_seal_problem(folder: Path, kind: FolderKind, raw: bytes) -> str:
    """Compare the results with their seal; lines after the sealed part come from a crash.

    Returns what was changed outside etui; empty if nothing.
    """
    path = folder / kind.seal
    if not path.exists():
        return "" if raw.count(b"\n") <= 1 else f"{path.name} is missing"
    try:
        seal = json.loads(path.read_text(encoding="utf-8"))
        sealed, digest = int(seal["bytes"]), str(seal["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} is damaged"
    if len(raw) < sealed or hashlib.sha256(raw[:sealed]).hexdigest() != digest:
        return f"{kind.sealed} differs from what etui wrote"
    return ""


def check_new(folder: Path, kind: FolderKind) -> None:
    """Check that a new experiment can use this folder.

    UsageError if the path is a file, or the folder is not empty.
    """
    if (folder / CONFIG).exists():
        raise UsageError(
            f"{folder} already contains a {kind.noun}",
            f"resume it with: {kind.command} --resume {folder}",
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "use a new folder with --out")
    if folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise UsageError(f"{folder} is not empty", "use a new folder with --out")


def wrong_folder_error(folder: Path, kind: FolderKind) -> UsageError:
    """Build the error of a folder that has no experiment of this kind."""
    return UsageError(f"{folder} is not a {kind.noun} folder: it has no {CONFIG}", kind.start)


def make_id(what: str, now: datetime) -> str:
    """Make the name of a folder from the time, what is in it, and a random part."""
    stem = f"{now:%Y%m%d-%H%M%S}-{what}-{secrets.token_hex(2)}"
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in stem)


def list_folders(place: Path) -> tuple[Path, ...]:
    """List the folders in a place that have a configuration, the oldest first."""
    return tuple(sorted(path.parent for path in place.glob(f"*/{CONFIG}")))


def find_folder(text: str, place: Path, noun: str) -> Path:
    """Find a folder by its path, its name or a prefix of it; ``last`` is the newest.

    ``noun`` is what is in each, such as ``run``. UsageError if none matches, or several do.
    """
    given = Path(text).expanduser()
    if text and (given / CONFIG).is_file():
        return given
    known = [folder.name for folder in list_folders(place)]
    if text == "last" and known:
        return place / known[-1]
    found = [name for name in known if text and name.startswith(text)]
    if len(found) == 1:
        return place / found[0]
    if found:
        raise UsageError(
            f"{len(found)} {noun}s start with {text!r}", f"use one of: {', '.join(found)}"
        )
    newest = f"; the newest is {known[-1]}" if known else ", and there are none"
    raise UsageError(f"there is no {noun} {text!r}", f"{noun}s are in {place}{newest}")


@contextmanager
def explain_write_errors(folder: Path, kind: FolderKind) -> Iterator[None]:
    """Name the folder and what to do where the body cannot write to it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Stopped(
                f"the disk of {folder} is full",
                f"free some space, then: {kind.command} --resume {folder}",
            ) from error
        raise EtuiError(
            f"cannot write to {folder}: {error.strerror or error}", "use another folder with --out"
        ) from error


@contextmanager
def _open_locked(folder: Path, kind: FolderKind) -> Iterator[FileLock]:
    """Make and lock a folder while it is opened; the lock is kept unless the body fails."""
    from filelock import FileLock, Timeout

    with explain_write_errors(folder, kind):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise EtuiError(
                f"another etui is writing to {folder}", "wait until it ends, or use another --out"
            ) from error
        try:
            yield lock
        except BaseException:
            lock.release()
            raise


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    write_text(folder / CONFIG, text, errors="surrogatepass")


def compare_documents(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return path -> both values, where two documents differ."""
    found: dict[str, tuple[Any, Any]] = {}
    _compare("", one, other, found)
    return {path.removeprefix("."): values for path, values in found.items()}


def _compare(path: str, one: Any, other: Any, found: dict[str, tuple[Any, Any]]) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other) and sorted(one) == sorted(other):
            found[f"{path} (order)"] = (list(one), list(other))
        for key in [*one, *(key for key in other if key not in one)]:
            _compare(f"{path}.{key}", one.get(key), other.get(key), found)
    elif json.loads(json.dumps(one)) != json.loads(json.dumps(other)):
        found[path] = (one, other)


def join_differences(
    found: Mapping[str, tuple[Any, Any]], form: str = "{path} was {one} and is now {other}"
) -> str:
    """Join the first differences of two documents, each in a form with its path and values."""
    return "; ".join(
        form.format(path=path, one=format_value(one), other=format_value(other))
        for path, (one, other) in list(found.items())[:6]
    )


def format_value(value: Any, most: int = 60) -> str:
    """Format a value of a document as JSON of at most so many characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else f"{text[: most - 3]}..."
