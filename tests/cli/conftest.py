"""Run the real command line."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from etui.cli.main import run
from etui.errors import ExitCode
from tests.support.command import run_here


def check(done, code=ExitCode.DONE):
    """A finished process, if it ended with this code (None: any) and without a traceback."""
    assert code in (None, done.returncode), done.stderr
    assert "Traceback" not in done.stderr
    return done


@dataclass
class Shell:
    """Runs commands in this process and checks their exit codes."""

    capsys: pytest.CaptureFixture[str]

    def run(self, *words, code=ExitCode.DONE):
        """What the command printed, as ``out`` and ``err``; a code of None may be any."""
        found = run(words)
        shown = self.capsys.readouterr()
        assert code in (None, found), shown
        return shown

    def out(self, *words, code=ExitCode.DONE):
        return self.run(*words, code=code).out

    def err(self, *words, code=ExitCode.DONE):
        return self.run(*words, code=code).err

    def json(self, *words, code=ExitCode.DONE):
        return json.loads(self.out(*words, code=code))


@pytest.fixture
def cli(capsys):
    """``cli.json("models", "list", "--json")`` is what the command prints."""
    return Shell(capsys)


@pytest.fixture
def etui(etui_home):
    """``etui("ask", "Why?")`` runs the command with the test's folders; models are opt-in."""

    def run_etui(*args, models=None, stdin=b"", env=(), code=ExitCode.DONE):
        environ = dict(pair.split("=", 1) for pair in env)
        if models is not None:
            environ["ETUI_MODELS"] = str(models)
        return check(run_here(*args, stdin=stdin, **environ), code)

    return run_etui
