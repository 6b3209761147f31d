"""How long the machine was suspended: a monotonic clock that stops meanwhile does not show it."""

from __future__ import annotations

import sys
import time


def read_suspended_ns() -> int:
    """Return the time that the machine has been suspended; only differences are meaningful.

    Linux has a clock that continues during a suspend. Elsewhere the wall clock has to do, which
    also jumps when it is set.
    """
    if sys.platform == "linux":
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return time.time_ns() - time.monotonic_ns()
