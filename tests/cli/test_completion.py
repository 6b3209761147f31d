"""``etui completion``: the scripts, and what a shell gets from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from etui.cli.main import run
from etui.errors import ExitCode

CHECKOUT = Path(__file__).parent.parent.parent


def complete(line):
    """What fish would offer at the end of a line; nothing may be printed as an error."""
    word = "" if line.endswith(" ") else line.split()[-1]
    done = subprocess.run(
        [sys.executable, "-m", "etui"],
        env={
            **os.environ,
            "_ETUI_COMPLETE": "fish_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": word,
            "PYTHONPATH": str(CHECKOUT),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return [offer.partition(",")[2].partition("\t")[0] for offer in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell, cli):
    shown = cli.run("completion", shell)
    assert f"_ETUI_COMPLETE={shell}_complete" in shown.out
    assert shown.err == ""


def test_a_shell_without_a_script_is_refused(cli):
    assert "'bash', 'zsh', 'fish'" in cli.err("completion", "tcsh", code=ExitCode.USAGE)


def test_commands_options_and_values_are_offered():
    assert {"ask", "bench", "completion", "policy"} <= set(complete("etui "))
    assert complete("etui do") == ["doctor"]
    assert "replay" in complete("etui policy ")
    assert complete("etui policy replay --sp") == ["--split"]
    assert complete("etui policy replay --split ") == ["test", "val", "dev"]


def test_a_command_that_does_not_exist_is_no_error_while_a_line_is_completed():
    assert complete("etui asks --") == complete("etui --")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_with_the_script(tmp_path, capsys):
    assert run(["completion", "bash"]) == ExitCode.DONE
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    program = tmp_path / "etui"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m etui "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    lines = [
        f"source {script}",
        "COMP_WORDS=(etui logs ex) COMP_CWORD=2",
        "_etui_completion etui",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)],
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "export\n"
    assert done.stderr == ""
