"""Restore power limits when the process that changed them is killed: a script, run beside it.

It reads a pipe of that process: a byte releases it, the end without one means a death. Run by a
Python without ``site``, it has imported nothing but what is imported here while it waits, sleeps in
the kernel and takes 9 MB.
"""

from __future__ import annotations

import os
import sys

_MOST_SECONDS = 10.0
"""A process that is killed with much memory takes a while until it has ended."""


def restore(home: str, sysfs: str) -> None:
    """Restore what the journal in a home has, once its owner has ended; say so on stderr."""
    import time
    from dataclasses import replace
    from pathlib import Path

    from etui.config.config import find_folders

    config = replace(find_folders(), home=Path(home), sysfs_dir=Path(sysfs))
    until = time.monotonic() + _MOST_SECONDS
    while os.path.exists(config.power_limits_file) and time.monotonic() < until:
        from etui.energy.power_limits.hold import restore_left_over

        lines = restore_left_over(config)
        if lines:
            os.write(2, "".join(f"etui: {line}\n" for line in lines).encode("utf-8", "replace"))
            return
        time.sleep(0.05)  # its owner has not quite ended, or another etui restores them


if __name__ == "__main__":
    _, home_dir, sysfs_dir, *sys.path = sys.argv
    if not os.read(0, 1):
        restore(home_dir, sysfs_dir)
