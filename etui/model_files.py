"""Model files as bytes on a disk: their sha256, the record of it, and the room they need."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from etui.atomic import write_text
from etui.codec.documents import from_document, to_document
from etui.errors import DownloadFailed

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file was when it was last hashed; kept as ``<name>.gguf.json`` beside the models.

    Attributes:
        path: The hashed file.
        size_bytes, mtime_ns: Its size and modification time then.
        sha256: Hash of the whole file.
        pinned: Whether the hash is the hub's own, so that a file with another one is refused.
        source: Where the file was pulled from; empty for a file that was put there by hand.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str
    pinned: bool = False
    source: str = ""

    @classmethod
    def of(
        cls,
        path: Path,
        stat: os.stat_result,
        sha256: str,
        *,
        pinned: bool = False,
        source: str = "",
    ) -> FileRecord:
        """The record of a file; ``stat`` is from before it was hashed."""
        return cls(str(path), stat.st_size, stat.st_mtime_ns, sha256, pinned, source)

    def describes(self, path: Path) -> bool:
        """Whether the file is there and unchanged, by path, size and modification time."""
        try:
            stat = path.stat()
        except OSError:
            return False
        now = (str(path), stat.st_size, stat.st_mtime_ns)
        return now == (self.path, self.size_bytes, self.mtime_ns)


def record_path(name: str, models_dir: Path) -> Path:
    """Where the record of the model called ``name`` lies."""
    return models_dir / f"{name}.gguf.json"


def read_record(name: str, models_dir: Path) -> FileRecord | None:
    """The record, or None where there is none that can be read: then the file is hashed again."""
    try:
        data = json.loads(record_path(name, models_dir).read_text("utf-8"))
        return from_document(FileRecord, data)
    except (OSError, ValueError):  # DocumentError and JSONDecodeError are ValueErrors
        return None


def write_record(name: str, models_dir: Path, record: FileRecord) -> None:
    """Keep the record, in one step; a folder that cannot be written only costs another hashing."""
    with suppress(OSError):
        write_text(record_path(name, models_dir), json.dumps(to_document(record), indent=1) + "\n")


def hash_file(path: Path, report: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file in lower-case hex; ``report`` gets the bytes hashed so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if report is not None:
                report(done)
    return digest.hexdigest()


def check_space(folder: Path, needed_bytes: int) -> None:
    """Make sure that ``needed_bytes`` more fit into ``folder``.

    Raises:
        DownloadFailed: They do not.
    """
    from etui.units import bytes_text

    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DownloadFailed(
            f"not enough room in {folder}: {bytes_text(needed_bytes)} are needed and "
            f"{bytes_text(free)} are free",
            "free some room, or set ETUI_MODELS to a folder on another disk",
        )
