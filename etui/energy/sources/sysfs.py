"""Single values below a sysfs root, with the reason when one cannot be read."""

from __future__ import annotations

import errno
from pathlib import Path

_WHY = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file",
    errno.ENODEV: "the device is gone",
    errno.ENXIO: "the device is gone",
    errno.EBUSY: "the device is asleep",
    errno.EIO: "input/output error",
}


class SysfsError(Exception):
    """A file that cannot be read or does not hold the expected value."""

    def __init__(self, why: str, *, denied: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.denied = denied


def read_text(path: Path) -> str:
    """Read the text of a small file, without surrounding white space.

    Raises:
        SysfsError: The file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = file.read(4096)
    except OSError as error:
        number = error.errno or 0
        why = _WHY.get(number, (error.strerror or str(error)).lower())
        raise SysfsError(why, denied=number in (errno.EACCES, errno.EPERM)) from error
    return data.decode("ascii", errors="replace").strip()


def read_int(path: Path) -> int:
    """Read the whole number in a file.

    Raises:
        SysfsError: The file cannot be read, or does not hold a whole number.
    """
    text = read_text(path)
    try:
        return int(text)
    except ValueError:
        raise SysfsError(f"not a number: {text[:40]!r}") from None


def text_or(path: Path, default: str = "") -> str:
    """Read the text of a file, or return a default when it cannot be read."""
    try:
        return read_text(path)
    except SysfsError:
        return default


def int_or_none(path: Path) -> int | None:
    """Read the whole number in a file; return None when it cannot be read."""
    try:
        return read_int(path)
    except SysfsError:
        return None


def entries(folder: Path) -> list[Path]:
    """List the entries of a folder, sorted by name; empty when it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
