"""Run a scenario of etui commands in this process, on a simulated machine.

Started as a process of its own by ``machine.py``, because the dynamic loader reads
``LD_LIBRARY_PATH`` (the fake NVIDIA driver library) once. Reads a scenario as JSON from the file
named by the first argument and writes the result of each step to the file named by the second.

A CPU package, where the machine has one, is a powercap zone below ``ETUI_SYSFS``: a thread advances
its energy counter, and ``psutil.cpu_percent`` alternates between rest and full use, so that both
agree with each other. The recorded use of the CPUs is always that of rest.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import psutil

from etui.cli.main import run
from etui.config import machine
from etui.energy import sharing as cpu_watch

REST, FULL = 0.05, 0.95
IDLE_WATTS, LIMIT_WATTS = 10.0, 60.0
TICK_S = 0.005


class Package:
    """A CPU package that draws power by its use."""

    def __init__(self, counter: Path) -> None:
        self._file = os.open(counter, os.O_RDWR)
        self._joules = 1000.0
        self.use = REST
        threading.Thread(target=self._run, daemon=True).start()

    def next_use(self) -> float:
        """Percent of the interval that ends now; the next one has the other load."""
        ended = self.use
        self.use = FULL if ended == REST else REST
        return 100 * ended

    def _run(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(TICK_S)
            now = time.monotonic()
            watts = IDLE_WATTS + self.use * (LIMIT_WATTS - IDLE_WATTS)
            self._joules += watts * (now - before)
            before = now
            # A fixed width: a reader between two writes never sees half a number.
            os.pwrite(self._file, f"{round(self._joules * 1e6):015d}\n".encode(), 0)


class Watched(io.StringIO):
    """Standard output that keeps a copy of a file as it was after a number of lines."""

    def __init__(self, pattern: str, lines: int, target: Path) -> None:
        super().__init__()
        self._pattern, self._lines, self._target = pattern, lines, target

    def write(self, text: str) -> int:
        self._lines -= text.count("\n")
        if self._lines <= 0 and not self._target.exists():
            for found in Path().glob(self._pattern):
                shutil.copy(found, self._target)
        return super().write(text)


def perform(step: dict[str, Any]) -> dict[str, Any]:
    """Run one command line; its exit code and what it printed."""
    out, errors = io.StringIO(), io.StringIO()
    if watch := step.get("watch"):
        out = Watched(watch["pattern"], watch["lines"], Path(watch["target"]))
    code: int | str
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            code = int(run(step["args"]))
        except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
            code = traceback.format_exc()
    return {"code": code, "out": out.getvalue(), "err": errors.getvalue()}


def main(scenario: Path, results: Path) -> None:
    """Run every step, in order."""
    document = json.loads(scenario.read_text(encoding="utf-8"))
    package = Package(Path(document["package"])) if document["package"] else None
    cpu_watch.read_cpu_seconds = lambda: (REST * time.monotonic(), time.monotonic())
    psutil.cpu_percent = lambda *args, **more: package.next_use() if package else 100 * REST
    machine._CPUINFO = Path(document["cpuinfo"])
    os.chdir(document["folder"])
    found = {}
    for step in document["steps"]:
        if package:
            package.use = REST
        began = time.monotonic()
        found[step["name"]] = perform(step)
        found[step["name"]]["seconds"] = time.monotonic() - began
    results.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
