"""Run the command line in this process, as a process of its own would."""

from __future__ import annotations

import io
import sys
from subprocess import CompletedProcess

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
