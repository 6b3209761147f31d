"""Keep the memory of a process that serves for days where it is."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
"""``M_ARENA_MAX`` of glibc's ``malloc.h``."""


def share_heap() -> None:
    """Let all threads of this process allocate from one heap; call it before they start.

    By default glibc gives the threads up to eight heaps a core. Each request has a thread of its
    own for a while, so that every heap grows to the size of the busiest moment and keeps it. Python
    runs one thread at a time anyway. Other C libraries have no such setting.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
