"""A group that imports a command when it is called, not when its help is shown."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import click


class LazyGroup(click.Group):
    """A group of commands that are each in the module of its name below a place, or in another."""

    commands_of: ClassVar[Mapping[str, str]] = {}  # Command -> its line in the help
    modules_of: ClassVar[Mapping[str, str]] = {}  # Command -> its module, where that is another
    place: ClassVar[str] = "etui.cli."  # Begin of the names of the modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self.commands_of)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None for an unknown name."""
        if cmd_name not in self.commands_of:
            return None
        module = importlib.import_module(self.place + self.modules_of.get(cmd_name, cmd_name))
        command: Any = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.commands_of.items()))
