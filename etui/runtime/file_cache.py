"""Keep what was read from files, as long as none of the files has changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

FileState = tuple[int, int, int, int] | None
"""Modification time and change time in ns, size, inode; None without a file."""

_RACY_NS = 2_000_000_000
"""A file that changed so shortly before it was read may change again within the resolution of its
times (2 s on FAT) without another state."""


def read_state(path: str) -> FileState:
    """Read the state of a file or folder; a folder changes when a name in it comes or goes."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    value: T
    states: tuple[tuple[str, FileState], ...]
    since: Hashable


class FileCache(Generic[T]):
    """Values by key, each with the files that it was read from; safe to use from several threads.

    A value is read again if a file has another state than when it was read, and while a file is so
    new that a further change could leave no trace.

    Args:
        now_ns: The time of the file system, nanoseconds since 1970.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry[T]] = {}

    def get(
        self,
        key: Hashable,
        read: Callable[[], T],
        list_files: Callable[[T], Iterable[str]],
        since: Hashable = None,
    ) -> T:
        """Return a value, from memory if it is still what a new reading would give.

        Args:
            read: Reads it; its errors are passed on and not kept.
            list_files: Lists the files and folders that the value depends on.
            since: What else it depends on; another one than before reads it again.
        """
        entry = self._entries.get(key)
        if (
            entry is not None
            and entry.since is since
            and all(read_state(path) == state for path, state in entry.states)
        ):
            return entry.value
        began_ns = self._now_ns()
        value = read()
        states = tuple((path, read_state(path)) for path in dict.fromkeys(list_files(value)))
        newest_ns = max((max(state[:2]) for _, state in states if state is not None), default=0)
        with self._lock:
            if newest_ns < began_ns - _RACY_NS:
                self._entries[key] = _Entry(value, states, since)
            else:
                self._entries.pop(key, None)
        return value
