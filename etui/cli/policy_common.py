"""What the commands of ``etui policy`` share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from etui.text.tables import format_table

if TYPE_CHECKING:
    from etui.config import Config
    from etui.models import Catalogue
    from etui.routing.policies import Checked


def load() -> tuple[Config, Catalogue, Callable[[str], bool]]:
    """The settings, the models there are, and a test which of them are on this machine."""
    from etui.choice import on_this_machine
    from etui.config_load import load_config
    from etui.models import load_catalogue

    config = load_config()
    catalogue = load_catalogue(config)
    return config, catalogue, on_this_machine(config, catalogue)


def say_problems(checked: Checked) -> None:
    """Every error and warning on standard error, one a line."""
    for problem in checked.errors:
        click.echo(str(problem), err=True)
    for problem in checked.warnings:
        place = f"{problem.file}:{problem.line}:{problem.column}"
        click.echo(f"{place}: warning: {problem.message}", err=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under their heads on standard output, as wide as their widest cell."""
    for line in format_table(rows, header=head):
        click.echo(line)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
