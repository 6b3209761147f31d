"""Write docs/cli.md from ``--help``: ``python docs/make_cli.py``; tests/test_docs.py checks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from etui.cli.main import cli

WIDTH = 100
HEAD = """# The command line

Made from `--help` by `python docs/make_cli.py`, not edited by hand. `etui COMMAND --help` prints
the same in the terminal.
"""


def render() -> str:
    """Return the help of every command as Markdown."""
    return HEAD + "".join(_sections(cli, "etui", 2))


def _sections(command: click.Command, path: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=path, max_content_width=WIDTH, terminal_width=WIDTH)
    heading = "#" * min(level, 4)
    yield f"\n{heading} `{path}`\n\n```\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _sections(inner, f"{path} {name}", level + 1)


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(render(), encoding="utf-8")
