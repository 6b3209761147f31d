"""Write a file in one step: a crash leaves the old content or the new content, never a part."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path

_NEW_FILE, _PRIVATE = 0o666, 0o600
"""Permissions before the umask: those that ``open`` gives, and those for the owner alone."""

_NAME_CHARACTERS = 40
"""Characters of the name that the unfinished file bears, so that its own is not too long."""


def write_text(
    path: Path,
    text: str,
    *,
    errors: str = "strict",
    sync: bool = True,
    like: Path | None = None,
) -> None:
    """Write a text as UTF-8 in one step, its line ends as they are.

    Args:
        path: The file; an existing one is replaced.
        text: Its whole content.
        errors: What to do with lone surrogates, as in ``str.encode``.
        sync: Whether to flush the content to the disk before the file takes its place.
        like: A file whose permissions the new one takes; None takes those of any new file.

    Raises:
        OSError: It cannot be written; the old content is still there.
        UnicodeEncodeError: The text holds a lone surrogate and ``errors`` is ``strict``.
    """
    write_bytes(path, text.encode("utf-8", errors), sync=sync, like=like)


def write_bytes(path: Path, content: bytes, *, sync: bool = True, like: Path | None = None) -> None:
    """Write bytes in one step; the arguments are those of ``write_text``.

    Raises:
        OSError: They cannot be written; the old content is still there.
    """
    # A random name: two processes that write the same file must not share an unfinished one.
    pending = path.with_name(f".{path.name[:_NAME_CHARACTERS]}.{secrets.token_hex(4)}.tmp")
    # Until it has the permissions of `like`, only its owner reads it.
    mode = _NEW_FILE if like is None else _PRIVATE
    try:
        with open(pending, "xb", opener=partial(os.open, mode=mode)) as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if like is not None:
            shutil.copymode(like, pending)
        os.replace(pending, path)
    except BaseException as error:
        with suppress(OSError):
            pending.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(pending):
            error.filename = str(path)  # messages name the file that was asked for
        raise
