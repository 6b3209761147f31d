"""An id of the time since the machine was started, in which its monotonic clock runs on."""

from __future__ import annotations

import uuid
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id(file: Path = _BOOT_ID) -> str:
    """Return the id of this boot.

    Where the system has none, the id is a new one of this process: it also changes where the clock
    runs on, so that times are never compared across a reboot.

    Args:
        file: Where Linux keeps it.
    """
    try:
        return str(uuid.UUID(file.read_text().strip()))
    except (OSError, ValueError):
        return str(uuid.uuid4())
