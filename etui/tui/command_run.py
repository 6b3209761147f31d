"""Run an etui command in a process of its own, follow its output, and stop it.

The app cannot measure by itself: drawing costs energy, and its engine process holds models. So
calibrations and sweeps run as commands, whose JSON lines are the progress.
"""

from __future__ import annotations

import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from etui.config.config import Config

_POLL_SECONDS = 0.1
"""Interval between checks for a request to stop, in seconds."""

STOP_SECONDS = 20.0
"""How long a stopped command may take to save its measurements, in seconds."""

_FORCE = "--force"


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended.

    Attributes:
        what, fix: The error that it printed; empty without one.
    """

    code: int
    what: str
    fix: str

    @property
    def may_force(self) -> bool:
        """Whether the command refused, and would go on with ``--force``."""
        return _FORCE in self.fix


def build_environment(config: Config) -> dict[str, str]:
    """Return an environment in which another etui uses the same folders."""
    return {
        **os.environ,
        "ETUI_HOME": str(config.home),
        "ETUI_MODELS": str(config.models_dir),
        "ETUI_SYSFS": str(config.sysfs_dir),
    }


def follow_command(
    arguments: Sequence[str],
    env: dict[str, str],
    on_line: Callable[[bytes], object],
    stopped: Callable[[], bool],
    on_stop: Callable[[], object],
    stop_seconds: float = STOP_SECONDS,
) -> CommandEnd:
    """Run a command until it ends; its process has ended at return.

    Args:
        on_line: Called with each line of stdout, up to a stop and after it.
        stopped: Returns whether to stop: the process gets SIGTERM.
        on_stop: Called once when it is stopped.
        stop_seconds: How long a stopped process may take before it is killed.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            arguments, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        try:
            lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            threading.Thread(target=_queue_lines, args=(process.stdout, lines), daemon=True).start()
            _read_lines(process, lines, on_line, stopped, on_stop, stop_seconds)
            code = process.wait(stop_seconds)
        finally:
            process.kill()  # it has ended already, or does not react to SIGTERM
            process.wait()
        errors.seek(0)
        what, fix = parse_error(errors.read().decode("utf-8", "replace"))
    return CommandEnd(code, what, fix)


def parse_error(stderr_text: str) -> tuple[str, str]:
    """Return the error and its fix: the last two lines that etui writes to stderr."""
    lines = stderr_text.strip().splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith("etui: ")]
    if not starts:
        return (lines[-1] if lines else ""), ""
    what, *fix = lines[starts[-1] :]
    return what.removeprefix("etui: "), " ".join(fix)


def _queue_lines(stdout: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with stdout:
        for line in stdout:
            lines.put(line)
    lines.put(None)


def _read_lines(
    process: subprocess.Popen[bytes],
    lines: queue.SimpleQueue[bytes | None],
    on_line: Callable[[bytes], object],
    stopped: Callable[[], bool],
    on_stop: Callable[[], object],
    stop_seconds: float,
) -> None:
    stop_sent_at: float | None = None
    while True:
        if stop_sent_at is None and stopped():
            stop_sent_at = time.monotonic()
            process.terminate()
            on_stop()
        elif stop_sent_at is not None and time.monotonic() - stop_sent_at > stop_seconds:
            process.kill()
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return
        on_line(line)
