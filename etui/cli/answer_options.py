"""The options of ``policy fit`` and ``policy replay`` that name graded answers and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.cli.param_types import TEXT, path_option, text_option

if TYPE_CHECKING:
    from etui.config.config import Config


def split_names(
    names: Sequence[str], runs: Sequence[str], config: Config
) -> tuple[list[str], list[Path]]:
    """Split arguments into names of policies and folders of runs.

    With ``--runs A``, further runs may follow as plain arguments.

    Raises:
        UsageError: A run does not exist.
    """
    from etui.bench.folder import find_run, runs_dir
    from etui.measure.folder import CONFIG

    policies: list[str] = []
    further: list[str] = []
    for name in names:
        places = (Path(name), runs_dir(config) / name)
        is_run = bool(runs) and any((place / CONFIG).is_file() for place in places)
        (further if is_run else policies).append(name)
    return policies, [find_run(run, config) for run in (*runs, *further)]


policies_argument = click.argument("names", type=TEXT, nargs=-1, metavar="[POLICY]")

outcomes_option = path_option(
    "--outcomes",
    metavar="FILE",
    help="CSV file with the columns subject,row,ARM,ARM...; 1 where the arm was right. Costs in "
    "ARM:cost.",
)

runs_option = text_option("--runs", multiple=True, metavar="RUN", help="Bench run; repeatable.")

data_option = path_option(
    "--data", metavar="DIR", help="Folder of MMLU's files, for the texts of the questions."
)

split_option = click.option(
    "--split",
    type=click.Choice(["test", "val", "dev"]),
    default="test",
    show_default=True,
    help="Split of MMLU that the rows of --outcomes refer to.",
)
