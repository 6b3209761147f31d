"""Atomic file writes: a crash leaves the old content or the new content, never a part of it."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

_NEW_FILE, _PRIVATE = 0o666, 0o600
"""Permissions before the umask: the default of ``open``, and owner only."""
_NAME_CHARACTERS = 40
"""Characters of the target's name in the temporary name; file systems limit its length."""

_PAUSES = (0.01, 0.03, 0.1, 0.3)
"""Waits for other programs, such as virus scanners, to close a file on Windows, in seconds."""


def write_text(
    path: Path,
    text: str,
    *,
    errors: str = "strict",
    sync: bool = True,
    like: Path | None = None,
    private: bool = False,
) -> None:
    """Write a text atomically as UTF-8, without translating line ends.

    Args:
        errors: What to do with lone surrogates, as in ``str.encode``.
        sync: Whether to flush the content to the disk before the file takes its place.
        like: A file whose permissions are copied; None uses the default permissions.
        private: Whether only the owner may read and write it.

    Raises:
        OSError: The file cannot be written; the old content is kept.
    """
    write_bytes(path, text.encode("utf-8", errors), sync=sync, like=like, private=private)


def write_bytes(
    path: Path,
    content: bytes,
    *,
    sync: bool = True,
    like: Path | None = None,
    private: bool = False,
) -> None:
    """Write bytes as :func:`write_text`; a device or a pipe, such as /dev/null, is not replaced."""
    if _is_special(path):
        with open(path, "wb") as file:
            file.write(content)
        return
    write_parts(path, (content,), sync=sync, like=like, private=private)


def write_parts(
    path: Path,
    parts: Iterable[bytes | memoryview],
    *,
    sync: bool = True,
    like: Path | None = None,
    private: bool = False,
) -> None:
    """Write parts one after the other into a file, as :func:`write_text`."""
    # A random name: two processes writing the same file must not share a temporary file.
    pending = path.with_name(f".{path.name[:_NAME_CHARACTERS]}.{os.urandom(4).hex()}.tmp")
    # Owner only until the permissions of `like` are copied: the content may be private.
    mode = _NEW_FILE if like is None and not private else _PRIVATE
    try:
        with open(pending, "xb", opener=partial(os.open, mode=mode)) as file:
            for part in parts:
                file.write(part)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if like is not None:
            import shutil  # which loads compressors

            shutil.copymode(like, pending)
        _replace(pending, path)
    except BaseException as error:
        with suppress(OSError):
            pending.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(pending):
            error.filename = str(path)  # messages name the target, not the temporary file
        raise


def append_whole(file: IO[bytes], data: bytes) -> None:
    """Append to an unbuffered file and flush it; after an OSError it ends where it ended before.

    A full disk may take a part of a line, which could not be parsed.
    """
    before = file.seek(0, os.SEEK_END)
    try:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # else the partial line is left to the next reader
            file.truncate(before)
        raise


def open_private(path: str, flags: int) -> int:
    """Open a file as ``opener`` of ``open``; a new one is for its owner alone."""
    return os.open(path, flags, _PRIVATE)


def _replace(pending: Path, path: Path) -> None:
    """Rename a file; Windows refuses that while another program reads the old one."""
    for pause in _PAUSES if sys.platform == "win32" else ():
        try:
            os.replace(pending, path)
            return
        except PermissionError:
            time.sleep(pause)
    os.replace(pending, path)


def _is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket, as /dev/stdout may be."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
