"""Run the command line in this process, as a process of its own would."""

from __future__ import annotations

import io
import os
import signal
import sys
from subprocess import PIPE, CompletedProcess, Popen

import pytest

from etui.cli.main import run


def run_here(*args: str, stdin: bytes = b"", **environ: str) -> CompletedProcess[str]:
    """Run ``etui ARGS`` and catch what it prints; ``environ`` is added to the environment.

    It saves the second that a process takes to start. What a signal, a crash or the dynamic loader
    decides needs a process of its own.
    """
    out, err = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        for name, raw in (("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, io.TextIOWrapper(raw, "utf-8", write_through=True))
        code = int(run(args))
        return CompletedProcess(args, code, out.getvalue().decode(), err.getvalue().decode())


_ENDS = """
import os, signal, sys
from etui.cli import output
from etui.cli.main import run
print_line, left = output.print_json_line, int(sys.argv[1])
def count(fields):
    global left
    print_line(fields)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), int(sys.argv[2]))
output.print_json_line = count
sys.exit(run(sys.argv[3:]))
"""


def start_and_signal(*args: str, lines: int, number: signal.Signals, **environ: str) -> Popen[str]:
    """Start ``etui ARGS`` as a process that gets a signal when it has printed JSON lines.

    It sends the signal itself: one from here may come when a quick machine has done all.
    """
    words = [sys.executable, "-c", _ENDS, str(lines), str(int(number)), *args]
    return Popen(words, stdout=PIPE, stderr=PIPE, env={**os.environ, **environ}, text=True)
