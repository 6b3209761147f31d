"""Every number of the command line is finite and bounded, and every text is text."""

from __future__ import annotations

import io
import os
import sys
import time
from itertools import product

import click
import pytest

from etui.cli.main import run
from etui.cli.param_types import FiniteNumber, Text, WholeNumber
from etui.errors import ExitCode
from tests.contract.commands import Path, walk

NO_NUMBERS = ("nan", "inf", "-inf", "1e400", "9" * 400, "9" * 5000, "\udcff", "", "1\udcff")
SURROGATES = ("\udcff", "a\ud800b")
WORDS = ("nan", "-inf", "1e400", "9" * 400, "9" * 5000, "\udcff", "0x10", "²", "a\nb", "\x1b[31m")
"""What is no number, or is one that nobody can use, where text is expected."""

Case = tuple[Path, click.Command, click.Parameter]

CASES = [
    (path, command, param)
    for path, command in walk()
    for param in command.params
    if param.type is not click.UNPROCESSED  # the words of another program
]
NUMBERS = [case for case in CASES if isinstance(case[2].type, click.IntRange | click.FloatRange)]
TEXTS = [
    case
    for case in CASES
    if not isinstance(case[2].type, click.Path | click.Choice | click.types.BoolParamType)
    and case not in NUMBERS
]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """A command that takes the value after all writes its files into a folder of the test."""
    monkeypatch.chdir(tmp_path)


def name_of(case):
    path, _, param = case
    return " ".join(("etui", *path, param.opts[0]))


def line(case, value):
    """A command line with the value, and a word for everything else that is required."""
    path, command, param = case
    words = [
        "word"
        for other in command.params
        if other.required and other is not param and isinstance(other, click.Argument)
    ]
    if isinstance(param, click.Argument):
        return [*path, "--", *words, value]
    return [*path, f"{param.opts[-1]}={value}", *words]


def check_refused(args, capsys):
    """The value is refused with one line, before anything else happens."""
    assert run(args) == ExitCode.USAGE, args
    out, err = capsys.readouterr()
    assert out == ""
    reasons = [line for line in err.splitlines() if line.startswith(("Error: ", "etui: "))]
    assert len(reasons) == 1, err
    assert err.splitlines()[-1] == reasons[0] or reasons[0].startswith("etui: ")
    assert len(reasons[0]) < 300
    assert "internal error" not in err
    assert "Traceback" not in err


def test_every_number_and_every_text_has_a_type_of_etui():
    others = (click.Path, click.Choice, click.types.BoolParamType)
    known = (WholeNumber, FiniteNumber, Text, *others)
    foreign = [name_of(case) for case in CASES if not isinstance(case[2].type, known)]
    assert foreign == []
    for case in NUMBERS:
        assert case[2].type.min is not None, name_of(case)
        assert case[2].type.max is not None, name_of(case)
    assert len(NUMBERS) > 20
    assert len(TEXTS) > 40


def by_command(cases):
    """One test a command, and not one an option, of which there are four hundred."""
    found = {}
    for case in cases:
        found.setdefault(" ".join(("etui", *case[0])), []).append(case)
    return pytest.mark.parametrize("cases", found.values(), ids=found)


@by_command(NUMBERS)
def test_no_option_takes_what_is_no_number(cases, capsys):
    for case in cases:
        for value in NO_NUMBERS:
            check_refused(line(case, value), capsys)


@by_command(TEXTS)
def test_no_option_takes_bytes_that_are_no_text(cases, capsys):
    for case in cases:
        for value in SURROGATES:
            check_refused(line(case, value), capsys)


@by_command(
    case for case in CASES if case not in NUMBERS and not getattr(case[2], "is_flag", False)
)
def test_no_text_is_a_fault_in_etui(cases, capsys, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setenv("EDITOR", "true")
    # A server that takes the value begins to serve, and would not end.
    monkeypatch.setattr("etui.server.run._run", lambda *_: None)
    for case, value in product(cases, WORDS):
        args = line(case, value)
        code = run(args)
        out, err = capsys.readouterr()
        # The exit codes of the command that it runs are those of a shell.
        codes = {*ExitCode, 126, 127} if case[0] == ("power", "run") else {*ExitCode}
        assert code in codes, args
        assert "internal error" not in err, args
        assert "Traceback" not in out + err, args


@pytest.mark.parametrize(
    "args",
    [
        ("logs", "list", "--limit", str(2**63)),
        ("logs", "loads", "--limit", str(2**64)),
        ("logs", "list", "--since", "9" * 400),
        ("logs", "list", "--since", "0001-01-01T00:00:00+14:00"),
        ("logs", "list", "--since", "9999-12-31T23:59:59-14:00"),
        ("power", "export", "--listen", "127.0.0.1:²"),
        ("power", "export", "--listen", "127.0.0.1:" + "9" * 5000),
        ("calibrate", "smollm2-135m", "--grid", "9" * 400 + "x1"),
    ],
    ids=lambda args: " ".join(args)[:60].encode("ascii", "backslashreplace").decode(),
)
def test_what_was_a_fault_or_no_limit_is_refused(args, capsys):
    assert run(args) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "internal error" not in err


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000])
def test_the_id_of_a_turn_may_be_any_word(value, capsys):
    assert run(["logs", "show", value]) in (ExitCode.FAILED, ExitCode.USAGE)
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_may_have_a_name_that_is_no_text(capfd, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.svg")
    assert run(["curves", "--svg", name]) == ExitCode.FAILED
    assert "no operating curve" in capfd.readouterr().err
