"""The tier of KV caches on disk: one file a sequence, never trusted unless every byte is right.

A file has a magic number, the length and the SHA-256 of its header, the header, and the state of
llama.cpp, whose SHA-256 is in the header. It is checked before llama.cpp sees a byte of it; one
that is damaged, cut off or of another context is deleted, and its tokens are computed again.
Several processes may use the folder: files appear under their name when they are complete, and
never change.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import time
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from etui import atomic
from etui.engine.checkpoints import Checkpoint
from etui.engine.kv_store import (
    DISK_HALF_LIFE_S,
    MEMORY_SHARE,
    KvStore,
    SavedSequence,
    new_buffer,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.config.config import Config

_log = logging.getLogger("etui.engine")

FORMAT = 2
"""Version of the files; it is a part of every key, so that those of another version never fit."""

LEAST_FILE_TOKENS = 128
"""Fewer tokens are computed again after a restart."""

_MAGIC = b"etui-kv\x01"
_PREAMBLE = struct.Struct("<8sI32s")  # magic, bytes of the header, its SHA-256
_MOST_HEADER_BYTES = 64 << 20
_SUFFIX = ".kv"
_DELETED = "deleted"
"""File with the turns whose sequences must not be written: other processes may still have them."""
_UNREPORTED = "unreported"
"""File with the nanoseconds of saving that are in no turn yet."""
_MOST_DELETED_BYTES = 256 << 10
_STALE_SECONDS = 600.0
"""Age at which a temporary file belongs to a process that was killed."""


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says of the state behind it."""

    key: str
    owner: str
    label: str
    tokens: bytes  # 32-bit little-endian integers
    rest: tuple[int, ...]
    whole: bool
    joules: float
    size_bytes: int
    sha256: bytes
    parts: tuple[tuple[int, int], ...] = ()
    """Length and bytes of each checkpoint; they follow the state, and ``size_bytes`` counts them.
    """


class KvFolder:
    """The files of all models of a user.

    Args:
        budget_bytes: The most bytes of all files together; a tenth of the free disk if that is
            less.
    """

    def __init__(self, path: Path, budget_bytes: int) -> None:
        self.path = path
        self._budget_bytes = budget_bytes
        self._known: dict[str, SavedSequence] = {}
        self._seen: tuple[int, list[str]] | None = None
        self._failed = False

    def find(self, key: str, owner: str) -> list[SavedSequence]:
        """List the sequences of an owner that fit a context."""
        start = _name(key, owner)
        found = [self._read_known(name) for name in self._names() if name.startswith(start)]
        return [
            each for each in found if each is not None and (each.key, each.owner) == (key, owner)
        ]

    def read(self, saved: SavedSequence) -> tuple[NDArray[np.uint8], tuple[Checkpoint, ...]] | None:
        """Read a state with its checkpoints; None if its file is gone, or damaged and deleted."""
        if saved.path is None:  # it made room for another one meanwhile
            return None
        try:
            with saved.path.open("rb") as file:
                header, _ = _read_header(file)
                state = new_buffer(header.size_bytes)
                size = file.readinto(state.data)
            if (
                size < header.size_bytes
                or (header.key, header.owner) != (saved.key, saved.owner)
                or header.tokens != _pack(saved.tokens)
                or hashlib.sha256(state.data).digest() != header.sha256
            ):
                raise ValueError("another content than its header says")
        except FileNotFoundError:
            self._known.pop(saved.path.name, None)
            return None
        except (OSError, ValueError):
            self.remove(saved)
            return None
        except MemoryError:
            return None
        with suppress(OSError):
            os.utime(saved.path)  # when it was used last
        end, parts = state.size, list[Checkpoint]()
        for length, size in reversed(header.parts):
            parts.insert(0, Checkpoint(length, state[end - size : end]))
            end -= size
        return state[:end], tuple(parts)

    def write(self, saved: SavedSequence) -> bool:
        """Write a sequence that is in memory; False without room, or if the disk refuses it.

        A short one is not worth a file, and one of no turn could not be deleted with its chat.
        """
        assert saved.state is not None
        if len(saved.tokens) < LEAST_FILE_TOKENS or not saved.label:
            return False
        content = hashlib.sha256(saved.state.data)
        for part in saved.parts:
            content.update(part.data.data)
        header = msgspec.msgpack.encode(
            _Header(
                saved.key,
                saved.owner,
                saved.label,
                _pack(saved.tokens),
                saved.rest,
                saved.whole,
                saved.joules,
                saved.size_bytes,
                content.digest(),
                tuple((part.length, part.data.nbytes) for part in saved.parts),
            )
        )
        preamble = _PREAMBLE.pack(_MAGIC, len(header), hashlib.sha256(header).digest())
        path = self.path / f"{_name(saved.key, saved.owner)}{os.urandom(6).hex()}{_SUFFIX}"
        try:
            make_private(self.path)
            if saved.label in self._read_deleted() or not self._make_room(saved, len(header)):
                return False
            # Without a flush to the disk: a file that a power cut has torn is not right, and goes.
            states = [saved.state.data, *(part.data.data for part in saved.parts)]
            atomic.write_parts(path, [preamble, header, *states], sync=False, private=True)
            self._seen = None  # the time of the folder need not change within a few milliseconds
        except OSError as error:
            self._note(error)
            return False
        for each in self.find(saved.key, saved.owner):
            if each.path != path and saved.covers(each):
                self.remove(each)
        saved.path = path
        return True

    def remove(self, saved: SavedSequence) -> None:
        """Delete the file of a sequence."""
        if saved.path is not None:
            self._known.pop(saved.path.name, None)
            with suppress(OSError):
                saved.path.unlink()
            saved.path = self._seen = None

    def forget(self, labels: Collection[str]) -> int:
        """Delete the sequences of turns, now and in processes that still have them in memory.

        Returns the number of deleted files; OSError if the folder cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            return 0
        make_private(self.path)
        self._mark_deleted(labels)
        found = [each for each in self._read_all() if each.label in labels]
        for each in found:
            self.remove(each)
        return len(found)

    def clear(self) -> int:
        """Delete every file, and return how many there were."""
        names = self._names()
        for name in names:
            with suppress(OSError):
                (self.path / name).unlink()
        self._known.clear()
        self._seen = None
        return len(names)

    def add_unreported(self, keep_ns: int) -> None:
        """Leave the time spent on saving, which no answer of this process reports, to the next."""
        with suppress(OSError):
            make_private(self.path)
            total = str(self.take_unreported() + keep_ns).encode()
            atomic.write_parts(self.path / _UNREPORTED, (total,), sync=False, private=True)

    def take_unreported(self) -> int:
        """Take the nanoseconds that processes before this one have left."""
        path = self.path / _UNREPORTED
        try:
            keep_ns = int(path.read_text("utf-8"))
            path.unlink()
        except (OSError, ValueError):
            return 0
        return max(0, keep_ns)

    def _names(self) -> list[str]:
        """List the names of the files; the folder is read again if it has changed."""
        try:
            changed_ns = self.path.stat().st_mtime_ns
            if self._seen is None or self._seen[0] != changed_ns:
                names = sorted(os.listdir(self.path))
                self._remove_stale(name for name in names if name.endswith(".tmp"))
                self._seen = changed_ns, [name for name in names if name.endswith(_SUFFIX)]
        except OSError:
            return []
        return self._seen[1]

    def _remove_stale(self, names: Iterator[str]) -> None:
        """Remove what processes that were killed have left."""
        for name in names:
            with suppress(OSError):
                if time.time() - (self.path / name).stat().st_mtime > _STALE_SECONDS:
                    (self.path / name).unlink()

    def _read_known(self, name: str) -> SavedSequence | None:
        """Return what a file says of itself; None if it is damaged, which deletes it."""
        if name in self._known:
            return self._known[name]
        path = self.path / name
        try:
            with path.open("rb") as file:
                header, offset = _read_header(file)
                stat = os.fstat(file.fileno())
            if stat.st_size != offset + header.size_bytes:
                raise ValueError("another length than its header says")
            if not name.startswith(_name(header.key, header.owner)):
                raise ValueError("another name than its header says")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            with suppress(OSError):
                path.unlink()
            return None
        saved = self._known[name] = SavedSequence(
            header.key,
            header.owner,
            header.label,
            _unpack(header.tokens),
            header.rest,
            header.whole,
            header.joules,
            header.size_bytes,
            stat.st_mtime,
            path=path,
            lengths=tuple(length for length, _ in header.parts),
        )
        return saved

    def _read_all(self) -> list[SavedSequence]:
        return [each for name in self._names() if (each := self._read_known(name)) is not None]

    def _make_room(self, saved: SavedSequence, header_bytes: int) -> bool:
        """Delete what is worth less than a sequence until it fits; False if it does not."""
        sizes: dict[str, int] = {}
        for name in self._names():
            with suppress(OSError):
                sizes[name] = (self.path / name).stat().st_size
        held, needed = sum(sizes.values()), saved.size_bytes + header_bytes + _PREAMBLE.size
        free = shutil.disk_usage(self.path).free
        budget = min(self._budget_bytes, (free + held) // MEMORY_SHARE)
        excess = held + needed - budget
        if excess <= 0:
            return True
        now = time.time()
        own = saved.worth(now, DISK_HALF_LIFE_S)
        leaving = []
        for each in sorted(self._read_all(), key=lambda each: each.worth(now, DISK_HALF_LIFE_S)):
            if excess <= 0 or (each.worth(now, DISK_HALF_LIFE_S) > own and not saved.covers(each)):
                break
            leaving.append(each)
            excess -= sizes.get(each.path.name, 0) if each.path is not None else 0
        if excess > 0:
            return False
        for each in leaving:
            self.remove(each)
        return True

    def _read_deleted(self) -> set[str]:
        try:
            return set((self.path / _DELETED).read_text("utf-8").split())
        except OSError:
            return set()

    def _mark_deleted(self, labels: Collection[str]) -> None:
        path = self.path / _DELETED
        lines = "".join(f"{label}\n" for label in labels)
        if path.is_file() and path.stat().st_size > _MOST_DELETED_BYTES:
            known = path.read_text("utf-8").split()
            lines = "".join(f"{label}\n" for label in known[len(known) // 2 :]) + lines
            atomic.write_parts(path, (lines.encode(),), private=True)
            return
        with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(lines.encode())

    def _note(self, error: OSError) -> None:
        """Say once that the disk takes no caches; answers do without."""
        if not self._failed:
            self._failed = True
            _log.warning("KV caches are not kept on disk: %s", error.strerror or error)


def open_store(config: Config) -> KvStore | None:
    """Open the tiers of a user by the settings; None if they are switched off."""
    if config.cache == "off":
        return None

    def budget_bytes(held: int) -> int:
        import psutil

        return int(psutil.virtual_memory().available + held) // MEMORY_SHARE

    folder = KvFolder(config.kv_dir, int(config.cache_disk_gb * 1e9))
    return KvStore(budget_bytes, folder if config.cache_disk_gb else None)


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can read."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _name(key: str, owner: str) -> str:
    return f"{key[:16]}-{hashlib.sha256(owner.encode('utf-8', 'replace')).hexdigest()[:8]}-"


def _read_header(file: BinaryIO) -> tuple[_Header, int]:
    """Read and check a header; return it with the offset of the state, which is read next.

    ValueError if it is damaged, or of another kind of file; OSError if it cannot be read.
    """
    preamble = file.read(_PREAMBLE.size)
    if len(preamble) < _PREAMBLE.size:
        raise ValueError("too short")
    magic, length, digest = _PREAMBLE.unpack(preamble)
    if magic != _MAGIC or length > _MOST_HEADER_BYTES:
        raise ValueError("no file of this version")
    raw = file.read(length)
    if hashlib.sha256(raw).digest() != digest:
        raise ValueError("a damaged header")
    # msgspec raises a ValueError, too.
    return msgspec.msgpack.decode(raw, type=_Header), _PREAMBLE.size + length


def _pack(tokens: array[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)


def _unpack(raw: bytes) -> array[int]:
    return array("i", struct.unpack(f"<{len(raw) // 4}i", raw))
