"""``etui bench publish``: write a run as a folder for a public git repository."""

from __future__ import annotations

import re
from pathlib import Path

import click

from etui.cli.param_types import TEXT, text_option

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


def _parse_licence(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not _LICENCE.fullmatch(value):
        shown = repr(value if len(value) <= 20 else f"{value[:20]}...")
        raise click.BadParameter(f"{shown} is not an SPDX identifier like CC-BY-4.0", ctx, param)
    return value


@click.command()
@click.argument("name", type=TEXT, metavar="RUN")
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help="New folder, or that of an earlier publication of the same run.",
)
@text_option(
    "--license",
    "licence",
    default="CC-BY-4.0",
    show_default=True,
    callback=_parse_licence,
    metavar="SPDX",
    help="Licence of the results.",
)
@text_option(
    "--allow",
    multiple=True,
    metavar="WORD",
    help="A name or folder of this machine that is not private; repeatable.",
)
def publish(name: str, to: Path, licence: str, allow: tuple[str, ...]) -> None:
    """Write a run as a folder for a public git repository.

    It has the configuration, the results, the figures, every answer without its texts, the command
    that repeats the run, and checksums. Folders and names of this machine and its user, and serial
    numbers of GPUs, are removed, and the command refuses to write a file in which one is left.
    RUN is the run's folder, its id, or `last`.
    """
    from etui.bench.difficulty import DIFFICULTY, read_difficulty
    from etui.bench.folder import find_run, read_run
    from etui.bench.publish import find_private_data, publish_run
    from etui.bench.results import load_labels, load_precision
    from etui.bench.summary import summarise
    from etui.config.config import load_config
    from etui.datasets.suites import is_named_suite
    from etui.extras import require_extra

    require_extra("figures", "`etui bench publish`")
    config = load_config()
    run = find_run(name, config)
    recorded = read_run(run)
    private = find_private_data((config.home, config.models_dir, run))
    labels = load_labels(recorded.config, config)
    table = run / DIFFICULTY
    publish_run(
        recorded,
        to,
        summary=summarise(recorded.samples, recorded.config, labels, load_precision(run)),
        licence=licence,
        private=private,
        allowed=allow,
        difficulty=read_difficulty(table) if table.is_file() else None,
    )
    if not is_named_suite(recorded.config.suite):
        click.echo(
            f"note: {recorded.config.suite} is your own file: its subjects and right letters are "
            "in the folder",
            err=True,
        )
    click.echo(str(to))
