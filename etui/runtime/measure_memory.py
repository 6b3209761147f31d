"""Measure the speed of this machine's memory once, in a short process, and keep it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from etui.codec import from_document
from etui.errors import EtuiError
from etui.models.memory_speed import MemorySpeed, load_memory_speed, save_memory_speed

if TYPE_CHECKING:
    from collections.abc import Callable

    from etui.config.config import Config

_TIMEOUT_SECONDS = 20.0
"""It takes less than a second; more on a machine that is busy with other programs."""


def command(threads: int) -> list[str]:
    """Return the command line of the process that measures."""
    return [sys.executable, "-m", "etui.models.memory_speed", str(threads)]


def find_memory_speed(
    config: Config, threads: int, is_busy: Callable[[], bool]
) -> MemorySpeed | None:
    """Return the speed of this machine's memory, measured if it is not known yet.

    One that was measured on a busy machine is measured again, see :meth:`MemorySpeed.replaces`.

    Args:
        is_busy: Whether an answer runs: nothing is measured then, and a measurement during which
            one began is discarded.

    Returns:
        The speed; None if it is not known and an answer runs.

    Raises:
        EtuiError: It cannot be measured, or not be kept; the message says why.
    """
    kept = load_memory_speed(config)
    if (kept is not None and not kept.busy) or is_busy():
        return kept
    speed = _measure(threads)
    if is_busy():
        return kept
    if not speed.replaces(kept):
        return kept
    save_memory_speed(config, speed)
    return speed


def _measure(threads: int) -> MemorySpeed:
    try:
        done = subprocess.run(
            command(threads),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        what = f"measuring the memory took more than {_TIMEOUT_SECONDS:.0f} s"
        raise EtuiError(what, "try again while no other program runs") from error
    except OSError as error:
        raise EtuiError(f"cannot measure the memory: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        what, fix = (lines[-1] if lines else f"exit code {done.returncode}"), ""
        if len(lines) > 1 and lines[-2].startswith("etui: "):
            what, fix = lines[-2].removeprefix("etui: "), lines[-1]
        raise EtuiError(f"the speed of the memory is unknown: {what}", fix)
    try:
        return from_document(MemorySpeed, json.loads(done.stdout), extra="ignore")
    except ValueError as error:
        raise EtuiError(f"the speed of the memory cannot be read: {error}") from error
