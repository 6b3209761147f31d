"""Killed before any single file operation, the limits are as found after the next start.

Kills at random moments (benchmarks/power_limits.py) hardly ever hit the microseconds between the
journal and the driver. Here a process dies at its first operation on a file, the next one at its
second, and so on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etui.energy.power_limits.hold import LimitHold, restore_left_over
from tests.support.power_limits import read_package, write_amd_gpu, write_package

_WRITING = os.O_WRONLY | os.O_RDWR


def die_at(moment: int, folder: Path) -> None:
    """Let this process die before it writes, renames or removes files for the given time."""
    left = moment

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        if not writes and event not in ("os.rename", "os.remove"):
            return
        if str(folder) in str(args[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def survives(moment: int, folder: Path, work: Callable[[], None]) -> bool:
    """Run work in a process that dies at a moment; return whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            die_at(moment, folder)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.waitstatus_to_exitcode(status) == 0
    return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_is_restored(open_limits, config, sysfs, tmp_path):
    package, card = write_package(sysfs), write_amd_gpu(sysfs) / "power1_cap"

    def read() -> tuple[float, ...]:
        return (*read_package(package), int(card.read_text()) / 1e6)

    def work() -> None:
        with LimitHold(config, open_limits()) as hold:
            hold.apply("package:0", 40)
            hold.apply("gpu:0000:03:00.0", 120)
            hold.apply("package:0", 65)

    found = read()
    changed = []
    for moment in range(1, 100):
        if survives(moment, tmp_path, work):
            break
        changed.append(read() != found)
        restore_left_over(config, open_limits=lambda *_: open_limits())
        assert read() == found, moment
        assert not config.power_limits_file.exists(), moment
    assert read() == found
    assert not list(config.home.glob(".power_limits.json.*.tmp")), "left by a cut-off write"
    # Three changes, each with two new journals (written, renamed), set five values; at the end the
    # package is as found already.
    lock, journals, values, restored, removed = 1, 3 * 4, 5, 1, 1
    assert len(changed) >= lock + journals + values + restored + removed
    assert sum(changed) > len(changed) // 2
