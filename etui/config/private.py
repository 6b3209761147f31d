"""Keep the folder and the log of the user from other users of the machine."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from etui.config.config import Config

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SHARED = stat.S_ISVTX | stat.S_ISGID | stat.S_ISUID
"""Bits by which a folder is meant for several users, such as /tmp."""

_FOLDERS = frozenset(
    {
        *("cache", "calibrations", "data", "designs", "engines", "exports"),
        *("logs", "models", "policies", "prompts", "runs", "sweeps"),
    }
)
"""The folders that etui makes in its own."""


def tighten(config: Config) -> tuple[str, ...]:
    """Make a home of before 0.1, and its log, accessible for the user alone; return what was done.

    A folder that etui did not make for itself is left as it is: one of another user or group, one
    that is meant for several users, one with folders of others, and the user's home.
    """
    if os.name != "posix" or not config.database.exists():
        return ()
    home, log = config.home, config.database
    with suppress(OSError):
        if _is_open(home) and _is_own(home):
            home.chmod(0o700)
    opened = False
    for path in (log, *(log.with_name(log.name + end) for end in ("-wal", "-shm"))):
        with suppress(OSError):
            if _is_open(path):
                path.chmod(0o600)
                opened |= path == log
    return (f"other users could read {log}; now only you can",) if opened else ()


def _is_open(path: Path) -> bool:
    """Return whether others have access to what the user alone owns."""
    found = path.lstat()
    mode = found.st_mode
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()) or mode & _SHARED:
        return False
    return bool(mode & _OTHERS) and (stat.S_ISDIR(mode) or stat.S_ISREG(mode))


def _is_own(home: Path) -> bool:
    """Return whether etui made a folder for itself."""
    users = Path.home()
    if home == users or home in users.parents or not (home / "logs").is_dir():
        return False
    with os.scandir(home) as entries:
        return all(entry.name in _FOLDERS or not entry.is_dir() for entry in entries)
