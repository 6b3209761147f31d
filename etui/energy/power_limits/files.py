"""Access to the files of power limits in sysfs, microwatts."""

from __future__ import annotations

import os
from pathlib import Path

from etui.energy.power_limits.types import WriteRefused
from etui.energy.sources.sysfs import int_or_none

_DENIED = "permission denied"


def is_root() -> bool:
    """Return whether etui runs as root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


class LimitFiles:
    """Reads and writes limits in sysfs; a test replaces it by one that rounds or refuses."""

    def can_write(self, path: Path) -> bool:
        """Return whether this process may write a file."""
        if os.access in os.supports_effective_ids:
            return os.access(path, os.W_OK, effective_ids=True)
        return os.access(path, os.W_OK)

    def write(self, path: Path, microwatts: int) -> None:
        """Write a number in one call, as sysfs needs it.

        Raises:
            WriteRefused: The kernel refused; ``denied`` if a permission is missing.
        """
        try:
            handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(handle, f"{microwatts}\n".encode("ascii"))
            finally:
                os.close(handle)
        except PermissionError as error:
            raise WriteRefused(_DENIED, denied=True) from error
        except OSError as error:
            raise WriteRefused((error.strerror or str(error)).lower()) from error


def read_watts(path: Path) -> float | None:
    """Read a file in microwatts as watts; None if it cannot be read or is negative."""
    value = int_or_none(path)
    return value / 1e6 if value is not None and value >= 0 else None


def read_positive_watts(path: Path) -> float | None:
    """Read a file in microwatts as watts; None if it states nothing (0)."""
    return read_watts(path) or None


def to_microwatts(watts: float) -> int:
    """Convert watts to whole microwatts."""
    return round(watts * 1e6)


def format_tee(microwatts: int, paths: list[Path]) -> str:
    """Return the command with which a user writes a number into files as root."""
    return f"echo {microwatts} | sudo tee {' '.join(str(path) for path in paths)}"
