"""Write docs/etui.1 from ``--help``: ``python docs/make_man.py``; tests/test_docs.py checks it.

The page is one for all commands and has no date, so that it changes only with the help.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from etui import __version__
from etui.cli.main import cli
from etui.errors import ExitCode

_EXIT_CODES = {
    ExitCode.DONE: "The command succeeded.",
    ExitCode.FAILED: "The command failed.",
    ExitCode.USAGE: "Wrong usage, or an invalid file.",
    ExitCode.PARTIAL: "Interrupted part-way; finished work is kept.",
    ExitCode.GATE: "A limit or gate that the user set was not met.",
}
_VARIABLES = {
    "ETUI_HOME": "Folder of config.yaml, the policies, the log etui.db and log files. "
    "Default: the platform's data folder.",
    "ETUI_MODELS": "Folder of the model files. Default: models in ETUI_HOME.",
    "ETUI_SYSFS": "The sysfs tree that the meter reads. Default: /sys.",
    "ZEUSD_SOCK_PATH": "The socket of a running zeusd, which sets power limits of GPUs.",
    "ZEUSD_TOKEN": "The token of a zeusd that requires one.",
}


def render() -> str:
    """Return the manual page, in the man macros of roff."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    context = _open_context(cli, "etui")
    summary, *description = _paragraphs(cli)
    yield '.\\" Made from --help by `python docs/make_man.py`, not edited by hand.'
    yield f'.TH ETUI 1 "" "etui {__version__}" "User Commands"'
    yield from (".SH NAME", f"etui \\- {_escape(summary.rstrip('.'))}")
    yield from (".SH SYNOPSIS", *_format_usage(context))
    yield from (".SH DESCRIPTION", *_format_text([summary, *description]))
    yield from (".SH OPTIONS", *_format_options(context))
    yield ".SH COMMANDS"
    for command, inner in _walk(cli, context):
        yield f".SS {_escape(inner.command_path)}"
        yield from _format_usage(inner)
        yield from _format_text(_paragraphs(command))
        yield from _format_options(inner)
    yield ".SH EXIT STATUS"
    for code, meaning in _EXIT_CODES.items():
        yield from (".TP", f".B {int(code)}", _escape(meaning))
    yield ".SH ENVIRONMENT"
    for name, meaning in _VARIABLES.items():
        yield from (".TP", f".B {name}", _escape(meaning))


def _open_context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, max_content_width=100)


def _walk(
    group: click.Group, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield every command below a group with its context, groups before their commands."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = _open_context(command, name, context)
        yield command, inner
        if isinstance(command, click.Group):
            yield from _walk(command, inner)


def _paragraphs(command: click.Command) -> list[str]:
    """Split a help text; a paragraph that keeps its lines begins with a backspace, as in click."""
    return inspect.cleandoc(command.help or "").split("\n\n")


def _format_usage(context: click.Context) -> Iterator[str]:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    yield f".B {_escape(context.command_path)}"
    if pieces:
        yield _escape(pieces)


def _format_text(paragraphs: list[str]) -> Iterator[str]:
    for text in paragraphs:
        yield ".PP"
        if text.startswith("\b"):
            yield from (".nf", *map(_escape, text.splitlines()[1:]), ".fi")
        else:
            yield _escape(" ".join(text.split()))


def _format_options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            names, meaning = record
            yield from (".TP", f"\\fB{_escape(names)}\\fP", _escape(meaning))


def _escape(text: str) -> str:
    """Escape what roff would interpret: backslashes, hyphens, and a control at a line's start."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped)


if __name__ == "__main__":
    Path(__file__).with_name("etui.1").write_text(render(), encoding="utf-8")
