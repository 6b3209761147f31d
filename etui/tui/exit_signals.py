"""Exits that the user did not request: SIGTERM and a lost terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from etui.errors import EtuiError, ExitCode


def leave_on_terminate(leave: Callable[[], object]) -> None:
    """Call ``leave`` on SIGTERM, from the running event loop."""
    # Windows has no such handler, and a loop outside the main thread takes none.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave)


def leave_on_hangup(save: Callable[[], object]) -> None:
    """Call ``save`` on SIGHUP and end the process without drawing again.

    A lost terminal accepts no output, so the event loop may be blocked in a write: a thread saves,
    and the process ends without restoring the screen.
    """

    def end() -> None:
        with suppress(EtuiError):
            save()
        os._exit(ExitCode.PARTIAL)

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda _number, _frame: threading.Thread(target=end).start())
