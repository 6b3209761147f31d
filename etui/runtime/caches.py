"""Keep what was read from files and from the log, as long as they have not changed."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from etui.errors import LogUnavailable

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.queries import LogReader

T = TypeVar("T")

FileState = tuple[int, int, int, int] | None
"""Modification time and change time in ns, size, inode; None without a file."""

_RACY_NS = 2_000_000_000
"""A file that changed so shortly before it was read may change again within the resolution of its
times (2 s on FAT) without another state."""

_MOST_ENTRIES = 256

Version = tuple[tuple[int, int], int] | None
"""The file of the database, and SQLite's count of the changes by other connections."""


def read_state(path: str) -> FileState:
    """Read the state of a file or folder; a folder changes when a name in it comes or goes."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def read_log(
    config: Config, kept: LogCache | None, key: Hashable, read: Callable[[LogReader], T]
) -> T:
    """Read from the log: once for each state of it, or now where nothing is kept."""
    from etui.log.queries import LogReader

    if kept is not None:
        return kept.get(key, read)
    with LogReader(config) as log:
        return read(log)


class FileCache(Generic[T]):
    """Values by key, each with the files that it was read from; safe to use from several threads.

    A value is read again if a file has another state than when it was read, and while a file is so
    new that a further change could leave no trace.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._entries: dict[Hashable, tuple[T, tuple[tuple[str, FileState], ...], Hashable]] = {}

    def get(
        self,
        key: Hashable,
        read: Callable[[], T],
        list_files: Callable[[T], Iterable[str]],
        since: Hashable = None,
    ) -> T:
        """Return a value, from memory if it is still what a new reading would give.

        It depends on the listed files and folders, and on ``since``: another one reads it again.
        """
        if key in self._entries:
            value, states, known_since = self._entries[key]
            if known_since is since and all(read_state(path) == state for path, state in states):
                return value
        began_ns = self._now_ns()
        value = read()
        states = tuple((path, read_state(path)) for path in dict.fromkeys(list_files(value)))
        newest_ns = max((max(state[:2]) for _, state in states if state is not None), default=0)
        with self._lock:
            if newest_ns < began_ns - _RACY_NS:
                self._entries[key] = value, states, since
            else:
                self._entries.pop(key, None)
        return value


@dataclass(slots=True)
class _Entry:
    value: Any
    version: Version
    read: Callable[[LogReader], Any]
    used: bool = True


class LogCache:
    """Values that were read from the log, by key; safe to use from several threads.

    SQLite counts the changes that other connections have made (``PRAGMA data_version``), so that a
    value is never older than the log. With ``in_background``, a value may be as old as the last
    :meth:`renew`, which is called when the log has changed: a request then never waits for the log.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._reader: LogReader | None = None
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.in_background = False

    def get(self, key: Hashable, read: Callable[[LogReader], T]) -> T:
        """Return a value of the log; errors are passed on, and nothing is kept."""
        background = self.in_background and key in self._entries
        version = None if background else self._read_version()
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and (background or entry.version == version):
                entry.used = True
                self._entries.move_to_end(key)
                found: T = entry.value
                return found
        return self._read(key, read, version)

    def is_stale(self) -> bool:
        """Return whether the log has changed since a value was read; False if it is unreadable."""
        try:
            version = self._read_version()
        except LogUnavailable:
            return False
        with self._lock:
            return any(entry.version != version for entry in self._entries.values())

    def renew(self) -> None:
        """Read again what has changed; a log that cannot be read leaves the values as they are.

        A value that was not asked for since the last time is forgotten.
        """
        try:
            version = self._read_version()
            with self._lock:
                stale = [item for item in self._entries.items() if item[1].version != version]
                for key, entry in stale:
                    if not entry.used:
                        del self._entries[key]
            for key, entry in stale:
                if entry.used:
                    self._read(key, entry.read, version, used=False)
        except LogUnavailable:
            return

    def close(self) -> None:
        """Close the connection to the log; the next reading opens another one."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _read(
        self, key: Hashable, read: Callable[[LogReader], T], version: Version, *, used: bool = True
    ) -> T:
        value = read(self._open())
        with self._lock:
            self._entries[key] = _Entry(value, version, read, used)
            self._entries.move_to_end(key)
            while len(self._entries) > _MOST_ENTRIES:
                self._entries.popitem(last=False)
        return value

    def _open(self) -> LogReader:
        from etui.log.queries import LogReader

        with self._lock:
            if self._reader is None:
                self._reader = LogReader(self._config)
            return self._reader

    def _read_version(self) -> Version:
        """Return the version of the log; None without a log.

        It is read before the values, so that a change meanwhile only reads them once more.
        """
        reader = self._open()
        rows = reader.select("PRAGMA data_version")
        identity = reader.identity
        return (identity, int(rows[0][0])) if rows and identity is not None else None
