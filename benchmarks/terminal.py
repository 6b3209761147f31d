"""A program in a pseudo-terminal, for the benchmarks of the app."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pexpect

from etui.config.config import load_config

PATIENCE_SECONDS = 120


class Terminal:
    """A program in a pseudo-terminal whose output is read all the time."""

    def __init__(
        self,
        command: list[str],
        home: Path,
        size: tuple[int, int] = (36, 120),
        checkout: Path | None = None,
    ) -> None:
        environment = {
            **os.environ,
            "ETUI_HOME": str(home),
            "ETUI_MODELS": str(load_config().models_dir),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
        }
        environment.pop("NO_COLOR", None)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, as installed
        if checkout is not None:
            environment["PYTHONPATH"] = str(checkout.resolve())
        self._seen = bytearray()
        self._more = threading.Condition()
        self.started = time.perf_counter()
        self._app = cast(Any, pexpect).spawn(
            command[0], command[1:], env=environment, dimensions=size, cwd=str(home)
        )
        self._app.delaybeforesend = None
        self._app.ptyproc.delayafterterminate = 0.5  # a busy machine takes a while to end it
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Process number of the program."""
        return int(self._app.pid)

    @property
    def written_bytes(self) -> int:
        """Number of bytes that the program has written so far."""
        with self._more:
            return len(self._seen)

    def send(self, text: str) -> int:
        """Type something; returns how much was on the terminal before it."""
        with self._more:
            before = len(self._seen)
        self._app.send(text)
        return before

    def wait(self, text: str, after: int = 0) -> float:
        """Wait until the program has written something; returns when."""
        wanted = text.encode()
        deadline = time.perf_counter() + PATIENCE_SECONDS
        with self._more:
            while self._seen.find(wanted, max(0, after - len(wanted))) < 0:
                if not self._more.wait(deadline - time.perf_counter()):
                    raise SystemExit(f"{text!r} never came")
        return time.perf_counter()

    def wait_for(self, pattern: str, after: int = 0) -> float:
        """Wait until the program has written what a regular expression matches; returns when."""
        wanted = re.compile(pattern.encode())
        deadline = time.perf_counter() + PATIENCE_SECONDS
        with self._more:
            while wanted.search(self._seen, max(0, after - 40)) is None:
                if not self._more.wait(deadline - time.perf_counter()):
                    raise SystemExit(f"{pattern!r} never came")
        return time.perf_counter()

    def has(self, pattern: str, after: int = 0) -> bool:
        """Return whether the program has written what a regular expression matches."""
        with self._more:
            return re.compile(pattern.encode()).search(self._seen, max(0, after - 40)) is not None

    def close(self) -> None:
        """End the program."""
        self._app.close(force=True)

    def _read(self) -> None:
        while True:
            try:
                data = self._app.read_nonblocking(65536, None)
            except (pexpect.EOF, OSError, ValueError):
                return
            with self._more:
                self._seen += data
                self._more.notify_all()


@contextmanager
def terminal(*command: str, checkout: Path | None = None) -> Iterator[Terminal]:
    """A program in a terminal, with a home of its own, where it starts.

    Args:
        command: Arguments of Python.
        checkout: Folder of another etui to import; None for this one.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        here = checkout or Path(__file__).parent.parent
        made = Terminal([sys.executable, *command], Path(home), checkout=here)
        try:
            yield made
        finally:
            made.close()
