"""Run the real command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.command import run_here

Etui = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def etui(etui_home: Path) -> Etui:
    """``etui("ask", "Why?")`` runs the command with the test's folders; models are opt-in."""

    def run(
        *args: str, models: Path | None = None, stdin: bytes = b"", env: Sequence[str] = ()
    ) -> CompletedProcess[str]:
        environ = dict(pair.split("=", 1) for pair in env)
        if models is not None:
            environ["ETUI_MODELS"] = str(models)
        return run_here(*args, stdin=stdin, **environ)

    return run
