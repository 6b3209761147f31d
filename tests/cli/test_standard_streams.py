"""Standard output on a full disk or closed: one line on standard error, exit code 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from etui.cli.main import run
from etui.errors import ExitCode
from etui.log.writer import TurnWriter

FULL = Path("/dev/full")
NO_SPACE = "etui: cannot write to standard output: No space left on device\n"

COMMANDS = [
    ("--version",),
    ("--help",),
    ("logs", "--help"),
    ("doctor",),
    ("doctor", "--json"),
    ("logs", "list"),
    ("logs", "list", "--json"),
    ("logs", "search", "joule"),
    ("logs", "show", "last"),
    ("logs", "show", "last", "--json"),
    ("logs", "totals"),
    ("logs", "loads", "--json"),
    ("logs", "export"),
    ("logs", "export", "--format", "csv"),
    ("logs", "path"),
    ("models", "list"),
    ("models", "info", "smollm2-135m"),
    ("models", "path"),
    ("policy", "list"),
    ("policy", "show", "balanced"),
    ("policy", "check", "balanced"),
    ("policy", "schema"),
    ("policy", "test"),
    ("policy", "explain", "Why?"),
    ("policy", "diff", "balanced", "best"),
    ("policy", "new", "mine"),
    ("policy", "replay"),
    ("power", "--seconds", "0.1"),
    ("power", "--seconds", "0.1", "--json"),
    ("power", "--seconds", "0.1", "--jsonl"),
    ("power", "selftest", "--seconds", "0.1"),
    ("power", "export", "--seconds", "0.1"),
    ("stats",),
    ("stats", "--json"),
]


@pytest.fixture
def logged(config, make_turn):
    with TurnWriter(config) as log:
        log.save_turn(make_turn(1))


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
@pytest.mark.usefixtures("logged")
def test_a_full_disk_is_told_in_one_line(args, capsys, monkeypatch):
    with FULL.open("w") as full:  # which fails to close if it still holds something
        monkeypatch.setattr(sys, "stdout", full)
        assert run(args) == ExitCode.FAILED
    assert capsys.readouterr().err.endswith(NO_SPACE)


@pytest.mark.parametrize("args", [(), ("ask", "Why?"), ("doctor",)], ids=" ".join)
def test_a_closed_output_is_told_in_one_line(args, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run(args) == ExitCode.FAILED
    assert capsys.readouterr().err == "etui: standard output is closed\n"


def shell(command, *python):
    words = " ".join((sys.executable, *python, "-m", "etui"))
    return subprocess.run(
        ["/bin/sh", "-c", f"{words} {command}"], capture_output=True, timeout=120, check=False
    )


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("logs path >/dev/full", 1, NO_SPACE),
        ("--version >/dev/full", 1, NO_SPACE),
        ("logs path >&-", 1, "etui: standard output is closed\n"),
        ("--help >&-", 1, "etui: standard output is closed\n"),
        (">&-", 1, "etui: standard output is closed\n"),
        ("logs path 1</dev/null", 1, "etui: cannot write to standard output: Bad file descriptor"),
        ("logs path >/dev/full 2>/dev/full", 1, ""),
        ("logs path >&- 2>&-", 1, ""),
        ("logs show x 2>/dev/full", 1, ""),
        ("logs show x 2>&-", 1, ""),
        ("logs list --limit nan 2>/dev/full", 2, ""),
        ("logs list --limit nan 2>&-", 2, ""),
        ("models path <&- >/dev/null 2>&-", 0, ""),
    ],
)
@pytest.mark.parametrize("python", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_the_process_ends_with_the_code_of_the_command(command, code, err, python):
    done = shell(command, *python)
    assert done.returncode == code, done
    shown = done.stderr.decode()
    assert shown.startswith(err)
    assert shown.count("\n") == bool(err)


def test_a_name_that_is_no_text_is_printed_with_backslashes(etui_home, monkeypatch):
    monkeypatch.setenv("ETUI_MODELS", os.fsdecode(os.fsencode(etui_home) + b"/\xff"))
    monkeypatch.setenv("PYTHONUTF8", "1")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    done = shell("models path")
    assert done.returncode == 0, done
    assert done.stdout.endswith(b"\\udcff\n")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_recording_on_a_full_disk_is_told(tmp_path, monkeypatch, cli):
    monkeypatch.setattr(Path, "open", lambda *_, **__: open(FULL, "w"))  # noqa: SIM115
    out, err = cli.run(
        "power", "record", str(tmp_path / "trace"), "--seconds", "0.1", code=ExitCode.FAILED
    )
    assert err.startswith(f"etui: cannot write {tmp_path / 'trace'}: No space left on device\n")
    assert out == ""
