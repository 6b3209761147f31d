"""Nothing that is not etui's own reaches the terminal as a control sequence."""

from __future__ import annotations

import io
import json
import sys

import click
import pytest

from etui.cli.main import run
from etui.cli.output import print_json
from etui.cli.streams import SafeStream, control_stream, data_stream, safe_streams
from tests.contract.tiny_model import write_tiny_model
from tests.models.test_gguf import string

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e"
UNSAFE = "\x1b\x07\x9b\u202e"


def assert_safe(text):
    assert not set(UNSAFE) & set(text)


@pytest.fixture
def hostile_model(config):
    config.models_dir.mkdir()
    changes = {
        "general.architecture": (8, string(f"llama{HOSTILE}")),
        "general.name": (8, string(HOSTILE)),
        "tokenizer.chat_template": (8, string(f"{{{{ raise_exception('{HOSTILE}') }}}}")),
    }
    return write_tiny_model(config.models_dir / f"a{HOSTILE}\nb.gguf", changes=changes)


def test_a_stream_replaces_control_characters():
    raw = io.StringIO()
    stream = SafeStream(raw)
    assert stream.write("a\x1b[31m\n") == 7
    stream.writelines(["b\x07", "\ud800"])
    assert raw.getvalue() == "a␛[31m\nb␇\N{REPLACEMENT CHARACTER}"
    assert stream.isatty() is False


def test_click_does_not_go_around_the_stream(monkeypatch):
    """On a Windows console, and where ASCII is set, click takes the buffer below."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", "backslashreplace"))
    with safe_streams():
        click.echo(HOSTILE)
        sys.stdout.flush()
    assert_safe(raw.getvalue().decode())


def test_the_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with safe_streams():
        print(HOSTILE)
        click.echo(HOSTILE, err=True)
        print("\x1b[0m", file=control_stream())
    assert (sys.stdout, sys.stderr) == before
    captured = capsys.readouterr()
    assert_safe(captured.err)
    assert captured.out.endswith("\x1b[0m\n")
    assert_safe(captured.out.removesuffix("\x1b[0m\n"))


def test_a_closed_stream_stays_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with safe_streams():
        assert sys.stdout is None


def test_data_is_unchanged_in_a_pipe_and_safe_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for raw, shown in ((io.StringIO(), HOSTILE), (Terminal(), None)):
        monkeypatch.setattr(sys, "stdout", raw)
        with safe_streams():
            data_stream().write(HOSTILE)
        assert shown is None or raw.getvalue() == shown
        if shown is None:
            assert_safe(raw.getvalue())


def test_json_keeps_its_value(capsys):
    with safe_streams():
        print_json({"name": HOSTILE, "lone": "\ud800", "plain": "é日"})
    out = capsys.readouterr().out
    assert_safe(out)
    assert "é日" in out
    assert json.loads(out) == {"name": HOSTILE, "lone": "\ud800", "plain": "é日"}


@pytest.mark.parametrize(
    "command",
    [
        ("models", "list"),
        ("models", "list", "--json"),
        ("models", "verify"),
        ("models", "info", "{name}"),
        ("models", "info", "{name}", "--json"),
        ("models", "info", "x{name}"),
        ("policy", "show", "x{name}"),
        ("ask", "x", "--model", "{name}"),
        ("ask", "x", "--model", "x{name}"),
        ("ask", "x", "--{name}"),
        ("{name}",),
        ("doctor",),
    ],
)
def test_no_command_hands_on_control_characters(hostile_model, command, capfd):
    run([part.replace("{name}", hostile_model.stem) for part in command])
    captured = capfd.readouterr()
    assert_safe(captured.out)
    assert_safe(captured.err)
    assert "Traceback" not in captured.err


def test_a_file_name_with_a_line_break_is_one_row(hostile_model, cli):
    rows = [line for line in cli.out("models", "list").splitlines() if "owned" in line]
    assert len(rows) == 1
    assert "1.46 MB" in rows[0]
