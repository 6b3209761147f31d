"""Single values below a sysfs root, with the reason when one cannot be read; its graphics cards."""

from __future__ import annotations

import errno
from dataclasses import dataclass
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
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")
"""VGA controller, 3D controller, other display controller."""


class SysfsError(Exception):
    """A file that cannot be read or does not hold the expected value."""

    def __init__(self, why: str, *, denied: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.denied = denied


def read_text(path: Path) -> str:
    """Read the text of a small file, without surrounding white space; SysfsError if it fails."""
    try:
        with path.open("rb", buffering=0) as file:
            data = file.read(4096)
    except OSError as error:
        number = error.errno or 0
        why = _WHY.get(number, (error.strerror or str(error)).lower())
        raise SysfsError(why, denied=number in (errno.EACCES, errno.EPERM)) from error
    return data.decode("ascii", errors="replace").strip()


def read_int(path: Path) -> int:
    """Read the whole number in a file; SysfsError if there is none."""
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


def read_micro(path: Path) -> float | None:
    """Read a value that is kept in millionths; None if it cannot be read or is negative."""
    value = int_or_none(path)
    return value / 1e6 if value is not None and value >= 0 else None


def read_positive(path: Path) -> float | None:
    """Read a value that is kept in millionths; None also where the file states nothing (0)."""
    return read_micro(path) or None


def entries(folder: Path) -> list[Path]:
    """List the entries of a folder, sorted by name; empty when it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class GraphicsCard:
    """A card on the bus, with or without a driver; ``path`` is its folder in sysfs."""

    vendor: str
    path: Path


def graphics_cards(sysfs_dir: Path) -> tuple[GraphicsCard, ...]:
    """List the cards of the vendors for which llama.cpp has a GPU backend, in bus order."""
    return tuple(
        GraphicsCard(_VENDORS[vendor], device)
        for device in entries(sysfs_dir / "bus" / "pci" / "devices")
        if (vendor := text_or(device / "vendor")) in _VENDORS
        and text_or(device / "class").startswith(_DISPLAY_CLASSES)
    )
