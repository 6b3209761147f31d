"""Ways out that nobody chose: a polite kill, and a terminal that is gone."""

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
    """On SIGHUP call ``save`` and end the process; nobody is left to draw for.

    A terminal that is gone takes no output, so the event loop may be stuck writing to it: a thread
    saves, and the process ends without tidying the screen.
    """

    def end() -> None:
        with suppress(EtuiError):
            save()
        os._exit(ExitCode.PARTIAL)

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda _number, _frame: threading.Thread(target=end).start())
