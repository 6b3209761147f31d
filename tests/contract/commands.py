"""Every command of the command line, found by walking click's tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from tests.contract.internals import cli

Path = tuple[str, ...]


def walk(command: click.Command = cli, path: Path = ()) -> Iterator[tuple[Path, click.Command]]:
    """Every command with the words that call it, groups before what they hold."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


def path_of(args: Sequence[str]) -> Path:
    """The words of a command line that name the command."""
    command: click.Command = cli
    path: Path = ()
    for word in args:
        found = None
        if isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
        if found is None:
            return path
        command, path = found, (*path, word)
    return path


def json_options(command: click.Command) -> set[str]:
    """Those of ``--json`` and ``--jsonl`` that a command has."""
    options = {option for param in command.params for option in param.opts}
    return options & {"--json", "--jsonl"}
