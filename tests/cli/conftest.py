"""Run the real command line."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from etui.cli.main import run as run_etui

Etui = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def etui(etui_home: Path) -> Etui:
    """``etui("ask", "Why?")`` runs the command with the test's folders; models are opt-in.

    It runs in this process; what a signal, a crash or the loader decides needs a process of its
    own.
    """

    def run(
        *args: str, models: Path | None = None, stdin: bytes = b"", env: Sequence[str] = ()
    ) -> CompletedProcess[str]:
        out, err = io.BytesIO(), io.BytesIO()
        with pytest.MonkeyPatch.context() as patch:
            for pair in (*env, *([] if models is None else [f"ETUI_MODELS={models}"])):
                patch.setenv(*pair.split("=", 1))
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            for name, raw in (("stdout", out), ("stderr", err)):
                patch.setattr(sys, name, io.TextIOWrapper(raw, "utf-8", write_through=True))
            code = int(run_etui(args))
            return CompletedProcess(args, code, out.getvalue().decode(), err.getvalue().decode())

    return run
