"""Run the real command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Etui = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def etui(etui_home: Path) -> Etui:
    """``etui("ask", "Why?")`` runs the command with the test's folders; models are opt-in."""

    def run(
        *args: str, models: Path | None = None, stdin: bytes = b"", env: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **dict(pair.split("=", 1) for pair in env)}
        if models is not None:
            environ["ETUI_MODELS"] = str(models)
        done = subprocess.run(
            [sys.executable, "-m", "etui", *args],
            input=stdin,
            capture_output=True,
            env=environ,
            timeout=120,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run
